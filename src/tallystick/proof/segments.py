"""segments.jsonl: one line for each finished segment, with what it takes to check and to continue from its end."""

from typing import Annotated, Final

import msgspec

from tallystick.canon.encoding import from_json, to_json
from tallystick.errors import Refused
from tallystick.proof.commitment import Digest, Steps
from tallystick.proof.transcript import Entry

MAX_LINE_BYTES: Final = 1024
"""The newline included."""
Loss = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Number = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?\Z", max_length=32)]


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The end of a segment. `batch`, `loss`, `root` and `total` are those of its last step."""

    step: Steps
    """Steps done at its end."""
    batch: Digest
    loss: Loss
    root: Digest
    total: Digest
    mean_loss: Loss
    """Over the segment's steps, rounded down."""
    update: Number | None
    """Squared length of the way that the parameters went in this segment; None where float32 cannot hold it."""
    state: Digest
    """SHA-256 of the file with the state at its end: a mismatch names the tensor in which that file differs."""

    @property
    def entry(self) -> Entry:
        """What its last step did."""
        return Entry(self.step - 1, self.batch, self.loss, self.root, self.total)


def encode_segment(segment: Segment) -> bytes:
    return to_json(segment) + b"\n"


def decode_segment(line: bytes, what: str = "segments.jsonl") -> Segment:
    """Reads one line from untrusted bytes. Whether its claims hold is for `verify` to say.

    Raises:
        Refused: `too_large`, `malformed` or `not_canonical`.
    """
    if not line.endswith(b"\n"):
        raise Refused("malformed", f"{what}: the line is cut off or longer than {MAX_LINE_BYTES} bytes")
    return from_json(line[:-1], Segment, limit=MAX_LINE_BYTES, what=what)
