"""Where in a model each recorded operator comes from, and which call failed, so that a refusal can say it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._C._autograd import _get_sequence_nr as _sequence_number
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from tallystick.program.refusals import require_no_values, require_recordable


class Calls(TorchFunctionMode):
    """Notes which function or method of torch's the model calls."""

    def __init__(self) -> None:
        super().__init__()
        self.running = ""
        self.failed: tuple[Exception | None, str] = (None, "")
        """What the last call that failed has raised, and which call that was."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.running = resolve_name(func) or getattr(func, "__name__", "")
        try:
            if func is nn.functional.adaptive_avg_pool2d and args:  # it rewrites strides where channels lie last
                args = (args[0].clone(memory_format=torch.contiguous_format), *args[1:])
            result = func(*args, **(kwargs or {}))
        except Exception as error:
            self.failed = error, self.running
            raise
        self.running = ""
        return result


class Places(TorchDispatchMode):
    """Notes where in the model each recorded operator comes from.

    Hooks keep the path of the module whose forward runs. An operator that autograd will differentiate has a sequence
    number, so in the backward pass the number of the autograd node that runs leads back to the module.
    """

    def __init__(self, model: nn.Module, outside: str, training: bool = False) -> None:
        TorchDispatchMode.__init__(self)
        self._training = training
        self._calls = Calls()
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

    def call_of(self, error: Exception) -> str:
        """The call of torch's that raised `error`; empty if the model's own Python did."""
        raised, call = self._calls.failed
        return call if raised is error else ""

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
