"""Which segments a verifier runs again: both ends, the largest updates of each epoch, and a draw nobody could foresee.

Top-Q alone is predictable, and a forger does real work just there (`attacks`, blindfold top-Q). The uniform samples
follow from a nonce that the verifier chooses after it has the record, hashed with the record's chain.
"""

from collections.abc import Mapping, Sequence
from math import comb

from tallystick.canon.hashing import digest
from tallystick.proof.tolerant.distances import METRICS, Distances
from tallystick.proof.tolerant.record import Record, Segment


def uniform(record: Record, nonce: bytes, samples: int) -> list[int]:
    """The numbers of `samples` different segments, each set of that size equally likely over nonces."""
    chain = bytes.fromhex(record.chain)
    numbers = range(len(record.segments))
    return sorted(
        sorted(numbers, key=lambda n: digest("tallystick/tolerant/sample", nonce, chain, n.to_bytes(8, "big")))[
            :samples
        ]
    )


def epochs(record: Record) -> dict[int, list[Segment]]:
    """The segments by the epoch that their first step is in: so many passes over the records were done before it."""
    found: dict[int, list[Segment]] = {}
    seen = step = 0
    for segment in record.segments:
        while step < segment.start:
            seen += len(record.entries[step].indices)
            step += 1
        found.setdefault(seen // record.manifest.records, []).append(segment)
    return found


def top_q(by_epoch: Mapping[int, Sequence[Segment]], updates: Mapping[int, Distances], q: int) -> list[int]:
    """Per epoch and metric the `q` segments with the largest updates, as in the 2021 paper; the union over metrics."""
    chosen: set[int] = set()
    for segments in by_epoch.values():
        for metric in METRICS:
            largest = sorted(segments, key=lambda s: (-updates[s.number].of(metric), s.number))
            chosen |= {segment.number for segment in largest[:q]}
    return sorted(chosen)


def detection(segments: int, samples: int, bad: int) -> float:
    """How likely at least one of `bad` segments is among `samples` uniform ones.

    >>> detection(100, 10, 1), round(detection(100, 10, 5), 3)
    (0.1, 0.416)
    """
    return 1.0 - comb(segments - bad, samples) / comb(segments, samples)
