"""The verifier's thresholds, as a file that the verifier made by calibration and a prover never supplies."""

import math
from typing import Final, Literal

import msgspec

from tallystick.errors import Refused
from tallystick.proof.tolerant.distances import METRICS, Distances

FORMAT: Final = "tallystick-tolerance-v1"
MAX_BYTES: Final = 64 * 1024
PAPER_FRACTION: Final = 0.008
"""Of d_ref: the threshold that Fang et al. (2023) worked with, for l2."""


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Thresholds per group of tensors, and what they were made from. Distances are in each metric's own unit."""

    format: Literal["tallystick-tolerance-v1"] = FORMAT
    fraction: float
    """Thresholds as a share of `reference`."""
    weights: Distances
    buffers: Distances
    slots: Distances
    reference: Distances
    """d_ref: the mean distance of the final weights of independently trained models."""
    error: Distances
    """The largest reproduction error of weights that calibration saw."""
    movement: float
    """The smallest l2 movement of the weights in a segment that calibration saw."""
    models: int
    replays: int

    def limits(self, group: str) -> Distances:
        limits: Distances = getattr(self, group)
        return limits


def encode_tolerance(tolerance: Tolerance) -> bytes:
    return msgspec.json.format(msgspec.json.encode(tolerance), indent=2) + b"\n"


def decode_tolerance(data: bytes) -> Tolerance:
    """Raises Refused: `too_large`, `malformed` or `bad_tolerance`."""
    if len(data) > MAX_BYTES:
        raise Refused("too_large", f"tolerance: {len(data)} bytes, at most {MAX_BYTES} are admitted")
    try:
        tolerance = msgspec.json.decode(data, type=Tolerance)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("malformed", f"tolerance: {error}; make one with `tallystick calibrate`") from None
    limits = [tolerance.limits(group).of(metric) for group in ("weights", "buffers", "slots") for metric in METRICS]
    if not all(math.isfinite(limit) and limit >= 0 for limit in limits):
        raise Refused("bad_tolerance", "tolerance: a threshold is negative or not finite; calibrate again")
    return tolerance
