"""Where in a model each recorded operator comes from, and which call failed, so that a refusal can say it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import _get_sequence_nr as _sequence_number
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from tallystick.program.refusals import require_no_values, require_recordable


class Calls(TorchFunctionMode):
    """Notes which function or method of torch's the model calls."""

    def __init__(self, here: Callable[[], str]) -> None:
        super().__init__()
        self._here = here
        self.running = ""
        self.failed: tuple[Exception | None, str] = (None, "")
        """What the last call that failed has raised, and which call that was."""
        self.writes: list[tuple[str, str]] = []
        """Of each write in place: how torch describes the tensor, and who wrote."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.running = resolve_name(func) or getattr(func, "__name__", "")
        first = args[0] if args and isinstance(args[0], Tensor) else None
        before = None if first is None else (first._version, _described(first))
        try:
            if func is nn.functional.adaptive_avg_pool2d and args:  # it rewrites strides where channels lie last
                args = (args[0].clone(memory_format=torch.contiguous_format), *args[1:])
            result = func(*args, **(kwargs or {}))
        except Exception as error:
            self.failed = error, self.running
            raise
        if first is not None and before is not None and first._version != before[0]:
            self.writes.append((before[1], f"{self._here()}: {self.running}"))
        self.running = ""
        return result


def _described(x: Tensor) -> str:
    """Shape and origin, as torch names a tensor that was written into too early."""
    origin = "" if x.grad_fn is None else f" of {x.grad_fn.name().partition('Backward')[0]}"
    return f"{list(x.shape)}], which is output {x.output_nr}{origin}"


class Places(TorchDispatchMode):
    """Notes where in the model each recorded operator comes from.

    Hooks keep the path of the module whose forward runs. An operator that autograd will differentiate has a sequence
    number, so in the backward pass the number of the autograd node that runs leads back to the module.
    """

    def __init__(self, model: nn.Module, outside: str, training: bool = False) -> None:
        TorchDispatchMode.__init__(self)
        self._training = training
        self._calls = Calls(lambda: self.here)
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

    def where(self, error: Exception) -> str:
        """The module that raised `error`, and the call of torch's if that did; the writes that can have caused it, if
        the gradient found a tensor changed."""
        writes = [write for described, write in self._calls.writes if described in str(error)]
        if "modified by an inplace operation" in str(error) and writes:
            return " or ".join(dict.fromkeys(writes))
        raised, call = self._calls.failed
        return f"{self.here}: {call}" if raised is error and call else self.here

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)]
        try:
            with self._calls, self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        require_recordable(func, [*args, *(kwargs or {}).values()], self.here, self._calls.running, self._training)
        result = func(*args, **(kwargs or {}))
        require_no_values(func, result, self.here, self._calls.running)
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
        self._note_sequence()
        return self.here

    def _note_sequence(self) -> None:
        """Autograd nodes made since the last note belong to what runs now."""
        now = _sequence_number()
        self._by_sequence |= dict.fromkeys(range(self._sequence, now), self.here)
        self._sequence = now

    def _enter(self, module: nn.Module, arguments: Any) -> None:
        self._note_sequence()
        self._running.append(self._paths.get(id(module), type(module).__name__))

    def _leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._note_sequence()
        self._running.pop()
