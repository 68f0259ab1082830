"""Where an interrupted recording goes on: at the end of the last segment that is whole on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from tallystick.canon.hashing import blob_name
from tallystick.errors import Refused
from tallystick.program.graph import TensorSpec
from tallystick.program.optimizers import Tensors
from tallystick.program.tensors import blob_limit, from_blob
from tallystick.proof import files
from tallystick.proof import manifest as m
from tallystick.proof.commitment import MAX_COMMITMENT_BYTES, Commitment, open_commitment
from tallystick.proof.segments import MAX_LINE_BYTES, Segment, decode_segment
from tallystick.proof.transcript import LINK_BYTES, extend, start
from tallystick.proof.writer import MAX_FILE_BYTES, Writer, state_name


@dataclass(frozen=True)
class Recovered:
    step: int
    link: bytes
    state: Tensors
    finished: bool


def begun(path: Path) -> Commitment | None:
    """The commitment of a proof that was begun at `path`, if there is one.

    Raises:
        Refused: there is something that is none.
    """
    if not (path / m.COMMITMENT).is_file():
        return None
    return open_commitment(files.read(path, m.COMMITMENT, MAX_COMMITMENT_BYTES))[1]


def recover(
    writer: Writer, prover: str, commitment: Commitment, specs: Sequence[TensorSpec], initial: Tensors
) -> Recovered:
    """Finds the last whole segment and cuts off what is behind it.

    Raises:
        Refused: `other_prover` or `other_commitment`, or what is there is not what we would have written.
    """
    sealed = files.read(writer.path, m.COMMITMENT, MAX_COMMITMENT_BYTES)
    _require_same(sealed, prover, commitment)
    finished = (writer.path / m.SIGNATURE).exists()
    last, size = None, 0
    with (
        files.opened(writer.path, m.TRANSCRIPT, MAX_FILE_BYTES) as transcript,
        files.opened(writer.path, m.SEGMENTS, MAX_FILE_BYTES) as lines,
    ):
        for segment, end in _whole(lines, commitment):
            if not _chained(transcript, segment, start(sealed)):
                break
            last, size = segment, end
    if finished and (last is None or last.step != commitment.steps):
        raise Refused("broken_proof", f"{writer.path}: is signed but not whole; somebody changed it")
    if not finished:
        writer.cut(last.step if last else 0, size)
    if last is None:
        return Recovered(0, start(sealed), initial, finished)
    name = state_name(commitment, last.step)
    blob = files.read(writer.path, name, blob_limit(specs))
    if blob_name(blob) != last.state:
        raise Refused("wrong_digest", f"{name}: is not the state that was recorded; the disk or somebody changed it")
    with files.opened(writer.path, m.TRANSCRIPT, MAX_FILE_BYTES) as transcript:
        return Recovered(last.step, link_at(transcript, last.step), from_blob(blob, specs, name), finished)


def link_at(transcript: BinaryIO, step: int) -> bytes:
    """The link after `step` steps (at least one); shorter than a link where the file ends."""
    transcript.seek((step - 1) * LINK_BYTES)
    return transcript.read(LINK_BYTES)


def _whole(lines: BinaryIO, commitment: Commitment) -> Iterator[tuple[Segment, int]]:
    """Segments in order, each with the size of the file up to its end, until something is cut off or out of order."""
    for index in range(commitment.segments):
        try:
            segment = decode_segment(lines.readline(MAX_LINE_BYTES))
        except Refused:
            return
        if segment.step != commitment.bounds(index)[1]:
            return
        yield segment, lines.tell()


def _chained(transcript: BinaryIO, segment: Segment, first: bytes) -> bool:
    """Whether the transcript reaches to the segment's end, and its last link is that of the segment's last step."""
    before = link_at(transcript, segment.step - 1) if segment.step > 1 else first
    return link_at(transcript, segment.step) == extend(before, segment.entry)


def _require_same(sealed: bytes, prover: str, wanted: Commitment) -> None:
    signer, found = open_commitment(sealed)
    if signer != prover:
        raise Refused(
            "other_prover",
            f"{m.COMMITMENT}: was signed by {signer}, this key is {prover}; use that key, or another directory",
        )
    for field in msgspec.structs.fields(Commitment):
        have, want = getattr(found, field.name), getattr(wanted, field.name)
        if have != want:
            raise Refused(
                "other_commitment",
                f"{m.COMMITMENT}: this proof was begun with {field.name} {have}, asked for is {want}; "
                "undo the change, or train into another directory",
            )
