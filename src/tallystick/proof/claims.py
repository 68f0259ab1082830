"""What a proof claims about itself, checked without re-executing a step.

These checks are cheap and say exactly what is wrong, so they come first. They prove nothing about the training: only
re-execution does.
"""

from collections.abc import Iterator

from tallystick.program.optimizers import Tensors
from tallystick.proof.directory import Proof
from tallystick.proof.roots import records_root, state_root, tensor_digests
from tallystick.proof.transcript import extend, start
from tallystick.proof.verdict import Difference


def false_claim(proof: Proof) -> Difference | None:
    """The first claim of `proof` that is false by itself; each check may rely on those before it."""
    return next(_false_claims(proof), None)


def _false_claims(proof: Proof) -> Iterator[Difference]:
    yield from _wrong_names(proof)
    yield from _wrong_steps(proof)
    yield from _broken_chain(proof)
    yield from _wrong_end(proof)


def _wrong_names(proof: Proof) -> Iterator[Difference]:
    """Files that are not what the specification names."""
    spec = proof.spec
    yield from _differs("wrong_spec", "the manifest names another spec.json", proof.spec_name, proof.manifest.spec)
    yield from _differs("wrong_program", "program.json is not the specified program", spec.program, proof.program_name)
    initial = state_root(proof.initial, 0)
    yield from _differs(
        "wrong_initial_state", "initial.safetensors is not the specified initial state", spec.initial_root, initial
    )
    yield from _wrong_records("wrong_train_data", "train.safetensors", spec.train.root, proof.train)
    if spec.test is not None and proof.test is not None:
        yield from _wrong_records("wrong_test_data", "test.safetensors", spec.test.root, proof.test)


def _wrong_records(code: str, name: str, expected: str, records: Tensors) -> Iterator[Difference]:
    yield from _differs(code, f"{name} does not hold the specified records", expected, records_root(records))


def _wrong_steps(proof: Proof) -> Iterator[Difference]:
    steps, found = proof.spec.steps, len(proof.links)
    for position, link in enumerate(proof.links[:steps]):
        if link.entry.step != position:
            reason = f"transcript: the entry of step {position} says step {link.entry.step}"
            yield Difference("wrong_step", reason, position, None, str(position), str(link.entry.step))
    if found != steps:
        reason = f"transcript: {found} steps, the specification has {steps}"
        yield Difference("wrong_step_count", reason, min(found, steps), None, str(steps), str(found))


def _broken_chain(proof: Proof) -> Iterator[Difference]:
    chain = start(proof.spec_name, proof.spec.initial_root)
    for position, link in enumerate(proof.links):
        chain = extend(chain, link.entry)
        yield from _differs(
            "broken_chain", f"transcript: the chain breaks at step {position}", chain, link.chain, position
        )


def _wrong_end(proof: Proof) -> Iterator[Difference]:
    """Where the signed statement or the final state is not the transcript's last entry."""
    last, step = proof.links[-1], len(proof.links) - 1
    signed = proof.statement
    yield from _differs(
        "wrong_statement", "the signed chain hash is not the transcript's last", last.chain, signed.chain, step
    )
    yield from _differs(
        "wrong_statement", "the signed final root is not the transcript's last", last.entry.root, signed.root, step
    )
    for (name, value), expected in zip(tensor_digests(proof.final).items(), last.entry.tensors, strict=True):
        reason = f"final.safetensors: {name} is not the transcript's after the last step"
        yield from _differs("wrong_final_state", reason, expected, value.hex(), step, name)


def _differs(
    code: str, reason: str, expected: str, found: str, step: int | None = None, tensor: str | None = None
) -> Iterator[Difference]:
    if expected != found:
        yield Difference(code, reason, step, tensor, expected, found)
