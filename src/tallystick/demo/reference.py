"""The same training in one plain process, from the same blobs, with nobody else involved: prints its final root.

Run as `python -m tallystick.demo.reference BLOBS SPEC`.
"""

import sys

from tallystick.canon.encoding import to_json
from tallystick.network.blobs import BlobStore
from tallystick.network.following import Terms, fetch_training
from tallystick.network.running import one_torch_thread
from tallystick.program.spec import MAX_SPEC_BYTES, decode_spec
from tallystick.proof.recording import record


def main(blobs: str, name: str) -> None:
    one_torch_thread()
    store = BlobStore(blobs)
    spec = decode_spec(store.get(name, MAX_SPEC_BYTES))
    training, initial = fetch_training(store, Terms(name, spec.initial_root, spec.steps, spec.micro_batches))
    _, entries = record(training, initial)
    sys.stdout.buffer.write(to_json({"root": entries[-1].root}))


if __name__ == "__main__":
    main(*sys.argv[1:])
