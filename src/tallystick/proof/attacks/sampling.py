"""One bad segment among N: how often a sample meets it, measured over fresh nonces."""

from collections.abc import Iterator
from math import sqrt
from typing import Final

import msgspec

from tallystick.canon.hashing import digest
from tallystick.proof.commitment import Commitment
from tallystick.proof.policy import Sample, chosen, detection

TRIALS: Final = 2000
SAMPLES: Final = {8: (1, 2, 4), 102: (1, 10, 50)}
"""Segments of a proof, and how many a verifier draws besides first and last."""
Z: Final = 1.959964
"""Two-sided 95 % of a normal distribution."""


class Measured(msgspec.Struct, frozen=True):
    """How often the bad segment was in the sample, and what a verdict says about that."""

    segments: int
    drawn: int
    """Besides first and last."""
    trials: int
    met: int
    expected: float
    low: float
    high: float
    """Wilson's 95 % interval of the measured rate."""

    @property
    def rate(self) -> float:
        return self.met / self.trials

    @property
    def within(self) -> bool:
        return self.low <= self.expected <= self.high


def measure(commitment: Commitment, proof: str, bad: int, trials: int = TRIALS) -> Iterator[Measured]:
    """Draws samples of `proof` from fresh nonces and looks whether segment `bad` is among them.

    Only the draw is repeated: that re-execution refuses the bad segment whenever it is drawn is the same computation
    each time, and is done once (row 18). So proofs that are longer than this one can be measured, too.
    """
    for segments, counts in SAMPLES.items():
        longer = msgspec.structs.replace(commitment, steps=segments * commitment.segment)
        for count in counts:
            samples = [chosen(_policy(trial, count), longer, proof) for trial in range(trials)]
            met = sum(bad in sample for sample in samples)
            expected = detection(longer, samples[0], _policy(0, count))[0].probability
            yield Measured(segments, count, trials, met, expected, *wilson(met, trials))


def _policy(trial: int, count: int) -> Sample:
    return Sample(digest("tallystick/attacks/nonce", count.to_bytes(8, "big"), trial.to_bytes(8, "big")), count)


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a rate (Wilson 1927).

    >>> [round(bound, 4) for bound in wilson(50, 100)]
    [0.4038, 0.5962]
    """
    rate, spread = hits / trials, Z * Z / trials
    middle = (rate + spread / 2) / (1 + spread)
    half = Z * sqrt(rate * (1 - rate) / trials + spread / (4 * trials)) / (1 + spread)
    return middle - half, middle + half
