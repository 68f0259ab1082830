"""The step program: graphs of ATen operators as canonical JSON, named by SHA-256.

A program holds three graphs. `gradient` maps parameters, buffers and one micro-batch to gradients, new buffers and the
loss, `update` maps parameters, optimizer slots, mean gradients and the step's scalars to new parameters and slots,
`predict` maps parameters, buffers and inputs to outputs. Values in a graph are numbered: inputs first, then one per
node. Nothing in a program is code: a node names an operator of the table in `exact/kernels.py`, or the program is
refused.
"""

import math
from typing import Annotated, Final, Literal

import msgspec

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.hashing import blob_name
from tallystick.errors import Refused
from tallystick.exact import ARITHMETIC
from tallystick.exact.kernels import OPERATORS
from tallystick.exact.rounding import canonical_number
from tallystick.program.schedule import Scalar

MAX_PROGRAM_BYTES: Final = 16 * 2**20
MAX_NODES: Final = 100_000
MAX_TENSORS: Final = 10_000
MAX_ELEMENTS: Final = 2**31
"""Elements in one tensor, sizes of 0 counted as 1."""

DType = Literal["float32", "int64", "int32", "uint8", "bool"]
BYTES_PER_ELEMENT: Final[dict[str, int]] = {"float32": 4, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}
Text = Annotated[str, msgspec.Meta(max_length=512)]


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, dtype and shape of a tensor."""

    name: Text
    dtype: DType
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=MAX_ELEMENTS)], ...], msgspec.Meta(max_length=16)]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def extent(self) -> int:
        """The product of the sizes, 0 counted as 1: what strides and offsets are computed from."""
        return math.prod(max(size, 1) for size in self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * BYTES_PER_ELEMENT[self.dtype]


SCALAR: Final = TensorSpec("", "float32", ())
"""What a loss and a learning rate are."""


class Ref(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="value"):
    """The value numbered `index`."""

    index: Annotated[int, msgspec.Meta(ge=0)]


class Float(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="float"):
    """A canonical float32 constant, written as Python's float.hex writes it, so that it has one spelling."""

    hex: Annotated[str, msgspec.Meta(max_length=32)]

    @property
    def value(self) -> float:
        return float.fromhex(self.hex)


class DTypeName(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="dtype"):
    name: DType


Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Atom = Ref | Float | DTypeName | bool | Int64 | None
Arg = Atom | list[Atom]


KEYWORDS: Final[dict[str, tuple[type, ...]]] = {
    "dtype": (DTypeName, type(None)),
    "alpha": (int, Float),
    "beta": (int, Float),
}
"""The keyword arguments that an operator can have here, and what they are."""


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One application of an operator."""

    op: Text
    args: Annotated[list[Arg], msgspec.Meta(max_length=16)]
    kwargs: Annotated[dict[Text, Arg], msgspec.Meta(max_length=16)]
    result: TensorSpec
    """`name` says where in the model the node comes from, such as "encoder.0.linear" or "gradient of encoder.0"."""


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inputs: Annotated[list[TensorSpec], msgspec.Meta(max_length=MAX_TENSORS)]
    nodes: Annotated[list[Node], msgspec.Meta(max_length=MAX_NODES)]
    outputs: Annotated[list[Ref], msgspec.Meta(max_length=MAX_TENSORS)]


Profile = Literal["full", "fast"]
"""How many base-128 digits the operands of matrix products have: three or two (docs/exact-v1.md)."""
INTEGER_BITS: Final[dict[Profile, int]] = {"full": 20, "fast": 13}
KEY: Final = TensorSpec("key", "int64", (2,))
"""What random operators are keyed with: two 32-bit words that follow from seed, step and micro-batch."""


class StepProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a training step computes.

    Inputs of `gradient`: parameters, buffers, batch, key; outputs: one gradient per parameter, the new values of the
    `moved` buffers for this micro-batch, the loss.
    Inputs of `update`: parameters, slots, gradients, scalars; outputs: parameters, slots.
    Inputs of `predict`: parameters, buffers, the batch tensors but the last (the target); output: one tensor.
    """

    arithmetic: Literal["exact-v1"]
    profile: Profile
    parameters: list[TensorSpec]
    buffers: list[TensorSpec]
    """What the model holds and does not train: running statistics, frozen weights, tables."""
    moved: list[Text]
    """Names of the buffers that a step changes."""
    slots: list[TensorSpec]
    batch: list[TensorSpec]
    scalars: Annotated[list[Scalar], msgspec.Meta(max_length=16)]
    gradient: Graph
    update: Graph
    predict: Graph

    @property
    def moved_specs(self) -> list[TensorSpec]:
        """The specs of the moved buffers."""
        by_name = {spec.name: spec for spec in self.buffers}
        return [by_name[name] for name in self.moved]

    @property
    def accumulated(self) -> list[TensorSpec]:
        """float32 tensors of which each micro-batch gives its own value and a step the mean: gradients, and the moved
        buffers of that type. Each has an exponent in the state (`exact/accumulate.py`)."""
        return [*self.parameters, *(spec for spec in self.moved_specs if spec.dtype == "float32")]

    @property
    def micro_batch_size(self) -> int:
        return self.batch[0].shape[0]


def encode_program(program: StepProgram) -> bytes:
    return to_json(program)


def program_name(data: bytes) -> str:
    """The name of an encoded program."""
    return blob_name(data)


def decode_program(data: bytes) -> StepProgram:
    """Reads a program from untrusted bytes.

    Raises:
        Refused: `too_large`, `malformed`, `not_canonical`, `unsupported_operator` or `bad_program`.
    """
    program = from_json(data, StepProgram, limit=MAX_PROGRAM_BYTES, what="program")
    _check_layout(program)
    for name in ("gradient", "update", "predict"):
        check_graph(getattr(program, name), name)
    _check_outputs(program)
    return program


def _check_layout(program: StepProgram) -> None:
    assert program.arithmetic == ARITHMETIC
    parameters, buffers, slots, batch = program.parameters, program.buffers, program.slots, program.batch
    for part in (parameters + buffers, slots, batch):
        if len({spec.name for spec in part}) != len(part):
            raise Refused(
                "bad_program", "program: two tensors of the model, two slots or two of the batch have one name"
            )
    if any(spec.dtype != "float32" for spec in parameters):
        raise Refused("bad_program", "program: a parameter is not float32")
    if not set(program.moved) <= {spec.name for spec in buffers} or len(set(program.moved)) != len(program.moved):
        raise Refused("bad_program", "program: a buffer that is said to move is not there, or is named twice")
    if any(spec.dtype not in {"float32", "int64"} for spec in program.moved_specs):
        raise Refused("bad_program", "program: a buffer that moves is neither float32 nor int64")
    if not parameters or len(batch) < 2 or any(not spec.shape or spec.shape[0] < 1 for spec in batch):
        raise Refused("bad_program", "program: needs parameters, and inputs and a target with a micro-batch dimension")
    if len({spec.shape[0] for spec in batch}) != 1:
        raise Refused("bad_program", "program: batch tensors differ in their first size")
    scalars = [SCALAR] * len(program.scalars)
    expected = (
        (program.gradient, [*parameters, *buffers, *batch, KEY], len(parameters) + len(program.moved) + 1),
        (program.update, [*parameters, *slots, *parameters, *scalars], len(parameters + slots)),
        (program.predict, parameters + buffers + batch[:-1], 1),
    )
    for graph, inputs, outputs in expected:
        if not _alike(graph.inputs, inputs) or len(graph.outputs) != outputs:
            raise Refused("bad_program", "program: a graph's inputs or outputs do not fit the state and the batch")


def _check_outputs(program: StepProgram) -> None:
    for graph, outputs in (
        (program.gradient, [*program.parameters, *program.moved_specs, SCALAR]),
        (program.update, program.parameters + program.slots),
    ):
        values = [*graph.inputs, *(node.result for node in graph.nodes)]
        if not _alike([values[ref.index] for ref in graph.outputs], outputs):
            raise Refused("bad_program", "program: a graph's outputs do not have the shapes of the state and the loss")


def _alike(have: list[TensorSpec], want: list[TensorSpec]) -> bool:
    """Whether dtypes and shapes are equal; names may differ."""
    return [(spec.dtype, spec.shape) for spec in have] == [(spec.dtype, spec.shape) for spec in want]


def check_graph(graph: Graph, what: str) -> None:
    """Refuses a graph with an unknown operator, a value used before it exists, or a tensor past the limits."""
    for spec in [*graph.inputs, *(node.result for node in graph.nodes)]:
        if spec.extent > MAX_ELEMENTS:
            raise Refused("bad_program", f"program: {what}: a tensor of shape {spec.shape} is over the limit")
    for number, node in enumerate(graph.nodes, start=len(graph.inputs)):
        if node.op not in OPERATORS:
            raise Refused(
                "unsupported_operator", f"operator {node.op} ({node.result.name}) is not part of {ARITHMETIC}"
            )
        _check_keywords(node, what)
        for atom in _atoms(node):
            if isinstance(atom, Ref) and atom.index >= number:
                raise Refused(
                    "bad_program", f"program: {what}: value {number} uses value {atom.index} before it exists"
                )
            if isinstance(atom, Float):
                _check_float(atom)
    count = len(graph.inputs) + len(graph.nodes)
    if any(ref.index >= count for ref in graph.outputs):
        raise Refused("bad_program", f"program: {what}: an output names a value that does not exist")


def _check_keywords(node: Node, what: str) -> None:
    """A dtype stands only at its keyword, and there nothing else: given -1 for a dtype, ATen crashes."""
    positional = [atom for arg in node.args for atom in (arg if isinstance(arg, list) else [arg])]
    fit = all(name in KEYWORDS and isinstance(arg, KEYWORDS[name]) for name, arg in node.kwargs.items())
    if not fit or any(isinstance(atom, DTypeName) for atom in positional):
        raise Refused("bad_program", f"program: {what}: {node.op} ({node.result.name}) has an argument of a wrong kind")


def _atoms(node: Node) -> list[Atom]:
    atoms: list[Atom] = []
    for arg in [*node.args, *node.kwargs.values()]:
        atoms.extend(arg if isinstance(arg, list) else [arg])
    return atoms


def _check_float(constant: Float) -> None:
    try:
        spelled = canonical_number(constant.value).hex()
    except (ValueError, OverflowError):
        spelled = None
    if spelled != constant.hex:
        raise Refused("not_canonical", f"program: {constant.hex!r} is not how a float32 is written here")
