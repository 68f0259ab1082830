"""What a proof claims about itself, checked without re-executing a step.

These checks are cheap and say exactly what is wrong, so they come first. They prove nothing about the training: only
re-execution does.
"""

from collections.abc import Iterator

from tallystick.program.optimizers import Tensors
from tallystick.proof import manifest as m
from tallystick.proof.commitment import commitment_of
from tallystick.proof.directory import Proof, links, opened_transcript, read_state, scan_segments
from tallystick.proof.roots import model_root, records_root, state_root, state_root_of, tensor_digests
from tallystick.proof.segments import Segment
from tallystick.proof.transcript import extend
from tallystick.proof.verdict import Difference


def false_claim(proof: Proof, train: Tensors, initial: Tensors, test: Tensors | None) -> Difference | None:
    """The first claim of `proof` that is false by itself; each check may rely on those before it.

    Raises:
        Refused: a file cannot be read.
    """
    return next(_false_claims(proof, train, initial, test), None)


def _false_claims(proof: Proof, train: Tensors, initial: Tensors, test: Tensors | None) -> Iterator[Difference]:
    yield from _wrong_commitment(proof)
    yield from _wrong_names(proof, train, initial, test)
    yield from _broken_chain(proof)


def _wrong_commitment(proof: Proof) -> Iterator[Difference]:
    """Fields of the commitment that repeat the specification's and differ, and a program that is another."""
    spec, found = proof.spec, proof.commitment
    wanted = commitment_of(spec, proof.spec_name, proof.program, segment=1)
    for field in ("spec", "program", "arithmetic", "profile", "data", "initial", "steps"):
        reason = f"the commitment and the specification differ in {field}"
        yield from _differs("wrong_commitment", reason, str(getattr(wanted, field)), str(getattr(found, field)))
    yield from _differs("wrong_program", "program.json is not the specified program", spec.program, proof.program_name)


def _wrong_names(proof: Proof, train: Tensors, initial: Tensors, test: Tensors | None) -> Iterator[Difference]:
    """Tensors that are not what the specification names."""
    spec = proof.spec
    found = state_root(initial, 0)
    reason = "initial.safetensors is not the specified initial state"
    yield from _differs("wrong_initial_state", reason, spec.initial_root, found)
    yield from _wrong_records("wrong_train_data", m.TRAIN, spec.train.root, train)
    if spec.test is not None and test is not None:
        yield from _wrong_records("wrong_test_data", m.TEST, spec.test.root, test)


def _wrong_records(code: str, name: str, expected: str, records: Tensors) -> Iterator[Difference]:
    yield from _differs(code, f"{name} does not hold the specified records", expected, records_root(records))


def _broken_chain(proof: Proof) -> Iterator[Difference]:
    """Where segments.jsonl, the transcript and the signed statement do not belong together."""
    segment: Segment | None = None
    with opened_transcript(proof) as transcript:
        for index, segment in enumerate(scan_segments(proof)):
            _, end = proof.commitment.bounds(index)
            if segment.step != end:
                reason = f"segments.jsonl: segment {index} ends after {segment.step} steps, the commitment says {end}"
                yield Difference("wrong_step", reason, end, None, str(end), str(segment.step), index)
            before, after = links(transcript, end - 1, end) if end > 1 else (proof.first_link, *links(transcript, 1, 1))
            link = extend(before, segment.entry).hex()
            reason = f"segment {index}: the transcript's link of step {end - 1} does not follow from what the step did"
            yield from _differs("broken_chain", reason, link, after.hex(), end - 1, index)
    assert segment is not None
    yield from _wrong_end(proof, segment, after.hex())


def _wrong_end(proof: Proof, last: Segment, link: str) -> Iterator[Difference]:
    """Where the signed statement or the final state is not the end of the last segment."""
    signed, step, index = proof.statement, proof.commitment.steps - 1, proof.commitment.segments - 1
    for what, expected, found in (("link", link, signed.link), ("final root", last.root, signed.root)):
        reason = f"the signed {what} is not the last segment's"
        yield from _differs("wrong_statement", reason, expected, found, step, index)
    digests = tensor_digests(read_state(proof, proof.commitment.steps))
    reason, root = f"{m.FINAL} is not the state that the last segment ends in", state_root_of(digests, step + 1)
    yield from _differs("wrong_final_state", reason, last.root, root, step, index)
    reason = f"the signed model is not that of {m.FINAL}"
    yield from _differs("wrong_statement", reason, model_root(digests), signed.model, step, index)


def _differs(
    code: str,
    reason: str,
    expected: str,
    found: str,
    step: int | None = None,
    segment: int | None = None,
) -> Iterator[Difference]:
    if expected != found:
        yield Difference(code, reason, step, None, expected, found, segment)
