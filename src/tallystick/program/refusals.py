"""Why a model cannot be recorded, where that is, and what to do instead: the words of every such refusal.

An operator that needs values while it is recorded is refused when it is called, so the module that calls it is known.
What torch itself refuses in the middle of a model is told in its words, followed by what helps.
"""

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from tallystick.errors import Refused, TallystickError
from tallystick.exact import ARITHMETIC

LOOKS_AT_VALUES: Final = (
    "its Python looks at the values of a tensor; keep them in tensors, for instance with torch.where"
)
SIZE_FROM_VALUES: Final = (
    "makes a tensor whose size depends on values, and sizes are fixed in a program; "
    "keep every entry and use torch.where or a product with a mask"
)
LOOKS_AT_MEMORY: Final = (
    "looks at the memory of a tensor, as does the gradient of a write into part of one (x[:, 0] = y); "
    "use slices, torch.cat, torch.stack or torch.where, and layers with inplace=False"
)
NO_FUNCTION: Final = (
    "a gradient in Python cannot be recorded; use torch's own operators in place of the autograd.Function"
)
RANDOM: Final = f"is not part of {ARITHMETIC}; draw with nn.Dropout, torch.rand or torch.bernoulli"
NO_GENERATOR: Final = "is given a generator; leave that out, numbers follow from the seed of the training"
IN_EVALUATION: Final = (
    "draws random numbers in evaluation mode, where predictions must not be random; draw only while self.training "
    "is set, as nn.Dropout does"
)
DRAWN: Final = frozenset({"native_dropout", "bernoulli", "bernoulli_", "rand", "rand_like"})
"""Random operators that can be recorded, for they have a rule in `decompositions`."""
DATA_DEPENDENT: Final = (GuardOnDataDependentSymNode, DataDependentOutputException, DynamicOutputShapeException)

ADVICE: Final = {
    "data pointer": LOOKS_AT_VALUES,
    "unallocated storage": LOOKS_AT_VALUES,
    "setup_context": NO_FUNCTION,
    "custom_function_call": NO_FUNCTION,
    "modified by an inplace operation": (
        "write y = y + 1 for y += 1, or inplace=False: "
        "make a new tensor in place of writing into one that the gradient needs"
    ),
    "leaf Variable that requires grad": "the forward pass must not write into a parameter; make a new tensor",
    "saved tensor hooks": "switch activation checkpointing off",
    "requires_grad_": "do not take gradients in the forward pass",
    "derivative for": "that operator has no gradient; replace it, or detach its operand",
    "return a scalar Tensor": "the loss must be one number; take its mean over the micro-batch",
    "return a Tensor": "the loss must be a tensor, without .item() or float()",
    "Jitted": "give the module as it was before torch.jit.script",
    "dynamo-optimized": "give the module as it was before torch.compile",
    "positional argument": "the batch's tensors in order are the arguments of forward, and the last one is the target",
    "cuda": "leave the tensors where they are",
    "cross_entropy_loss(): argument 'input'": "let the model return a tensor, or the loss take what the model returns",
}
"""Part of what torch says, to what to do."""

INSTEAD: Final = {
    "sort": "order does not matter to sums and extremes: use amax, amin or mean",
    "topk": "use amax and argmax",
    "median": "use mean",
    "pow.Tensor_Tensor": "use torch.exp(y * torch.log(x))",
    "_to_sparse": "keep tensors dense",
    "view_as_complex": "keep real and imaginary parts in two tensors",
    "upsample_bilinear2d": 'use mode="nearest"',
}
"""ATen operator, with or without its overload, to what can stand in its place."""


class TraceError(TallystickError):
    """PyTorch could not record the step as a graph."""


def unsupported(op: str, place: str) -> str:
    """What to say of an operator that is not in the table."""
    name, _, overload = op.partition("/")[0].partition(".")[2].rpartition(".")
    advice = INSTEAD.get(f"{name}.{overload}") or INSTEAD.get(name) or "replace that layer or function"
    return f"model: operator {op} in {place} is not part of {ARITHMETIC}; {advice} (docs/models.md)"


def require_convolution(axes: int, transposed: bool, place: str) -> None:
    """Refuses the convolutions that exact kernels do not do.

    Raises:
        Refused: `unsupported_operator`.
    """
    if transposed:
        what, advice = "transposed", "use nn.Upsample and a convolution"
    elif axes not in {1, 2}:
        what, advice = f"over {axes} axes", "use nn.Conv2d with one axis among the samples or channels"
    else:
        return
    reason = f"model: operator aten.convolution.default in {place} is {what}, which is not part of {ARITHMETIC}"
    raise Refused("unsupported_operator", f"{reason}; {advice} (docs/models.md)")


def require_recordable(operator: Any, arguments: list[Any], place: str, call: str, training: bool) -> None:
    """Refuses random operators that have no rule, before they are recorded.

    Raises:
        TraceError
    """
    if torch.Tag.nondeterministic_seeded not in operator.tags:
        return
    if not training:
        reason = IN_EVALUATION
    elif operator.overloadpacket.__name__ not in DRAWN:
        reason = RANDOM
    elif any(isinstance(argument, torch.Generator) for argument in arguments):
        reason = NO_GENERATOR
    else:
        return
    raise TraceError(f"model: {place}: {call}: operator {operator} {reason}")


def require_no_values(operator: Any, result: Any, place: str, call: str) -> None:
    """Refuses an operator whose result is a number, or has a size, that is not known without values.

    Args:
        call: the function of torch that the model called.

    Raises:
        TraceError
    """
    for part in _parts(result):
        if isinstance(part, torch.SymInt | torch.SymFloat | torch.SymBool):
            raise TraceError(f"model: {place}: {call}: {LOOKS_AT_VALUES}")
        if isinstance(part, Tensor) and not all(isinstance(size, int) for size in part.shape):
            raise TraceError(f"model: {place}: {call}: operator {operator} {SIZE_FROM_VALUES}")


def _parts(result: Any) -> Iterator[Any]:
    if isinstance(result, tuple | list):
        for part in result:
            yield from _parts(part)
    else:
        yield result


def cannot_be_recorded(error: Exception, where: str) -> TraceError:
    """The refusal for what came up while the model ran."""
    if isinstance(error, DATA_DEPENDENT):
        return TraceError(f"model: {where}: {LOOKS_AT_VALUES}")
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    advice = next((f"; {advice}" for part, advice in ADVICE.items() if part in str(error)), "")
    return TraceError(f"model: {where}: cannot be recorded as a graph: {reason}{advice}")
