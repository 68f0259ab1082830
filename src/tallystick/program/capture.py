"""Records what a function of tensors does, as a `Graph`.

make_fx runs the function once on fake tensors, which have shapes and no values. Before operators are recorded,
attention is reduced to products and a softmax, recurrent layers to their cells, and writes in place become new values
(functionalization); decompositions reduce the rest to a small set. What is left is translated node by node.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from tallystick.errors import Refused, TallystickError
from tallystick.exact import ARITHMETIC
from tallystick.exact.kernels import OPERATORS
from tallystick.exact.rounding import canonical_number
from tallystick.program.decompositions import Noise, table
from tallystick.program.graph import Arg, Atom, DTypeName, Float, Graph, Node, Ref, TensorSpec
from tallystick.program.interpreter import DTYPE_NAMES
from tallystick.program.optimizers import Tensors
from tallystick.program.places import Places
from tallystick.program.refusals import LOOKS_AT_MEMORY, cannot_be_recorded, require_convolution, unsupported

PLACEMENT: Final = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking"})
"""Keyword arguments that say where and how a tensor lies, not what is in it."""
COPIES: Final = {
    "aten.copy.default": 1,
    "aten.alias.default": 0,
    "aten.clone.default": 0,
    "aten.detach.default": 0,
    "aten.lift_fresh_copy.default": 0,
}
"""Operators that return one of their arguments, and which: values never change here, so no copy is needed."""


@dataclass(frozen=True)
class Captured:
    graph: Graph
    """Its outputs are the function's, then the new values of `written`."""
    written: tuple[int, ...]
    """Inputs that the function writes into, in order."""


def capture(
    places: Places, function: Callable[..., list[Tensor]], example: Tensors, noise: Noise, key: bool = False
) -> Captured:
    """Records `function` of the tensors in `example`.

    Args:
        key: whether the last input is the key that random operators draw with.

    Raises:
        Refused: `unsupported_operator`, `unsupported_dtype` or `unsupported_model`.
        TraceError: PyTorch cannot record it, for instance because it branches on values.
    """

    def watched(*values: Tensor) -> list[Tensor]:
        with places.watching():
            return function(*values)

    def functional(*values: Tensor) -> list[Tensor]:
        noise.key = values[-1] if key else None
        result: list[Tensor] = torch.func.functionalize(watched)(*values)
        return result

    # Fresh tensors: make_fx tells inputs apart by object identity, and how an example lies in memory must not matter.
    distinct = [torch.empty(value.shape, dtype=value.dtype) for value in example.values()]
    try:
        with _reducing():
            recorded = make_fx(
                functional, decomposition_table=table(noise), tracing_mode="fake", _allow_non_fake_inputs=True
            )(*distinct)
            recorded.graph.eliminate_dead_code()
            # Once more: some decompositions write in place into what they have just made.
            replay = _Replay(recorded, places.of)
            recorded = make_fx(torch.func.functionalize(replay.run), tracing_mode="fake", _allow_non_fake_inputs=True)(
                *distinct
            )
        recorded.graph.eliminate_dead_code()
        return _Translation(recorded, replay.places).translate([spec_of(n, v) for n, v in example.items()])
    except TallystickError:
        raise
    except Exception as error:  # make_fx raises whatever the model raises
        raise cannot_be_recorded(error, places.where(error)) from error


def spec_of(name: str, value: Tensor) -> TensorSpec:
    """What `value` holds and measures.

    Raises:
        Refused: `unsupported_dtype`.
    """
    dtype = DTYPE_NAMES.get(value.dtype)
    if dtype is None:
        raise Refused("unsupported_dtype", f"{name}: {value.dtype} is not part of {ARITHMETIC}; use float32")
    return TensorSpec(name, dtype, tuple(int(size) for size in value.shape))


@contextmanager
def _reducing() -> Iterator[None]:
    """Attention as products and a softmax, recurrent layers as their cells: not as one opaque operator each."""
    loud = logging.getLogger("torch._subclasses.fake_tensor")  # prints a traceback for what we then explain
    was_loud, loud.disabled = loud.disabled, True
    before = torch._C._get_mkldnn_enabled()  # torch.backends.mkldnn.flags warns about GPUs that are not there
    torch._C._set_mkldnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch._C._set_mkldnn_enabled(before)
        loud.disabled = was_loud


class _Replay(fx.Interpreter):
    """Runs a recorded graph to record it again, and keeps track of where its nodes come from."""

    def __init__(self, recorded: fx.GraphModule, before: dict[str, str]) -> None:
        super().__init__(recorded)
        self._before = before
        self.places: dict[str, str] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        mode = get_proxy_mode()
        for node in reversed(mode.tracer.graph.nodes) if mode is not None else ():
            if node.name in self.places:
                break
            self.places[node.name] = self._before.get(n.name, "model")
        return result


class _Translation:
    """From torch.fx's graph to ours."""

    def __init__(self, recorded: fx.GraphModule, places: dict[str, str]) -> None:
        self._recorded, self._places = recorded, places
        self._index: dict[fx.Node, int] = {}
        self._inputs = 0
        self._nodes: list[Node] = []
        self._written: dict[int, fx.Node] = {}

    def translate(self, inputs: list[TensorSpec]) -> Captured:
        outputs: list[fx.Node] = []
        placeholders = [node for node in self._recorded.graph.nodes if node.op == "placeholder"]
        self._index, self._inputs = {node: index for index, node in enumerate(placeholders)}, len(placeholders)
        for node in self._recorded.graph.nodes:
            if node.op == "get_attr":
                place = next((self._places[user.name] for user in node.users if user.name in self._places), "model")
                self._fill(node, getattr(self._recorded, node.target), place)
            elif node.op == "output":
                outputs = list(node.args[0])
            elif node.op == "call_function":
                self._translate(node)
        written = tuple(sorted(self._written))
        refs = [Ref(self._index[node]) for node in [*outputs, *(self._written[place] for place in written)]]
        return Captured(Graph(inputs, self._nodes, refs), written)

    def _fill(self, node: fx.Node, value: Tensor, place: str) -> None:
        """A tensor that the model's Python made from numbers; one number can be written into the program."""
        entries = value.reshape(-1)
        if entries.numel() and bool((entries != entries[0]).any()):
            shape = tuple(value.shape)
            reason = f"model: {place} uses a constant tensor {shape} that is no buffer; hold it by register_buffer"
            raise Refused("unsupported_model", reason)
        number = self._atom(entries[0].item() if entries.numel() else 0, "constant", place)
        spec = spec_of("constant", value)
        filled = Node("aten.full.default", [list(spec.shape), number], {"dtype": DTypeName(spec.dtype)}, spec)
        self._add(node, filled)

    def _translate(self, node: fx.Node) -> None:
        place = self._places.get(node.name, "model")
        if node.target is torch.ops.aten.copy_.default:
            self._note_write(node, place)
        elif getattr(node.target, "__name__", "") == "getitem":
            self._translate_output(node, place)
        elif str(node.target) in COPIES and _alike(node, value := cast(fx.Node, node.args[COPIES[str(node.target)]])):
            self._index[node] = self._index[value]
        elif node.target is torch.ops.aten.transpose.int:
            self._append(node, "aten.permute.default", _as_permutation(node), {}, place)
        elif isinstance(node.meta["val"], Tensor):
            self._append(node, str(node.target), node.args, node.kwargs, place)
        # A node with several outputs becomes one node for each that is used, at its getitem.

    def _note_write(self, node: fx.Node, place: str) -> None:
        """A write into an input: its new value is an output. Functionalization leaves no other writes."""
        target, value = cast(tuple[fx.Node, fx.Node], node.args[:2])
        if target.op != "placeholder":
            raise Refused(
                "unsupported_model", f"model: {place} writes in place into part of a tensor; use a new tensor"
            )
        self._written[self._index[target]] = value

    def _translate_output(self, node: fx.Node, place: str) -> None:
        source, output = cast(tuple[fx.Node, int], node.args)
        if source.target is torch.ops.aten.split_with_sizes.default:
            tensor, sizes, dim = (*source.args, 0)[:3]
            start = sum(cast(list[int], sizes)[:output])
            stop = start + cast(list[int], sizes)[output]
            self._append(node, "aten.slice.Tensor", (tensor, dim, start, stop), {}, place)
        else:
            self._append(node, f"{source.target}/{output}", source.args, source.kwargs, place)

    def _append(self, node: fx.Node, op: str, args: Sequence[Any], kwargs: dict[str, Any], place: str) -> None:
        if op in {"aten.as_strided.default", "aten.as_strided_scatter.default"}:
            op, args = _by_shape(node, place)
        if op not in OPERATORS:
            raise Refused("unsupported_operator", unsupported(op, place))
        if op == "aten.convolution.default":
            require_convolution(args[0].meta["val"].dim() - 2, args[6], place)
        translated = [self._arg(arg, op, place) for arg in args]
        named = {k: self._arg(v, op, place) for k, v in kwargs.items() if k not in PLACEMENT and v is not None}
        self._add(node, Node(op, translated, named, spec_of(place, node.meta["val"])))

    def _add(self, node: fx.Node, translated: Node) -> None:
        self._index[node] = self._inputs + len(self._nodes)
        self._nodes.append(translated)

    def _arg(self, arg: Any, op: str, place: str) -> Arg:
        if isinstance(arg, list | tuple):
            return [self._atom(item, op, place) for item in arg]
        return self._atom(arg, op, place)

    def _atom(self, arg: Any, op: str, place: str) -> Atom:
        match arg:
            case fx.Node():
                return Ref(self._index[arg])
            case float():
                return Float(canonical_number(arg).hex())
            case torch.dtype() if arg in DTYPE_NAMES:
                return DTypeName(DTYPE_NAMES[arg])
            case bool() | int() | None:
                return arg
            case torch.dtype():
                raise Refused("unsupported_dtype", f"model: {op} in {place} uses {arg}; use float32")
            case _:
                kind = type(arg).__name__
                raise Refused("unsupported_model", f"model: {op} in {place} has an argument of type {kind}")


def _alike(node: fx.Node, other: fx.Node) -> bool:
    mine, theirs = node.meta["val"], other.meta["val"]
    return bool(mine.shape == theirs.shape and mine.dtype == theirs.dtype)


def _as_permutation(node: fx.Node) -> tuple[Any, ...]:
    source, first, second = cast(tuple[fx.Node, int, int], node.args)
    order = list(range(source.meta["val"].dim()))
    order[first], order[second] = order[second], order[first]
    return (source, order)


def _by_shape(node: fx.Node, place: str) -> tuple[str, tuple[Any, ...]]:
    """What an as_strided does where it takes or writes all of a contiguous tensor, as the gradient of a write in place
    into a view does, or takes the part that comes from splitting one.

    How a tensor lies in memory is no part of its value, so as_strided itself cannot be part of a program.
    """
    scatters = node.target is torch.ops.aten.as_strided_scatter.default
    source, *rest = node.args
    written = rest.pop(0) if scatters else None
    size, stride, offset = cast(tuple[list[int], list[int], int], (*rest, 0)[:3])
    base = cast(fx.Node, source).meta["val"]
    if base.is_contiguous() and base.storage_offset() == 0:
        dense = torch.empty_strided(size, stride, device="meta").is_contiguous()
        if dense and offset == 0 and math.prod(size) == base.numel():
            return "aten.view.default", (written, list(base.shape)) if scatters else (source, list(size))
        differing = [d for d in range(base.dim()) if len(size) == base.dim() and size[d] != base.shape[d]]
        if not scatters and tuple(stride) == base.stride() and len(differing) == 1:
            dim = differing[0]
            start, left = divmod(offset, base.stride(dim))
            if left == 0 and start + size[dim] <= base.shape[dim]:
                return "aten.slice.Tensor", (source, dim, start, start + size[dim])
    raise Refused("unsupported_model", f"model: {place}: {node.target}: {LOOKS_AT_MEMORY}")
