"""Chains of element-wise operations for the compiled machine (elementwise.c): assembling them, and running them.

An `Assembly` collects the operations of one chain; `Chain` is what runs. All values of a chain are broadcast to one
shape. Floats are float32; flags are what comparisons give.
"""

import ctypes
import math
from collections.abc import Sequence
from ctypes import c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from tallystick.exact.native import LIBRARY

Kind = Literal["float", "flag", "int64", "int32", "uint8", "bool"]
Place = Literal["input", "constant", "step"]
KINDS: Final[dict[torch.dtype, Kind]] = {
    torch.float32: "float",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.uint8: "uint8",
    torch.bool: "bool",
}
MAX_DIMS: Final = 16
LAYOUT_WORDS: Final = 2 + 2 * MAX_DIMS
"""Bytes of an entry, number of dimensions, sizes, strides: `layout` in elementwise.c."""
IN_ORDER: Final = -1


@dataclass(frozen=True)
class Value:
    """Something that a chain reads or makes."""

    kind: Kind
    place: Place
    index: int


@dataclass(frozen=True)
class Step:
    op: str
    operands: tuple[Value, ...]


class _Plan(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in ("inputs", "constants", "outputs", "registers", "instructions", "total")),
        *((name, c_void_p) for name in ("code", "layouts", "constant_bits", "output_bytes")),
    )


class Assembly:
    """Operations in the order in which they run."""

    def __init__(self) -> None:
        self.inputs: list[torch.dtype] = []
        self.constants: list[tuple[int, int]] = []
        """Bytes of an entry, and its bits."""
        self.steps: list[Step] = []

    def input(self, dtype: torch.dtype) -> Value:
        self.inputs.append(dtype)
        return Value(KINDS[dtype], "input", len(self.inputs) - 1)

    def number(self, x: float) -> Value:
        """The float32 nearest to `x`."""
        bits = int(torch.tensor(x, dtype=torch.float32).view(torch.int32))
        return Value("float", "constant", self._constant(4, bits))

    def whole(self, x: int) -> Value:
        return Value("int64", "constant", self._constant(8, x))

    def apply(self, name: str, *operands: Value, kind: Kind = "float") -> Value:
        """One operation on each entry; the same operation on the same operands is done once."""
        step = Step(name, operands)
        if step not in self.steps:
            self.steps.append(step)
        return Value(kind, "step", self.steps.index(step))

    def _constant(self, size: int, bits: int) -> int:
        if (size, bits) not in self.constants:
            self.constants.append((size, bits))
        return self.constants.index((size, bits))


@dataclass(frozen=True)
class Instruction:
    op: str
    slots: tuple[int, int, int, int]
    """Of the result and three operands; the first operand again where there are fewer."""


class Chain:
    """An assembled chain over one shape; a plan is made for each way in which inputs lie in memory."""

    def __init__(self, assembly: Assembly, outputs: Sequence[Value], shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        distinct = list(dict.fromkeys(outputs))
        self._which = [distinct.index(value) for value in outputs]
        self._dtypes = [torch.bool if value.kind == "flag" else torch.float32 for value in distinct]
        self.code, self._registers = _encode(assembly, distinct)
        self._constants = (c_int64 * (2 * len(assembly.constants)))(*(w for pair in assembly.constants for w in pair))
        self._output_bytes = (c_int64 * len(distinct))(*(dtype.itemsize for dtype in self._dtypes))
        self._plans: dict[tuple[tuple[int, ...], ...], tuple[_Plan, object]] = {}

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs, contiguous; what is computed alike is one tensor."""
        assert LIBRARY is not None
        strides = tuple([x.stride() for x in inputs])
        known = self._plans.get(strides)
        if known is None:
            known = self._plans[strides] = self._plan(inputs)
        outputs = [torch.empty(self.shape, dtype=dtype) for dtype in self._dtypes]
        pointers = [x.data_ptr() for x in inputs] + [y.data_ptr() for y in outputs]
        memory = (c_void_p * len(pointers))(*pointers)
        if LIBRARY.ts_elementwise(ctypes.byref(known[0]), memory, torch.get_num_threads()) != 0:
            raise MemoryError("the element-wise machine found no memory for its registers")
        return [outputs[place] for place in self._which]

    def _plan(self, inputs: Sequence[Tensor]) -> tuple[_Plan, object]:
        """The plan, and what only it points to."""
        words = [word for line in self.code for word in (_number(line.op), *line.slots)]
        places = [w for x in inputs for w in layout(self.shape, tuple(x.shape), x.stride(), x.element_size())]
        code, layouts = (c_int32 * len(words))(*words), (c_int64 * len(places))(*places)
        counts = (len(inputs), len(self._constants) // 2, len(self._dtypes), self._registers, len(self.code))
        parts = (code, layouts, self._constants, self._output_bytes)
        return _Plan(*counts, math.prod(self.shape), *(ctypes.addressof(part) for part in parts)), (code, layouts)


def _number(op: str) -> int:
    """What the machine calls an operation."""
    assert LIBRARY is not None
    number: int = LIBRARY.ts_operation(op.encode())
    assert number >= 0, op
    return number


def layout(shape: tuple[int, ...], own: tuple[int, ...], strides: Sequence[int], size: int) -> list[int]:
    """How a tensor of shape `own` lies when it is broadcast to `shape`; dimensions that can be one are merged.

    >>> layout((2, 3, 4), (3, 4), (4, 1), 4)[:4], layout((2, 3), (2, 3), (3, 1), 4)[:2], layout((2, 3), (), (), 4)[:2]
    ([4, 2, 2, 12], [4, -1], [4, 0])
    """
    offset = len(shape) - len(own)
    merged: list[tuple[int, int]] = []
    for dim, count in enumerate(shape):
        if count == 1:
            continue
        stride = 0 if dim < offset or own[dim - offset] == 1 else strides[dim - offset]
        if merged and merged[-1][1] == stride * count:
            merged[-1] = (merged[-1][0] * count, stride)
        else:
            merged.append((count, stride))
    if len(merged) == 1 and merged[0][1] == 1:
        return [size, IN_ORDER] + [0] * (LAYOUT_WORDS - 2)
    if all(stride == 0 for _, stride in merged):
        merged = []
    sizes, steps = [count for count, _ in merged], [stride for _, stride in merged]
    padding = [0] * (MAX_DIMS - len(merged))
    return [size, len(merged), *sizes, *padding, *steps, *padding]


def _encode(assembly: Assembly, outputs: Sequence[Value]) -> tuple[list[Instruction], int]:
    """Instructions, and how many registers they need.

    Slots are numbered inputs, constants, outputs, registers; a register is taken again after its last use.
    """
    steps, stored = _with_stores(assembly, outputs)
    constants, first_output = len(assembly.inputs), len(assembly.inputs) + len(assembly.constants)
    first_register = first_output + len(outputs)
    last = {value.index: at for at, step in enumerate(steps) for value in step.operands if value.place == "step"}
    slot: dict[int, int] = {index: first_output + output for index, output in stored.items()}
    free: list[int] = []
    count = 0
    code: list[Instruction] = []
    for at, step in enumerate(steps):
        places = [
            slot[v.index] if v.place == "step" else v.index + (constants if v.place == "constant" else 0)
            for v in step.operands
        ]
        for index in {v.index for v in step.operands if v.place == "step" and last[v.index] == at}:
            if slot[index] >= first_register:
                free.append(slot[index])
        if at not in slot:
            if not free:
                free.append(first_register + count)
                count += 1
            slot[at] = free.pop()
        a, b, c, *_ = places + [places[0]] * 2
        code.append(Instruction(step.op, (slot[at], a, b, c)))
    return code, count


def _with_stores(assembly: Assembly, outputs: Sequence[Value]) -> tuple[list[Step], dict[int, int]]:
    """The steps, and which of them write which output; flags, inputs and constants take a step of their own."""
    steps = list(assembly.steps)
    stored: dict[int, int] = {}
    for number, value in enumerate(outputs):
        index = value.index
        if value.kind == "flag" or value.place != "step":
            steps.append(Step("store_flag" if value.kind == "flag" else "copy", (value,)))
            index = len(steps) - 1
        stored[index] = number
    return steps, stored


if LIBRARY is not None:
    LIBRARY.ts_elementwise.argtypes = (ctypes.POINTER(_Plan), ctypes.POINTER(c_void_p), c_int)
    LIBRARY.ts_operation.argtypes = (ctypes.c_char_p,)
