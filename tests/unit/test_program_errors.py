"""What a model may not do is refused with the operator or call, its place in the model and the way out, in one line."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmarks.cases import started
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tallystick.errors import NonFiniteError, Refused, TallystickError
from tallystick.program.optimizers import SGD
from tallystick.program.schedule import ConstantRate
from tallystick.program.trace import Traced, trace
from tallystick.program.training import train_step

GENERATOR = torch.Generator().manual_seed(5)
X, LABELS = torch.randn(8, 4, generator=GENERATOR), torch.randint(0, 3, (8,), generator=GENERATOR)
TABLE = torch.randn(4, generator=GENERATOR)
Step = Callable[[Any, Tensor], Any]


class Layer(nn.Module):
    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step
        self.linear = nn.Linear(4, 4)
        self.register_buffer("held", torch.zeros(4))

    def forward(self, x: Tensor) -> Any:
        return self.step(self, self.linear(x))


class Net(nn.Module):
    """The step under test runs in `encoder.layers.1`."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"layers": nn.Sequential(nn.Linear(4, 4), Layer(step))})
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.encoder["layers"](x))
        return result


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.mul(x, x)


class ReadySquare(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.mul(gradients[0] * 2, ctx.saved_tensors[0])


def applied(function: Any) -> Step:
    return lambda _, x: function.apply(x)


def step_of(model: nn.Module, loss: Any = functional.cross_entropy, **batch: Tensor) -> Traced:
    return trace(model, loss, SGD(), batch or {"x": X, "y": LABELS})


def message(act: Callable[[], object]) -> str:
    with pytest.raises(TallystickError) as raised:
        act()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def branching(layer: Layer, x: Tensor) -> Tensor:
    return x * 2 if x.sum() > 0 else x


def writing_a_column(layer: Layer, x: Tensor) -> Tensor:
    y = x * 1
    y[:, 0] = 0.0
    return y


def copying_a_column(layer: Layer, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 1] = x[:, 1]
    return y


def writing_into_a_view_in_another_order(layer: Layer, x: Tensor) -> Tensor:
    """The view is contiguous, and what it is a view of is not: to take the memory of both alike would be wrong."""
    base = x.t() * 2
    base.t().relu_()
    return x + base.t()


def writing_a_parameter(layer: Layer, x: Tensor) -> Tensor:
    layer.linear.weight.data.mul_(0.9)
    return x


def writing_without_gradient(layer: Layer, x: Tensor) -> Tensor:
    with torch.no_grad():
        layer.linear.weight.mul_(0.9)
    return x


def writing_a_leaf(layer: Layer, x: Tensor) -> Tensor:
    layer.linear.weight.mul_(0.9)
    return x


VALUES, SIZES = "keep them in tensors, for instance with torch.where", "keep every entry and use torch.where"
REFUSED: dict[str, tuple[Step, str, str]] = {
    "sort": (lambda _, x: torch.sort(x)[0], "aten.sort.default", "use amax, amin or mean"),
    "special function": (lambda _, x: torch.erfinv(x), "aten.erfinv.default", "replace that layer or function"),
    "power": (lambda _, x: x.abs() ** x, "aten.pow.Tensor_Tensor", "use torch.exp(y * torch.log(x))"),
    "complex": (
        lambda _, x: torch.view_as_complex(x.view(8, 2, 2)).abs().repeat(1, 2),
        "aten.view_as_complex",
        "two tensors",
    ),
    "double": (lambda _, x: x.double().float(), "torch.float64", "use float32"),
    "half": (lambda _, x: x.half().float(), "torch.float16", "use float32"),
    "branch": (branching, "torch.Tensor.__bool__", VALUES),
    "item": (lambda _, x: x * x.sum().item(), "torch.Tensor.item", VALUES),
    "int": (lambda _, x: x + torch.arange(int(x.sum())).sum(), "torch.Tensor.__int__", VALUES),
    "tolist": (lambda _, x: x * x.tolist()[0][0], "torch.Tensor.tolist", VALUES),
    "numpy": (lambda _, x: x * torch.from_numpy(x.detach().numpy()), "torch.Tensor.numpy", VALUES),
    "nonzero": (lambda _, x: x[x.sum(1).nonzero()[:, 0]], "aten.nonzero.default", SIZES),
    "mask": (lambda _, x: x[x.sum(1) > 0], "aten.index.Tensor", SIZES),
    "unique": (lambda _, x: x + torch.unique(x).sum(), "aten._unique2.default", SIZES),
    "selection": (lambda _, x: x + x.masked_select(x > 0).sum(), "aten.masked_select.default", SIZES),
    "repetition": (lambda _, x: x.repeat_interleave((x[:, 0] > 0).long(), 0), "aten.repeat_interleave", SIZES),
    "normal": (lambda _, x: x + torch.randn_like(x), "aten.randn_like.default", "draw with nn.Dropout"),
    "multinomial": (lambda _, x: x + torch.multinomial(x.softmax(-1), 1), "aten.multinomial", "draw with nn.Dropout"),
    "generator": (lambda _, x: x + torch.rand(8, 4, generator=GENERATOR), "aten.rand.generator", "leave that out"),
    "rand": (lambda _, x: x + torch.rand(8, 4), "torch.rand", "only while self.training"),
    "bernoulli": (lambda _, x: x * torch.bernoulli(x * 0 + 0.5), "torch.bernoulli", "only while self.training"),
    "dropout": (lambda _, x: functional.dropout(x), "torch.nn.functional.dropout", "only while self.training"),
    "function": (applied(Square), "autograd.Function", "use torch's own operators"),
    "function with a context": (applied(ReadySquare), "custom_function_call", "use torch's own operators"),
    "checkpoint": (lambda _, x: checkpoint(torch.relu, x, use_reentrant=False), "hooks", "checkpointing off"),
    "column": (writing_a_column, "aten.as_strided.default", "use slices, torch.cat, torch.stack or torch.where"),
    "copied column": (copying_a_column, "aten.as_strided", "use slices, torch.cat, torch.stack or torch.where"),
    "in place on a transposed view": (lambda _, x: x.t().relu_().t(), "aten.as_strided", "layers with inplace=False"),
    "in place in another order": (writing_into_a_view_in_another_order, "aten.as_strided", "layers with inplace=False"),
    "memory": (lambda _, x: torch.as_strided(x, (8, 4), (1, 8)), "aten.as_strided.default", "use slices"),
    "parameter": (writing_a_parameter, "linear.weight is a parameter", "make a new tensor"),
    "leaf": (writing_a_leaf, "torch.Tensor.mul_", "make a new tensor"),
    "convolution over three axes": (
        lambda layer, x: functional.conv3d(x.view(8, 1, 2, 2, 1), layer.linear.weight.view(16, 1, 1, 1, 1))[
            :, 0
        ].flatten(1),
        "aten.convolution.default",
        "is over 3 axes, which is not part of exact-v1; use nn.Conv2d",
    ),
    "transposed convolution": (
        lambda layer, x: functional.conv_transpose1d(x[:, None], layer.linear.weight[:1, None])[:, 0, :4],
        "aten.convolution.default",
        "is transposed, which is not part of exact-v1; use nn.Upsample and a convolution",
    ),
    "constant": (lambda _, x: x + TABLE, "constant tensor (4,)", "register_buffer"),
    "shapes": (lambda _, x: x @ torch.ones(3, 3), "torch.Tensor.matmul", "[8, 4] X [3, 3]"),
    "own error": (lambda _, x: 1 / 0, "cannot be recorded", "division by zero"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_operator_place_and_way_out(case: str) -> None:
    step, what, way_out = REFUSED[case]
    said = message(lambda: step_of(Net(step)))
    assert what in said
    assert "encoder.layers.1" in said
    assert way_out in said


def test_a_write_that_only_autograd_sees_is_explained() -> None:
    said = message(lambda: step_of(Net(writing_without_gradient)))
    assert "modified by an inplace operation" in said
    assert said.endswith("make a new tensor in place of writing into one that the gradient needs")


def writing_into_an_exponential(layer: Layer, x: Tensor) -> Tensor:
    y = x.exp()
    y.add_(1)
    return y


EARLY: dict[str, tuple[Step, str]] = {
    "method": (writing_into_an_exponential, "torch.Tensor.add_"),
    "operator": (lambda _, x: torch.sigmoid(x).__imul__(2), "torch.Tensor.mul_"),
    "layer": (lambda layer, x: functional.dropout(x.relu(), 0.5, layer.training, inplace=True), "dropout"),
}


@pytest.mark.parametrize("case", EARLY)
def test_a_write_into_what_the_gradient_needs_names_who_wrote(case: str) -> None:
    step, call = EARLY[case]
    said = message(lambda: step_of(Net(step)))
    assert said.startswith("model: encoder.layers.1: torch.") and call in said.partition(": cannot be recorded")[0]
    assert said.endswith("make a new tensor in place of writing into one that the gradient needs")


def test_of_several_writes_only_those_are_named_that_can_be_meant() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), Net(writing_into_an_exponential))
    said = message(lambda: step_of(model))
    assert said.startswith("model: 2.encoder.layers.1: torch.Tensor.add_: cannot be recorded as a graph: ")


WORKING: dict[str, Step] = {
    "write into a new tensor": lambda _, x: x.clone().masked_fill_(x > 0, 0.0).add_(1.0),
    "activation in place": lambda _, x: x.relu_(),
    "activation in place on a view": lambda _, x: x.view(8, 2, 2).relu_().flatten(1),
    "in place on a view of what is used again": lambda _, x: x.view(2, 16).mul_(3.0).view(8, 4) * x,
    "in place on a view of a view": lambda _, x: functional.silu(x.view(4, 8).view(8, 4), inplace=True) + x,
    "largest along a dimension": lambda _, x: x + x.max(1, keepdim=True)[0] - x.min(1, keepdim=True).values,
    "norm": lambda _, x: functional.normalize(x),
    "buffer": lambda layer, x: x + layer.held.add_(x.detach().mean(0)),
    "random while training": lambda layer, x: x + torch.rand(8, 4) if layer.training else x,
}


@pytest.mark.parametrize("case", WORKING)
def test_what_can_be_recorded_has_the_gradient_that_torch_computes(case: str) -> None:
    torch.manual_seed(1)
    model = Net(WORKING[case])
    traced = step_of(model)
    if "random" in case or "buffer" in case:
        return  # torch draws other numbers; a buffer moves
    functional.cross_entropy(model(X), LABELS).backward()
    weight = model.get_parameter("encoder.layers.1.linear.weight")
    before = weight.detach().clone()
    records = {"x": X, "y": LABELS}
    training, state = started(model, traced.program, records, ConstantRate("1"))
    after, _ = train_step(training, state, 0)
    name = "parameter/encoder.layers.1.linear.weight"
    assert weight.grad is not None
    assert torch.allclose(before - after[name], weight.grad, atol=1e-5)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.spare = nn.Linear(2, 2)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.embedding(tokens))}


def named_loss(output: dict[str, Tensor], target: Tensor) -> Tensor:
    return functional.cross_entropy(output["logits"], target)


def test_tied_weights_get_both_gradients_and_an_unused_parameter_none() -> None:
    model, tokens = Tied(), torch.arange(8) % 5
    traced = step_of(model, named_loss, x=tokens, y=tokens)
    assert [p.name for p in traced.program.parameters] == ["embedding.weight", "spare.weight", "spare.bias"]
    named_loss(model(tokens), tokens).backward()
    training, state = started(model, traced.program, {"x": tokens, "y": tokens}, ConstantRate("1"))
    after, _ = train_step(training, state, 0)
    assert model.embedding.weight.grad is not None
    moved = state["parameter/embedding.weight"] - after["parameter/embedding.weight"]
    assert torch.allclose(moved, model.embedding.weight.grad, atol=1e-5)
    assert torch.equal(after["parameter/spare.weight"], state["parameter/spare.weight"])


cross_entropy_of_anything: Any = functional.cross_entropy


def linear() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda o, t: functional.cross_entropy(o, t, reduction="none"), "the loss must be one number; take its mean"),
        (lambda o, t: 1.0, "the loss must be a tensor"),
        (lambda o, t: functional.cross_entropy(o, t).item(), "torch.Tensor.item: its Python looks at the values"),
        (lambda o, t: functional.cross_entropy(o, t).detach(), "it depends on no parameter; do not detach it"),
        (lambda o, t: o.argmax(), "it is int64 (); return one float32 number"),
        (lambda o, t: cross_entropy_of_anything({"logits": o}, t), "or the loss take what the model returns"),
        (lambda o, t: torch.sort(o)[0].mean(), "operator aten.sort.default/0 in loss"),
    ],
)
def test_a_loss_that_is_none_is_refused(loss: Any, what: str) -> None:
    said = message(lambda: step_of(linear(), loss))
    assert said.startswith("model: ")
    assert "loss" in said
    assert what in said


@pytest.mark.parametrize("step", [lambda x: x.add_(1), lambda x: x[:, 0].zero_()])
def test_a_write_into_the_batch_names_its_tensor(step: Callable[[Tensor], object]) -> None:
    class Writing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            step(x)
            return super().forward(x)

    said = message(lambda: step_of(Writing(4, 3)))
    assert said.startswith("model: x is a tensor of the batch, and the step writes into it in place; make a new tensor")


@pytest.mark.parametrize(
    ("model", "batch", "what"),
    [
        (
            linear().double(),
            {"x": X.double(), "y": LABELS},
            "0.weight: torch.float64 is not part of exact-v1; use float32",
        ),
        (linear(), {"x": X.half(), "y": LABELS}, "x: torch.float16 is not part of exact-v1; use float32"),
        (linear(), {"x": X}, "the batch's tensors in order are the arguments of forward"),
        (linear(), {"x": X, "mask": X, "y": LABELS}, "the batch's tensors in order are the arguments of forward"),
        (
            nn.Sequential(nn.LazyLinear(3)),
            {"x": X, "y": LABELS},
            "0.weight has no shape yet; run the model on one batch",
        ),
        (nn.Flatten(), {"x": X, "y": LABELS}, "no parameter requires a gradient"),
    ],
)
def test_a_model_or_batch_that_does_not_fit_is_refused(model: nn.Module, batch: dict[str, Tensor], what: str) -> None:
    assert what in message(lambda: step_of(model, **batch))


def squared(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).mean()


def trained(loss: Any, rate: str, **records: Tensor) -> None:
    model = linear()
    training, state = started(model, step_of(model, loss, **records).program, records, ConstantRate(rate))
    for step in range(20):
        state, _ = train_step(training, state, step)


def test_diverging_names_step_operator_and_what_to_do() -> None:
    with pytest.raises(NonFiniteError) as raised:
        trained(squared, "1e12", x=X, y=torch.zeros(8, 3))
    said = str(raised.value)
    assert said.startswith("step ") and not said.startswith("step 0,")
    assert ", micro-batch 0: " in said and "aten." in said
    assert said.endswith("lower the learning rate, limit the gradient (clip_norm), or check the records")


def test_a_label_out_of_range_names_step_operator_and_what_to_check() -> None:
    with pytest.raises(Refused) as raised:
        trained(functional.cross_entropy, "0.1", x=X, y=torch.full((8,), 3))
    said = raised.value.reason
    assert said.startswith("step 0, micro-batch 0: loss: aten.gather.default: an index is not within 0..2")
    assert said.endswith("check the data, such as labels or tokens")
