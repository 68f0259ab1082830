"""The transcript: one entry per step, chained so that none can be changed, moved or left out unnoticed.

    h_0 = digest("tallystick/transcript", spec name, initial root)
    h_t = digest("tallystick/transcript/entry", h_{t-1}, bytes of entry t)

On file it is one line of canonical JSON per step, `{"entry":{...},"chain":"h_t"}`. The chain says where a transcript
was cut or spliced; that its last hash is signed is what binds it to a prover.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import msgspec

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.hashing import DIGEST_BYTES, digest
from tallystick.errors import Refused

MAX_TRANSCRIPT_BYTES: Final = 256 * 2**20
"""About 240,000 steps of a model with four parameter tensors."""
MAX_LINE_BYTES_BESIDE_TENSORS: Final = 512
BYTES_PER_TENSOR: Final = 2 * DIGEST_BYTES + len('"",')

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""Hex. Not `$`, which also matches before a trailing newline."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one step did."""

    step: Annotated[int, msgspec.Meta(ge=0, le=10**7)]
    """0 for the first."""
    root: Digest
    """The state root after the step."""
    tensors: list[Digest]
    """The digest of each state tensor after the step, in the order of their sorted names."""
    total: Digest
    """The root of the sum of the step's contributions."""
    loss: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    """Sum of the micro-batches' losses, in units of 2**-20."""


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry with the chain hash h_t up to and including it."""

    entry: Entry
    chain: Digest


def start(spec_name: str, initial_root: str) -> str:
    """h_0: what every transcript of this training specification begins with."""
    return digest("tallystick/transcript", bytes.fromhex(spec_name), bytes.fromhex(initial_root)).hex()


def extend(chain: str, entry: Entry) -> str:
    """h_t, from h_{t-1} and the entry of the step."""
    return digest("tallystick/transcript/entry", bytes.fromhex(chain), to_json(entry)).hex()


def chained(chain: str, entries: Iterable[Entry]) -> Iterator[Link]:
    """The links that follow `chain`."""
    for entry in entries:
        chain = extend(chain, entry)
        yield Link(entry, chain)


def encode_transcript(links: Iterable[Link]) -> bytes:
    return b"".join(to_json(link) + b"\n" for link in links)


def decode_transcript(data: bytes, tensors: int) -> tuple[Link, ...]:
    """Reads a transcript from untrusted bytes. Whether its claims and its chain hold is for `verify` to say.

    Args:
        tensors: how many tensors the training state has.

    Raises:
        Refused: `too_large`, `malformed` or `not_canonical`.
    """
    if len(data) > MAX_TRANSCRIPT_BYTES:
        raise Refused("too_large", f"transcript: {len(data)} bytes, at most {MAX_TRANSCRIPT_BYTES} are admitted")
    *lines, rest = data.split(b"\n")
    if rest:
        raise Refused("malformed", "transcript: the last line is cut off")
    return tuple(_decode_line(line, number, tensors) for number, line in enumerate(lines, start=1))


def _decode_line(line: bytes, number: int, tensors: int) -> Link:
    limit = MAX_LINE_BYTES_BESIDE_TENSORS + tensors * BYTES_PER_TENSOR
    link = from_json(line, Link, limit=limit, what=f"transcript: line {number}")
    if len(link.entry.tensors) != tensors:
        found = len(link.entry.tensors)
        raise Refused("malformed", f"transcript: line {number}: {found} tensor digests, the state has {tensors}")
    return link
