"""Coverage-guided fuzzing of every decoder of untrusted bytes, by hand: needs the package `atheris`.

    PYTHONPATH=tests python -m fuzz.decoders NAME [SECONDS]     one of DECODERS, or "all", 30 seconds each

A decoder gives a value or raises Refused. Anything else, more than 2 GiB of memory or more than 10 seconds for one
input ends the run with that input. What is behind a signature is sealed first, so that the fuzzer gets past it.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["tallystick", "msgspec", "safetensors"]):
    from cryptography.hazmat.primitives.asymmetric import ec

    import cometbft_vectors
    from proof_samples import ATTACKER, sample
    from tallystick.canon.encoding import to_json
    from tallystick.canon.sealed import seal
    from tallystick.consensus.cometbft.messages import REQUESTS, unwrap, wrap
    from tallystick.errors import Refused
    from tallystick.ledger.genesis import load_genesis
    from tallystick.ledger.state import load_state
    from tallystick.ledger.transactions import open_transaction
    from tallystick.network.disputes import wire
    from tallystick.program.graph import decode_program
    from tallystick.program.spec import decode_spec, encode_spec
    from tallystick.program.tensors import from_blob, from_entries, to_blob, to_entries
    from tallystick.program.training import state_specs
    from tallystick.proof import commitment, manifest
    from tallystick.proof.attestation import open_envelope
    from tallystick.proof.dispute import messages
    from tallystick.proof.dispute.record import agreed_from, moves_from
    from tallystick.proof.segments import decode_segment
    from tallystick.proof.tolerant import record, state, tolerance

SPECS: Final = state_specs(sample().training.program)
PUBLIC: Final = ec.derive_private_key(7, ec.SECP256R1()).public_key()
Decode = Callable[[bytes], object]


def behind(domain: str, decode: Decode) -> Decode:
    """`decode` of what an attacker signed."""
    return lambda data: decode(seal(ATTACKER, domain, data))


DECODERS: Final[dict[str, Decode]] = {
    "abci-request": lambda data: unwrap(REQUESTS, data),
    "checkpoint": lambda data: state.decode_checkpoint(data, "fuzz"),
    "commitment": behind(commitment.DOMAIN, commitment.open_commitment),
    "entries": lambda data: from_entries(data, SPECS, "fuzz"),
    "envelope": lambda data: open_envelope(data, PUBLIC),
    "genesis": load_genesis,
    "ledger-state": load_state,
    "manifest": manifest.decode_manifest,
    "dispute-game": agreed_from,
    "dispute-moves": moves_from,
    "dispute-news": wire.news_from,
    "move": behind(messages.DOMAIN, messages.opened_move),
    "program": decode_program,
    "record-line": lambda data: record.decode_line(data, 1),
    "record-manifest": record.decode_manifest,
    "segment": decode_segment,
    "spec": decode_spec,
    "statement": behind(manifest.DOMAIN, manifest.open_statement),
    "tensors": lambda data: from_blob(data, SPECS, "fuzz"),
    "tensors-without-zeros": lambda data: from_blob(data, SPECS, "fuzz", zeros_left_out=True),
    "tolerance": tolerance.decode_tolerance,
    "transaction": behind("tallystick/chain/transaction", lambda data: open_transaction(data, "chain")),
}


def seeds() -> list[bytes]:
    """What honest provers and engines write, for the fuzzer to start from."""
    run = sample().run
    requests = [wrap(message) for message, _ in cometbft_vectors.REQUESTS]
    return [
        *requests,
        encode_spec(run.training.spec),
        run.program,
        to_json(sample().commitment()),
        to_blob(run.initial),
        to_entries(run.initial),
    ]


def fuzz(name: str, seconds: int) -> None:
    decode = DECODERS[name]

    def one(data: bytes) -> None:
        try:
            decode(data)
        except Refused:
            return

    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(seeds()):
            (Path(folder) / str(number)).write_bytes(data)
        limits = ["-rss_limit_mb=2048", "-timeout=10", f"-max_total_time={seconds}", "-max_len=65536", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", folder], one)
        atheris.Fuzz()


def main() -> None:
    name, seconds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 30
    if name != "all":
        fuzz(name, seconds)
        return
    for each in DECODERS:  # the fuzzer ends its process
        print(f"{each}:", flush=True)
        subprocess.run([sys.executable, "-m", "fuzz.decoders", each, str(seconds)], check=True)


if __name__ == "__main__":
    main()
