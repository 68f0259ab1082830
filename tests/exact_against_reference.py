"""Kernels beside the NumPy reference: the same call to both, and whether all bits agree."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reference.operators import OPERATORS, PRODUCTS
from reference.values import UndefinedError
from tallystick.errors import NonFiniteError, Refused
from tallystick.exact.kernels import table
from tallystick.exact.native import accumulate, convolution, products, reduce
from tallystick.program import interpreter
from tallystick.program.dtypes import DTYPE_NAMES
from tallystick.program.graph import Arg, Atom, DTypeName, Float, Graph, Node, Ref, TensorSpec

REFUSED: Final = "refused"
Outcome = NDArray[Any] | str
Kernel = Callable[..., Tensor]


@contextmanager
def compiled(there: bool) -> Iterator[None]:
    """With `there` false, what TALLYSTICK_NATIVE=0 does, for a moment."""
    with ExitStack() as stack:
        for module in () if there else (accumulate, convolution, products, reduce, interpreter):
            stack.enter_context(patch.object(module, "LIBRARY", None))
        yield


def to_numpy(value: Any) -> Any:
    """An argument of a kernel as the reference takes it."""
    match value:
        case Tensor():
            return value.detach().contiguous().numpy()
        case list() | tuple():
            return [to_numpy(item) for item in value]
        case torch.dtype():
            return np.dtype(DTYPE_NAMES[value])
        case _:
            return value


def outcome(kernel: Kernel, *args: Any, **kwargs: Any) -> Outcome:
    try:
        result = kernel(*args, **kwargs)
    except (NonFiniteError, Refused):
        return REFUSED
    found: NDArray[Any] = result.contiguous().numpy()
    return found


def expected_outcome(op: str, bits: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome:
    profile = {"bits": bits} if op in PRODUCTS else {}
    try:
        return OPERATORS[op](*map(to_numpy, args), **{name: to_numpy(v) for name, v in kwargs.items()}, **profile)
    except UndefinedError:
        return REFUSED


def assert_same_bits(found: Outcome, expected: Outcome, what: object) -> None:
    if isinstance(found, str) or isinstance(expected, str):
        assert found is expected, (what, found, expected)
        return
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), what
    if found.tobytes() != expected.tobytes():
        a, b = found.reshape(-1), expected.reshape(-1)
        at = next(i for i in range(a.size) if a[i].tobytes() != b[i].tobytes())
        raise AssertionError(f"{what}: entry {at} is {a[at]!r}, the reference says {b[at]!r}")


def compare(op: str, *args: Any, **kwargs: Any) -> None:
    """Fails unless kernel and reference give the same bits or both refuse, in every profile, compiled or not."""
    for bits in (20, 13) if op in PRODUCTS else (20,):
        expected = expected_outcome(op, bits, args, kwargs)
        for there in (True, False):
            with compiled(there):
                assert_same_bits(outcome(table(bits)[op], *args, **kwargs), expected, (op, bits, there, args, kwargs))


def compare_as_program(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The same for a program of one node, which the compiled element-wise machine may run."""
    expected = expected_outcome(op, 20, tuple(map(_rounded, args)), {k: _rounded(v) for k, v in kwargs.items()})
    assert not isinstance(expected, str)
    tensors = [x for arg in args for x in (arg if isinstance(arg, list) else [arg]) if isinstance(x, Tensor)]
    places = iter(range(len(tensors)))
    encoded = [_encoded(arg, places) for arg in args]
    named = {name: _encoded(value, places) for name, value in kwargs.items()}
    specs = [TensorSpec(str(i), DTYPE_NAMES[x.dtype], tuple(x.shape)) for i, x in enumerate(tensors)]
    made = TensorSpec("made", DTYPE_NAMES[torch.from_numpy(expected).dtype], expected.shape)
    graph = Graph(specs, [Node(op, encoded, named, made)], [Ref(len(tensors))])
    prepared = interpreter.prepare(graph, 2**30)
    assert_same_bits(outcome(lambda: interpreter.run(prepared, tensors)[0]), expected, (op, args, kwargs))


def _rounded(value: Any) -> Any:
    """Constants of a program are float32."""
    return float(torch.tensor(value)) if isinstance(value, float) else value


def _encoded(arg: Any, places: Iterator[int]) -> Arg:
    return [_atom(item, places) for item in arg] if isinstance(arg, list | tuple) else _atom(arg, places)


def _atom(value: Any, places: Iterator[int]) -> Atom:
    match value:
        case Tensor():
            return Ref(next(places))
        case torch.dtype():
            return DTypeName(DTYPE_NAMES[value])
        case float():
            return Float(_rounded(value).hex())
        case _:
            atom: Atom = value
            return atom
