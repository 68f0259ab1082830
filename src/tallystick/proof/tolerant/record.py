"""The format of a record: manifest, commitment, transcript, signature. docs/tolerant.md describes it.

h_0     = digest("tallystick/tolerant/transcript", name of record.json)
h_(t+1) = digest("tallystick/tolerant/transcript/entry", h_t, bytes of entry t)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.hashing import blob_name, digest
from tallystick.canon.identity import Key
from tallystick.canon.sealed import open_sealed, seal
from tallystick.errors import Refused
from tallystick.proof.tolerant.files import Read

FORMAT: Final = "tallystick-record-v1"
MANIFEST: Final = "record.json"
COMMITMENT: Final = "commitment"
TRANSCRIPT: Final = "steps.jsonl"
SIGNATURE: Final = "signature"
COMMITMENT_DOMAIN: Final = "tallystick/tolerant/commitment"
SIGNATURE_DOMAIN: Final = "tallystick/tolerant/signature"
UNSIGNED: Final = b'{"manifest":"'
"""How a statement that nobody signed begins; a signed one begins with a public key."""

MAX_MANIFEST_BYTES: Final = 2**20
MAX_SEALED_BYTES: Final = 1024
MAX_TRANSCRIPT_BYTES: Final = 2**30
MAX_STEPS: Final = 10**7
MAX_RECORDS: Final = 2**40
MAX_BATCH: Final = 2**20
MAX_LINE_BYTES: Final = 1024 + MAX_BATCH * len("1099511627776,")

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Settings = dict[Text, Text]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is fixed before the first step."""

    format: Literal["tallystick-record-v1"] = FORMAT
    data: Digest
    """Root over the records."""
    records: Annotated[int, msgspec.Meta(ge=1, le=MAX_RECORDS)]
    architecture: Digest
    optimizer: Text
    """Type of the optimizer."""
    groups: Annotated[list[Settings], msgspec.Meta(max_length=4096)]
    """The optimizer's settings per parameter group, before the first step."""
    hyperparameters: Settings
    """What the user added; shown, and compared when the run is resumed."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    interval: Annotated[int, msgspec.Meta(ge=1, le=MAX_STEPS)]
    """Steps between two checkpoints."""
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_BATCH)] | None
    """If given, the order of the records follows from the seed (`seeding.batch_of_step`)."""
    initial: Digest
    """SHA-256 of the checkpoint before the first step."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one step did."""

    step: Annotated[int, msgspec.Meta(ge=0, lt=MAX_STEPS)]
    """0 for the first."""
    indices: Annotated[
        list[Annotated[int, msgspec.Meta(ge=0, lt=MAX_RECORDS)]], msgspec.Meta(min_length=1, max_length=MAX_BATCH)
    ]
    batch: Digest
    """Names every byte of the records, in this order."""
    loss: Annotated[str, msgspec.Meta(max_length=32)] | None
    """As `float.hex` writes it. Nothing depends on it."""
    checkpoint: Digest | None
    """SHA-256 of the checkpoint after this step, if there is one."""


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entry: Entry
    chain: Digest


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a prover signs when the run is over."""

    manifest: Digest
    chain: Digest
    """After the last step."""
    steps: Annotated[int, msgspec.Meta(ge=1, le=MAX_STEPS)]
    final: Digest
    """SHA-256 of the last checkpoint."""


@dataclass(frozen=True)
class Segment:
    """The steps from one checkpoint to the next."""

    number: int
    start: int
    end: int
    before: str
    """SHA-256 of the checkpoint at `start`."""
    after: str


@dataclass(frozen=True)
class Record:
    """A finished record whose form, chain and signatures are in order. Whether its claims are true is for `verify`."""

    signed_by: str | None
    name: str
    """SHA-256 of record.json."""
    manifest: Manifest
    entries: tuple[Entry, ...]
    chain: str
    segments: tuple[Segment, ...]


def checkpoint_name(step: int) -> str:
    """The file that holds the state after `step` steps."""
    return f"checkpoint-{step:08d}.safetensors"


def start(name: str) -> str:
    return digest("tallystick/tolerant/transcript", bytes.fromhex(name)).hex()


def extend(chain: str, entry: Entry) -> str:
    return digest("tallystick/tolerant/transcript/entry", bytes.fromhex(chain), to_json(entry)).hex()


def commit(key: Key, manifest_name: str) -> bytes:
    """The envelope that is written before the first step. To show *when*, have it time-stamped by somebody else."""
    return seal(key, COMMITMENT_DOMAIN, bytes.fromhex(manifest_name))


def sign(key: Key, statement: Statement) -> bytes:
    return seal(key, SIGNATURE_DOMAIN, to_json(statement))


def decode_manifest(data: bytes) -> Manifest:
    """Raises Refused: `too_large`, `malformed` or `not_canonical`."""
    return from_json(data, Manifest, limit=MAX_MANIFEST_BYTES, what=MANIFEST)


def decode_line(line: bytes, number: int) -> Link:
    """Raises Refused: `too_large`, `malformed` or `not_canonical`."""
    return from_json(line, Link, limit=MAX_LINE_BYTES, what=f"{TRANSCRIPT}: line {number}")


def decode_transcript(data: bytes, name: str) -> tuple[Link, ...]:
    """Reads a transcript from untrusted bytes and checks that it is one chain from `name`.

    Raises:
        Refused: also `broken_chain`, if a line was changed, moved, left out or put in.
    """
    *lines, rest = data.split(b"\n")
    if rest or not lines:
        raise Refused("malformed", f"{TRANSCRIPT}: the last line is cut off; the run may not be finished")
    if len(lines) > MAX_STEPS:
        raise Refused("too_large", f"{TRANSCRIPT}: {len(lines)} steps, at most {MAX_STEPS} are admitted")
    links, chain = [], start(name)
    for number, line in enumerate(lines):
        link = decode_line(line, number + 1)
        chain = extend(chain, link.entry)
        if link.entry.step != number or link.chain != chain:
            raise Refused("broken_chain", f"{TRANSCRIPT}: step {number} does not follow from the steps before it")
        links.append(link)
    return tuple(links)


def segments_of(manifest: Manifest, entries: Sequence[Entry]) -> tuple[Segment, ...]:
    """The segments of a transcript, whose checkpoints must be where the manifest says: a prover chooses none of them.

    Raises:
        Refused: `bad_checkpoints`.
    """
    found: list[Segment] = []
    before, begun = manifest.initial, 0
    for done, entry in enumerate(entries, start=1):
        due = done % manifest.interval == 0 or done == len(entries)
        if due != (entry.checkpoint is not None):
            what = "has no checkpoint" if due else "has a checkpoint that is not due"
            raise Refused("bad_checkpoints", f"{TRANSCRIPT}: step {entry.step} {what}; one is due every "
                          f"{manifest.interval} steps and after the last")  # fmt: skip
        if entry.checkpoint is not None:
            found.append(Segment(len(found), begun, done, before, entry.checkpoint))
            before, begun = entry.checkpoint, done
    return tuple(found)


def read_record(read: Read) -> Record:
    """Authenticates, then parses a finished record. Checkpoints are read later, one by one.

    Raises:
        Refused: with the reason.
    """
    encoded = read(MANIFEST, MAX_MANIFEST_BYTES)
    name = blob_name(encoded)
    statement_bytes = read(SIGNATURE, MAX_SEALED_BYTES)
    signed_by, payload = None, statement_bytes
    if not statement_bytes.startswith(UNSIGNED):
        opened = open_sealed(statement_bytes, SIGNATURE_DOMAIN, limit=MAX_SEALED_BYTES, what=SIGNATURE)
        committed = open_sealed(
            read(COMMITMENT, MAX_SEALED_BYTES), COMMITMENT_DOMAIN, limit=MAX_SEALED_BYTES, what=COMMITMENT
        )
        if committed.sender != opened.sender or committed.payload.hex() != name:
            raise Refused("wrong_commitment", f"{COMMITMENT}: commits to another {MANIFEST}, or with another key")
        signed_by, payload = opened.sender, opened.payload
    statement = from_json(payload, Statement, limit=MAX_SEALED_BYTES, what=SIGNATURE)
    if statement.manifest != name:
        raise Refused("wrong_digest", f"{MANIFEST}: its SHA-256 is {name}, {statement.manifest} was signed")
    manifest = decode_manifest(encoded)
    links = decode_transcript(read(TRANSCRIPT, MAX_TRANSCRIPT_BYTES), name)
    entries = tuple(link.entry for link in links)
    if any(index >= manifest.records for entry in entries for index in entry.indices):
        raise Refused("index_out_of_range", f"{TRANSCRIPT}: an index is past the {manifest.records} records")
    last = links[-1]
    if (statement.chain, statement.steps, statement.final) != (last.chain, len(links), last.entry.checkpoint):
        raise Refused("wrong_statement", f"{SIGNATURE}: was given for another transcript")
    return Record(signed_by, name, manifest, entries, last.chain, segments_of(manifest, entries))


def encode_links(links: Iterable[Link]) -> bytes:
    return b"".join(to_json(link) + b"\n" for link in links)
