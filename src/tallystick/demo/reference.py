"""The same training in one plain process, from the same blobs, with nobody else involved: prints its final root.

Run as `python -m tallystick.demo.reference BLOBS SPEC`.
"""

import sys

from tallystick.canon.encoding import to_json
from tallystick.network.blobs import BlobStore
from tallystick.network.following import Terms, fetch_training
from tallystick.network.running import one_torch_thread
from tallystick.program.spec import MAX_SPEC_BYTES, decode_spec
from tallystick.program.training import train_step
from tallystick.proof.roots import state_root


def main(blobs: str, name: str) -> None:
    one_torch_thread()
    store = BlobStore(blobs)
    spec = decode_spec(store.get(name, MAX_SPEC_BYTES))
    training, initial = fetch_training(store, Terms(name, spec.initial_root, spec.steps, spec.micro_batches))
    state = initial
    for step in range(spec.steps):
        state, _ = train_step(training, state, step)
    sys.stdout.buffer.write(to_json({"root": state_root(state, spec.steps)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
