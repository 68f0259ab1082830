"""Known answers: does this machine's arithmetic give the bits that the specification says?

The cases are the published test vectors of `exact-v1` (`vectors.json`; docs/exact-v1.md says how to read them). Their
answers were computed by the NumPy reference of the tests, not by these kernels. Each case runs one operator, or a chain
of several, through the same table as a program does; and what a program would run on the compiled element-wise machine
runs there too. A machine with fast-math, emulated float64, saturating int8 units or a miscompiled kernel gives another
hash for at least one operator and must not work.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final

import msgspec
import torch
from torch import Tensor

from tallystick.exact import accumulate
from tallystick.exact.kernels import table
from tallystick.exact.native import LIBRARY
from tallystick.exact.native.elementwise import Assembly, Chain, Value
from tallystick.exact.native.lowering import RULES, NotCovered
from tallystick.exact.random import permutation, philox
from tallystick.exact.rounding import canonical

KEY: Final = 0x7A11_7571_C4B0_0B1E
"""What operands that are drawn are keyed with."""
DTYPES: Final = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool)
}
FULL_BITS: Final = 20
CHAIN: Final = "chain"
"""The operator of cases that run several, each taking inputs and what earlier ones made."""
COMPILED: Final = "(compiled chain)"


class Answer(msgspec.Struct, frozen=True):
    dtype: str
    shape: list[int]
    sha256: str
    bytes: str | None = None
    """The result itself in hexadecimal, if it is small."""


class Case(msgspec.Struct, frozen=True):
    """One call of an operator and its answer."""

    name: str
    operator: str
    arguments: list[Any]
    result: Answer
    bits: int = FULL_BITS
    keywords: dict[str, Any] = {}


class Vectors(msgspec.Struct, frozen=True):
    arithmetic: str
    cases: list[Case]


@dataclass(frozen=True)
class Outcome:
    """One case on this machine."""

    case: str
    found: str
    """Dtype, shape and SHA-256 of the result's bytes, or what was raised."""
    expected: str

    @property
    def passed(self) -> bool:
        return self.found == self.expected


@functools.cache
def cases() -> list[Case]:
    """All cases, in the order in which they are published."""
    data = files(__package__).joinpath("vectors.json").read_bytes()
    return msgspec.json.decode(data, type=Vectors).cases


def run_selftest(device: str = "cpu") -> Iterator[Outcome]:
    """Runs every case on a device that torch knows; on the CPU, also by the compiled chains where they cover it."""
    for case in cases():
        yield outcome(case, device)
        if device == "cpu" and (chained := chained_outcome(case)) is not None:
            yield chained


def first_failure() -> Outcome | None:
    """The first case whose bits are wrong on this machine, or None."""
    return next((outcome for outcome in run_selftest() if not outcome.passed), None)


def outcome(case: Case, device: str = "cpu") -> Outcome:
    """Runs one case."""
    return _outcome(case, case.name, lambda: compute(case, device))


def chained_outcome(case: Case) -> Outcome | None:
    """Runs one case on the compiled element-wise machine; None if it is not there or does not cover the case."""
    if LIBRARY is None or (found := compiled_chain(case)) is None:
        return None
    chain, inputs = found
    return _outcome(case, f"{case.name} {COMPILED}", lambda: chain.run(inputs)[0])


def _outcome(case: Case, name: str, computed: Callable[[], Tensor]) -> Outcome:
    answer = case.result
    try:
        found = _described(computed())
    except Exception as error:  # a machine on which an operator fails is reported like one that is wrong
        found = f"{type(error).__name__}: {error}"
    return Outcome(name, found, f"{answer.dtype} {answer.shape} {answer.sha256}")


def compute(case: Case, device: str = "cpu") -> Tensor:
    """What this machine makes of a case."""
    kernels = {**ACCUMULATORS, **table(case.bits)}
    arguments = [_moved(decoded(value), device) for value in case.arguments]
    keywords = {name: _moved(decoded(value), device) for name, value in case.keywords.items()}
    with nullcontext() if device == "cpu" else torch.device(device):
        if case.operator != CHAIN:
            return kernels[case.operator](*arguments, **keywords)
        values, steps = arguments
        for operator, *operands in steps:
            values.append(kernels[operator](*_taken(operands, values)))
    last: Tensor = values[-1]
    return last


def compiled_chain(case: Case) -> tuple[Chain, list[Tensor]] | None:
    """A case as a chain of the compiled element-wise machine and what it reads; None if there is no rule for it."""
    if case.operator != CHAIN and case.operator not in RULES:
        return None
    arguments = [decoded(value) for value in case.arguments]
    if case.operator == CHAIN:
        inputs, steps = arguments
    else:
        inputs = [x for x in arguments if isinstance(x, Tensor)]
        places = iter(range(len(inputs)))
        steps = [[case.operator, *({"value": next(places)} if isinstance(x, Tensor) else x for x in arguments)]]
    assembly = Assembly()
    values: list[Value] = [assembly.input(x.dtype) for x in inputs]
    keywords = {name: decoded(value) for name, value in case.keywords.items()}
    try:
        for operator, *operands in steps:
            values.append(RULES[operator](assembly, *_taken(operands, values), **keywords))
    except (NotCovered, TypeError):
        return None
    by_columns = [x.mT.contiguous().mT if x.dim() > 1 else x for x in inputs]  # so that matrices have to be gathered
    return Chain(assembly, values[-1:], case.result.shape), by_columns


def _taken(operands: list[Any], values: Sequence[Any]) -> list[Any]:
    """Operands of a step: {"value": k} is the k-th of the inputs and what was made before."""
    return [values[x["value"]] if isinstance(x, dict) else x for x in operands]


def _moved(argument: Any, device: str) -> Any:
    if isinstance(argument, list):
        return [_moved(item, device) for item in argument]
    return argument.to(device) if isinstance(argument, Tensor) else argument


def decoded(argument: Any) -> Any:
    """An argument as kernels take it."""
    match argument:
        case list():
            return [decoded(item) for item in argument]
        case {"float": text}:
            return float.fromhex(text)
        case {"dtype": name, "shape": shape}:
            return _tensor(argument, DTYPES[name], shape)
        case {"dtype": name}:
            return DTYPES[name]
    return argument  # {"value": place} among the steps of a chain, too


def _tensor(argument: dict[str, Any], dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    match argument:
        case {"bytes": ""}:
            return torch.zeros(shape, dtype=dtype)
        case {"bytes": text}:
            return torch.frombuffer(bytearray.fromhex(text), dtype=dtype).reshape(shape)
        case {"repeat": text}:
            return torch.frombuffer(bytearray.fromhex(text), dtype=dtype).expand(math.prod(shape)).reshape(shape)
        case {"draw": {"stream": stream, "spread": spread}}:
            return _numbers(stream, math.prod(shape), spread).reshape(shape)
        case _:
            how: dict[str, int] = argument["draw"]
            draws = philox(KEY, how["stream"], math.prod(shape))[:, 0] % how["below"] + how["from"]
            return draws.to(dtype).reshape(shape)


@functools.lru_cache(maxsize=16)
def _numbers(stream: int, count: int, spread: int) -> Tensor:
    """float32 of both signs whose exponents spread over `spread` powers of two around 1; many cases share them."""
    draws = philox(KEY, stream, count)
    exponent = draws[:, 1] % spread - spread // 2 + 127
    bits = (draws[:, 0] & 0x807F_FFFF) | (exponent << 23)
    signed = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32)
    return canonical(signed.view(torch.float32))


def _described(result: Tensor) -> str:
    data = result.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{str(result.dtype).removeprefix('torch.')} {list(result.shape)} {sha256(data).hexdigest()}"


def _exponent(value: int) -> Tensor:
    return torch.tensor(value, dtype=torch.int32)


ACCUMULATORS: Final[dict[str, Callable[..., Tensor]]] = {
    "to_fixed": lambda gradient, exponent, count: accumulate.to_fixed(gradient, _exponent(exponent), count),
    "peak_of": accumulate.peak_of,
    "mean_of": lambda total, exponent, count: accumulate.mean_of(total, _exponent(exponent), count),
    "next_exponent": lambda exponent, peak: accumulate.next_exponent(_exponent(exponent), _exponent(peak)),
    "loss_to_fixed": accumulate.loss_to_fixed,
    "permutation": permutation,
}
"""What a step computes outside its graphs."""
