"""Traces a PyTorch model, loss and optimizer into a `StepProgram`.

torch.func turns the model into a function of its parameters, make_fx records what a step does in ATen operators, and
the core decompositions reduce those to a small set. Meanwhile `_Places` notes which module each recorded operator
belongs to, so that a refusal can say where in the model it comes from.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._C._autograd import _get_sequence_nr as _sequence_number
from torch._decomp import core_aten_decompositions
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from tallystick.errors import Refused, TallystickError
from tallystick.exact import ARITHMETIC
from tallystick.exact.kernels import KERNELS
from tallystick.exact.rounding import canonical_number
from tallystick.program.graph import Arg, Atom, DTypeName, Float, Graph, Node, Ref, StepProgram, TensorSpec
from tallystick.program.interpreter import DTYPE_NAMES
from tallystick.program.optimizers import Optimizer, Tensors

Loss = Callable[[Tensor, Tensor], Tensor]
DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = cast(Any, core_aten_decompositions())
PLACEMENT = frozenset({"device", "layout", "pin_memory", "memory_format"})
"""Keyword arguments that say where and how a tensor lies, not what is in it."""


class TraceError(TallystickError):
    """PyTorch could not record the step as a graph."""


def trace(model: nn.Module, loss: Loss, optimizer: Optimizer, batch: Tensors) -> StepProgram:
    """Records one training step of `model`.

    Args:
        loss: maps the model's output and the target to a scalar, the mean over the micro-batch.
        batch: an example micro-batch: the model's inputs in order, then the target. First sizes are equal.

    Raises:
        Refused: `unsupported_operator`, `unsupported_dtype` or `unsupported_model`, naming the place in the model.
        TraceError: the model's Python cannot be recorded, for instance because it branches on values.
    """
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    if dict(model.named_buffers()):
        buffers = ", ".join(name for name, _ in model.named_buffers())
        raise Refused("unsupported_model", f"model: buffers are not supported yet: {buffers}; use parameters")
    slots = optimizer.slots(parameters)
    inputs = list(batch.values())
    names = list(parameters)

    def forward(values: dict[str, Tensor], *arguments: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(model, values, arguments)
        return output

    def objective(values: dict[str, Tensor], *arguments: Tensor) -> Tensor:
        return loss(forward(values, *arguments[:-1]), arguments[-1])

    def gradient(*flat: Tensor) -> list[Tensor]:
        values, arguments = dict(zip(names, flat, strict=False)), flat[len(names) :]
        gradients, value = torch.func.grad_and_value(objective)(values, *arguments)
        return [*(gradients[name] for name in names), value]

    def update(*flat: Tensor) -> list[Tensor]:
        p, s, g = len(names), len(slots), len(names)
        moved, kept = optimizer.update(
            dict(zip(names, flat[:p], strict=True)),
            dict(zip(slots, flat[p : p + s], strict=True)),
            dict(zip(names, flat[p + s : p + s + g], strict=True)),
            flat[-1],
        )
        return [*(moved[name] for name in names), *(kept[name] for name in slots)]

    def predict(*flat: Tensor) -> list[Tensor]:
        return [forward(dict(zip(names, flat, strict=False)), *flat[len(names) :])]

    weights = list(parameters.values())
    rate = torch.zeros(())
    return StepProgram(
        arithmetic=ARITHMETIC,
        parameters=specs(parameters),
        slots=specs(slots),
        batch=specs(batch),
        gradient=_record(_Places(model, "loss"), gradient, [*weights, *inputs], [*names, *batch]),
        update=_record(
            _Places(model, "optimizer"),
            update,
            [*weights, *slots.values(), *weights, rate],
            [*names, *slots, *names, "rate"],
        ),
        predict=_record(_Places(model, "model"), predict, [*weights, *inputs[:-1]], [*names, *list(batch)[:-1]]),
    )


def specs(tensors: Tensors) -> list[TensorSpec]:
    """What `tensors` are called, hold and measure."""
    return [_spec(name, value) for name, value in tensors.items()]


def _spec(name: str, value: Tensor) -> TensorSpec:
    dtype = DTYPE_NAMES.get(value.dtype)
    if dtype is None:
        raise Refused("unsupported_dtype", f"{name}: {value.dtype} is not part of {ARITHMETIC}; use float32")
    return TensorSpec(name, dtype, tuple(int(size) for size in value.shape))


def _record(
    places: "_Places", function: Callable[..., list[Tensor]], example: Sequence[Tensor], names: Sequence[str]
) -> Graph:
    """Runs `function` once on fake tensors and returns what it did as a `Graph`."""

    def watched(*values: Tensor) -> list[Tensor]:
        with places.watching():
            return function(*values)

    # Fresh tensors: make_fx tells inputs apart by object identity, and how an example lies in memory must not matter.
    distinct = [torch.empty(value.shape, dtype=value.dtype) for value in example]
    try:
        recorded = make_fx(watched, decomposition_table=DECOMPOSITIONS, tracing_mode="fake")(*distinct)
    except Refused:
        raise
    except (GuardOnDataDependentSymNode, DataDependentOutputException) as error:
        reason = "its Python looks at the values of a tensor; keep them in tensors, for instance with torch.where"
        raise TraceError(f"model: {places.here}: {reason}") from error
    except Exception as error:  # make_fx raises whatever the model raises
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise TraceError(f"model: {places.here}: cannot be recorded as a graph: {reason}") from error
    recorded.graph.eliminate_dead_code()
    return _to_graph(recorded.graph, [_spec(n, v) for n, v in zip(names, example, strict=True)], places.of)


class _Places(TorchDispatchMode):
    """Notes where in the model each recorded operator comes from.

    Hooks keep the path of the module whose forward runs. An operator that autograd will differentiate has a sequence
    number, so in the backward pass the number of the autograd node that runs leads back to the module.
    """

    def __init__(self, model: nn.Module, outside: str) -> None:
        TorchDispatchMode.__init__(self)
        self.of: dict[str, str] = {}
        """Name of a recorded node to its place."""
        self._paths = {id(module): path or type(model).__name__ for path, module in model.named_modules()}
        self._running = [outside]
        self._by_sequence: dict[int, str] = {}
        self._sequence = _sequence_number()

    @property
    def here(self) -> str:
        """The module whose forward runs, or ran when something was raised."""
        return self._running[-1]

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        place, mode = self._place(), get_proxy_mode()
        for node in reversed(mode.tracer.graph.nodes) if mode is not None else ():
            if node.name in self.of:
                break
            self.of[node.name] = place
        return result

    def _place(self) -> str:
        running = torch._C._current_autograd_node()
        if running is not None:
            return f"gradient of {self._by_sequence.get(running._sequence_nr(), self._running[0])}"
        now = _sequence_number()
        self._by_sequence |= dict.fromkeys(range(self._sequence, now), self.here)
        self._sequence = now
        return self.here

    def _enter(self, module: nn.Module, arguments: Any) -> None:
        self._running.append(self._paths.get(id(module), type(module).__name__))

    def _leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._running.pop()


def _to_graph(recorded: torch.fx.Graph, inputs: list[TensorSpec], places: dict[str, str]) -> Graph:
    index: dict[torch.fx.Node, int] = {}
    nodes: list[Node] = []
    outputs: list[Ref] = []
    for node in recorded.nodes:
        if node.op == "output":
            outputs = [Ref(index[value]) for value in node.args[0]]
        elif node.op == "placeholder":
            index[node] = len(index)
        elif node.op == "get_attr":
            raise Refused("unsupported_model", f"model: {node.target} is a constant tensor; make it a parameter")
        else:
            nodes.append(_to_node(node, index, places[node.name]))
            index[node] = len(index)
    return Graph(inputs, nodes, outputs)


def _to_node(node: torch.fx.Node, index: dict[torch.fx.Node, int], place: str) -> Node:
    op = str(node.target)
    if op not in KERNELS:
        raise Refused(
            "unsupported_operator",
            f"model: operator {op} in {place} is not part of {ARITHMETIC}; replace that layer or function",
        )
    args: list[Arg] = [_to_arg(arg, index, op, place) for arg in node.args]
    kwargs = {k: _to_arg(v, index, op, place) for k, v in node.kwargs.items() if k not in PLACEMENT}
    return Node(op, args, kwargs, _spec(place, node.meta["val"]))


def _to_arg(arg: Any, index: dict[torch.fx.Node, int], op: str, place: str) -> Arg:
    if isinstance(arg, list | tuple):
        return [_to_atom(item, index, op, place) for item in arg]
    return _to_atom(arg, index, op, place)


def _to_atom(arg: Any, index: dict[torch.fx.Node, int], op: str, place: str) -> Atom:
    match arg:
        case torch.fx.Node():
            return Ref(index[arg])
        case float():
            return Float(canonical_number(arg).hex())
        case torch.dtype() if arg in DTYPE_NAMES:
            return DTypeName(DTYPE_NAMES[arg])
        case bool() | int() | None:
            return arg
        case torch.dtype():
            raise Refused("unsupported_dtype", f"model: {op} in {place} uses {arg}; use float32")
        case _:
            raise Refused("unsupported_model", f"model: {op} in {place} has an argument of type {type(arg).__name__}")
