"""The commitment: what is to be trained and how it will be recorded, signed before step 0.

    commitment = sealed(prover's key, "tallystick/proof/commitment", Commitment)

The transcript's first link is a digest of these bytes, signature included, so no step can be recorded before them and
nobody can put another commitment under a finished transcript.
"""

from math import isqrt
from typing import Annotated, Final, Literal

import msgspec

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.identity import Key
from tallystick.canon.sealed import open_sealed, seal
from tallystick.errors import Refused
from tallystick.program.graph import Profile, StepProgram
from tallystick.program.spec import TrainingSpec

FORMAT: Final = "tallystick-proof-v3"
DOMAIN: Final = "tallystick/proof/commitment"
MAX_COMMITMENT_BYTES: Final = 4096
MAX_STEPS: Final = 10**7
"""As in a training specification."""

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""Hex. Not `$`, which also matches before a trailing newline."""
Label = Annotated[str, msgspec.Meta(max_length=128)]
Steps = Annotated[int, msgspec.Meta(ge=1, le=MAX_STEPS)]


class Parent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The proof whose model this training starts from."""

    signature: Digest
    """SHA-256 of the parent's file `signature`."""
    root: Digest
    """The state root after the parent's last step."""


class Commitment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["tallystick-proof-v3"]
    spec: Digest
    """Name of the training specification, which binds everything up to `steps`; those are repeated for who reads it."""
    program: Digest
    arithmetic: Literal["exact-v1"]
    profile: Profile
    data: Digest
    """Root of the training records."""
    initial: Digest
    """State root before step 0."""
    steps: Steps
    segment: Steps
    """Steps of a segment, the unit of audit, after which the state can be handed out. The last may be shorter."""
    roots_every: Steps
    """How often within a segment state and sum are named by a root. They always are after its last step."""
    parent: Parent | None
    attempt: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    """How often the prover says to have begun this training. A claim: only who keeps the commitments can refute it."""
    network: Label | None
    """The chain that the task was offered on, if any. A claim: nothing in the directory can show it."""
    task: Label | None
    """The task on that chain, if any; a claim as well."""

    @property
    def segments(self) -> int:
        return -(-self.steps // self.segment)

    def bounds(self, index: int) -> tuple[int, int]:
        """Steps done before and after segment `index`."""
        return index * self.segment, min((index + 1) * self.segment, self.steps)

    def ends_segment(self, step: int) -> bool:
        return (step + 1) % self.segment == 0 or step + 1 == self.steps

    def rooted(self, step: int) -> bool:
        """Whether the link of `step` names the state after it and the sum that led there."""
        return (step % self.segment + 1) % self.roots_every == 0 or self.ends_segment(step)


def default_segment(steps: int) -> int:
    """Three quarters of sqrt(steps), so that 4/3 sqrt(steps) states are kept.

    With sqrt(steps), first, last and one more segment of 10,000 steps would be 3 % of a training by themselves.

    >>> default_segment(80), default_segment(10_000)
    (6, 75)
    """
    return max(1, isqrt(steps) * 3 // 4)


def commitment_of(
    spec: TrainingSpec,
    spec_name: str,
    program: StepProgram,
    *,
    segment: int | None = None,
    roots_every: int | None = None,
    parent: Parent | None = None,
    attempt: int = 1,
    network: str | None = None,
    task: str | None = None,
) -> Commitment:
    """The commitment to a training specification; segments as `default_segment` has them unless told otherwise.

    Raises:
        Refused: `bad_commitment`.
    """
    length = default_segment(spec.steps) if segment is None else segment
    commitment = Commitment(
        format=FORMAT,
        spec=spec_name,
        program=spec.program,
        arithmetic=program.arithmetic,
        profile=program.profile,
        data=spec.train.root,
        initial=spec.initial_root,
        steps=spec.steps,
        segment=length,
        roots_every=length if roots_every is None else roots_every,
        parent=parent,
        attempt=attempt,
        network=network,
        task=task,
    )
    return _checked(commitment)


def sign_commitment(key: Key, commitment: Commitment) -> bytes:
    return seal(key, DOMAIN, to_json(commitment))


def open_commitment(data: bytes) -> tuple[str, Commitment]:
    """Who committed, and to what; the signature is checked before anything is parsed.

    Raises:
        Refused: `too_large`, `truncated`, `bad_signature`, `malformed`, `not_canonical` or `bad_commitment`.
    """
    opened = open_sealed(data, DOMAIN, limit=MAX_COMMITMENT_BYTES, what="commitment")
    return opened.sender, _checked(from_json(opened.payload, Commitment, limit=MAX_COMMITMENT_BYTES, what="commitment"))


def _checked(commitment: Commitment) -> Commitment:
    if not 1 <= commitment.roots_every <= commitment.segment <= commitment.steps:
        sizes = f"roots every {commitment.roots_every}, segments of {commitment.segment}, {commitment.steps} steps"
        raise Refused("bad_commitment", f"commitment: {sizes}; each must be at least 1 and at most the next")
    return commitment
