"""Operands of the published test vectors: how they are written, and what they are."""

import struct
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, Final

import numpy as np

from .philox import philox
from .values import F32, Array, settle

KEY: Final = 0x7A11_7571_C4B0_0B1E
Json = Any


def draw(stream: int, *shape: int, spread: int = 24) -> Json:
    return {"dtype": "float32", "shape": list(shape), "draw": {"stream": stream, "spread": spread}}


def whole(stream: int, below: int, *shape: int, start: int = 0, dtype: str = "int64") -> Json:
    return {"dtype": dtype, "shape": list(shape), "draw": {"stream": stream, "below": below, "from": start}}


def floats(values: Iterable[float], *shape: int) -> Json:
    listed = list(values)
    data = settle(np.array(listed, F32)).tobytes().hex()
    return {"dtype": "float32", "shape": list(shape) or [len(listed)], "bytes": data}


def integers(values: Iterable[int], *shape: int, dtype: str = "int64") -> Json:
    listed = list(values)
    return {"dtype": dtype, "shape": list(shape) or [len(listed)], "bytes": np.array(listed, dtype).tobytes().hex()}


def equal(value: float, *shape: int) -> Json:
    return {"dtype": "float32", "shape": list(shape), "repeat": struct.pack("<f", value).hex()}


def number(value: float) -> Json:
    return {"float": float(np.float32(value)).hex()}


def decoded(argument: Json) -> Any:
    """An argument as the operators take it."""
    match argument:
        case list():
            return [decoded(item) for item in argument]
        case {"float": text}:
            return float.fromhex(text)
        case {"dtype": name, "shape": shape}:
            return _tensor(argument, np.dtype(name), shape)
        case {"dtype": name}:
            return np.dtype(name)
    return argument


def _tensor(argument: Json, dtype: Any, shape: Sequence[int]) -> Array:
    if "bytes" in argument:
        return np.frombuffer(bytes.fromhex(argument["bytes"]), dtype).reshape(shape)
    if "repeat" in argument:
        return np.full(shape, np.frombuffer(bytes.fromhex(argument["repeat"]), dtype)[0])
    how = argument["draw"]
    words = [philox(KEY, how["stream"], i) for i in range(prod(shape))]
    if "below" in how:
        return np.array([w[0] % how["below"] + how.get("from", 0) for w in words], dtype).reshape(shape)
    spread = how["spread"]
    bits = [w[0] & 0x807F_FFFF | (w[1] % spread - spread // 2 + 127) << 23 for w in words]
    return settle(np.array(bits, np.uint32).view(F32)).reshape(shape)
