"""Which segments a verifier re-executes, and how likely that is to catch a prover who cheated in some of them.

A sample always has the first segment, which leaves the committed start, and the last, whose end is the model that is
handed over: a false segment pays most there. (A proof has one specification, so its configuration never changes
midway; a change is another proof with this one as its parent.) The rest is drawn uniformly without replacement, keyed
by a nonce that the prover did not know when signing, and by the proof.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from tallystick.canon.hashing import digest
from tallystick.errors import Refused
from tallystick.proof.commitment import Commitment
from tallystick.proof.verdict import Chance

SHORT: Final = 200
"""Proofs of up to this many steps are re-executed in full unless told otherwise."""
PER_MILLE: Final = 27
"""Of the steps, at most, that a default sample re-executes, where that is enough for three segments: a verification
should take 3 % of the training, and a tenth of that is for starting up and for the test set."""
SHARES: Final = (1, 5, 10)
"""Percent of segments that are supposed to be bad when probabilities are stated, after a single one."""


@dataclass(frozen=True)
class Full:
    """Every segment."""


FULL: Final = Full()


@dataclass(frozen=True)
class Sample:
    """First, last and `count` others, drawn from `nonce`; None draws as many as the default has."""

    nonce: bytes
    count: int | None = None


@dataclass(frozen=True)
class Listed:
    """Exactly these segments."""

    segments: tuple[int, ...]


Policy = Full | Sample | Listed


def default_count(commitment: Commitment) -> int:
    """How many segments a default sample draws besides first and last."""
    first, last = commitment.bounds(0), commitment.bounds(commitment.segments - 1)
    left = commitment.steps * PER_MILLE // 1000 - (first[1] - first[0]) - (last[1] - last[0])
    return max(1, left // commitment.segment)


def chosen(policy: Policy, commitment: Commitment, proof: str) -> list[int]:
    """The segments to re-execute, in order.

    Args:
        proof: the proof's name, hex.

    Raises:
        Refused: `no_such_segment`.
    """
    count = commitment.segments
    match policy:
        case Full():
            return list(range(count))
        case Sample(nonce, None) if commitment.steps <= SHORT:
            return list(range(count))
        case Sample(nonce, number):
            wanted = default_count(commitment) if number is None else number
            return sorted({0, count - 1, *draw(digest("tallystick/audit", nonce, bytes.fromhex(proof)), count, wanted)})
        case Listed(segments):
            beyond = [index for index in segments if not 0 <= index < count]
            if beyond or not segments:
                odd = beyond[0] if beyond else "none"
                raise Refused("no_such_segment", f"--segments: {odd}: the proof has segments 0 to {count - 1}")
            return sorted(set(segments))


def draw(key: bytes, segments: int, number: int) -> list[int]:
    """`number` different segments, or as many as there are, between the first and the last: any set is equally likely.

    Fisher and Yates' shuffle, as far as it is needed, on indices of which only the moved ones are held.
    """
    inner = max(0, segments - 2)
    moved: dict[int, int] = {}
    picked = []
    for place in range(min(number, inner)):
        other = place + _below(key, place, inner - place)
        picked.append(1 + moved.get(other, other))
        moved[other] = moved.get(place, place)
    return picked


def _below(key: bytes, position: int, limit: int) -> int:
    """A number below `limit`: 128 bits modulo `limit`, which favors none by more than 2**-96 for 2**32 segments."""
    return int.from_bytes(digest("tallystick/audit/draw", key, position.to_bytes(8, "big"))[:16], "big") % limit


def detection(commitment: Commitment, segments: Sequence[int], policy: Policy) -> list[Chance]:
    """Probabilities of meeting a bad segment, for one bad segment and for some shares of all.

    They hold for a prover who knows the policy and so keeps the bad ones out of first and last. A list that was given
    counts as drawn, which it is not if the prover knew it before signing.
    """
    count = commitment.segments
    ends = len({0, count - 1} & set(segments)) if isinstance(policy, Sample) else 0
    pool, drawn = count - ends, len(segments) - ends
    bads = dict.fromkeys([1, *(max(1, -(-count * share // 100)) for share in SHARES)])
    return [Chance(bad, caught(pool, drawn, bad)) for bad in bads]


def caught(pool: int, drawn: int, bad: int) -> float:
    """The chance that `drawn` of `pool` segments, drawn uniformly without replacement, have one of `bad` among them.

    >>> round(caught(10, 3, 1), 6), caught(10, 9, 2)
    (0.3, 1.0)
    """
    if bad > pool - drawn:
        return 1.0
    return 1 - prod((pool - drawn - i) / (pool - i) for i in range(bad))
