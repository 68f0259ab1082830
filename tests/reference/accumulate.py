"""Adding up micro-batches in fixed point."""

import numpy as np

from .values import F64, Array, above, f32, finite


def bits_of(micro_batches: int) -> int:
    return 30 - (micro_batches - 1).bit_length()


def to_fixed(gradient: Array, exponent: int, micro_batches: int) -> Array:
    bits = bits_of(micro_batches)
    units: Array = np.rint(gradient.astype(F64) * np.ldexp(1.0, bits - exponent))
    return np.clip(units, -(2.0**bits), 2.0**bits).astype(np.int32)


def peak_of(gradient: Array) -> int:
    return int(above(np.abs(finite(gradient, "a gradient")).max())) if gradient.size else -126


def mean_of(total: Array, exponent: int, micro_batches: int) -> Array:
    return f32(total.astype(F64) * np.ldexp(1.0, exponent - bits_of(micro_batches)) / micro_batches)


def next_exponent(exponent: int, peak: int) -> int:
    return max(peak + 4, exponent - 1)


def loss_to_fixed(loss: Array) -> int:
    limited = min(max(float(finite(loss, "the loss")), -(2.0**30)), 2.0**30)
    return round(limited * 2**20)
