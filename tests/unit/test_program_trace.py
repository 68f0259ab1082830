"""Tracing: what becomes a program, what is refused and with which words, and that a program is one thing everywhere."""

import copy
import functools
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from program_samples import FEATURES, encoded, perceptron, records_of, start, traced, with_function
from tallystick.errors import Refused, TallystickError
from tallystick.exact.kernels import OPERATORS
from tallystick.program.graph import Float, StepProgram, decode_program, encode_program, program_name
from tallystick.program.interpreter import prepare, run
from tallystick.program.optimizers import SGD
from tallystick.program.trace import TraceError, trace
from tallystick.program.training import advance, combine, contribution, noise_key, record_indices

TESTS = Path(__file__).parents[1]


def refusal(function: Callable[[], object]) -> str:
    """The reason why something cannot be traced: one line."""
    with pytest.raises(TallystickError) as raised:
        function()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def refused_function(function: Callable[[Tensor], Tensor]) -> str:
    return refusal(lambda: traced(with_function(function)))


def test_a_program_holds_only_operators_of_the_table_and_can_be_decoded() -> None:
    program = traced(perceptron())
    for graph in (program.gradient, program.update, program.predict):
        assert {node.op for node in graph.nodes} <= OPERATORS
        prepare(graph, 2**20)
    assert decode_program(encode_program(program)) == program


def test_nodes_know_which_part_of_the_model_they_come_from() -> None:
    program = traced(with_function(lambda x: x * 2))
    forward = [node.result.name for node in program.predict.nodes]
    assert forward == ["0", "0", "0", "1.0", "1.1", "2", "2", "2"]
    places = list(dict.fromkeys(node.result.name for node in program.gradient.nodes))
    gradients = [f"gradient of {place}" for place in ("loss", "2", "1.1", "1.0", "0")]
    assert places == ["0", "1.0", "1.1", "2", "loss", *gradients]
    assert {node.result.name for node in program.update.nodes} == {"optimizer"}


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (torch.lgamma, "aten.lgamma.default"),
        (lambda x: torch.sort(x)[0], "aten.sort.default"),
        (torch.erfinv, "aten.erfinv.default"),
        (lambda x: x + torch.randn(8), "aten.randn"),
    ],
)
def test_an_unknown_operator_is_refused_with_its_name_and_place(function: Callable[[Tensor], Tensor], op: str) -> None:
    reason = refused_function(function)
    assert f"operator {op}" in reason
    assert "1.1" in reason
    assert "is not part of exact-v1; " in reason


def test_an_unknown_operator_in_the_backward_pass_alone_is_refused_with_its_place() -> None:
    def enlarged(x: Tensor) -> Tensor:
        return nn.functional.interpolate(x[:, None], scale_factor=2, mode="nearest-exact")[:, 0, :8]

    reason = refused_function(enlarged)
    assert reason.startswith(
        "model: operator aten._upsample_nearest_exact1d_backward.default in gradient of 1.1 is not part of"
    )


def test_an_unknown_operator_of_the_loss_or_the_optimizer_is_placed_there() -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return torch.lgamma(output).mean()

    class Odd(SGD):
        def update(
            self,
            parameters: dict[str, Tensor],
            slots: dict[str, Tensor],
            gradients: dict[str, Tensor],
            scalars: Sequence[Tensor],
        ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            return {name: value.lgamma() for name, value in parameters.items()}, {}

    assert "aten.lgamma.default in loss is" in refusal(lambda: trace(perceptron(), loss, SGD(), records_of(4)))
    assert "aten.lgamma.default in optimizer is" in refusal(
        lambda: trace(perceptron(), nn.functional.cross_entropy, Odd(), records_of(4))
    )


def branching(x: Tensor) -> Tensor:
    return x if bool(x.detach().sum() > 0) else -x


@pytest.mark.parametrize(
    "function",
    [
        branching,
        lambda x: x * float(x.detach().sum()),
        lambda x: x * x.detach().max().item(),
        lambda x: x[x > 0].sum() * x,
    ],
)
def test_python_that_looks_at_values_is_refused_in_one_clear_line(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises((TraceError, Refused)) as raised:
        traced(with_function(function))
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("model: 1.1: torch.Tensor.")


def test_a_branch_on_a_value_says_what_to_do_instead() -> None:
    expected = (
        "model: 1.1: torch.Tensor.__bool__: its Python looks at the values of a tensor; "
        "keep them in tensors, for instance with torch.where"
    )
    assert refused_function(branching) == expected


def test_an_error_of_the_model_is_passed_on_with_its_place() -> None:
    def broken(x: Tensor) -> Tensor:
        raise ValueError("no such layer\nsecond line")

    assert refused_function(broken) == "model: 1.1: cannot be recorded as a graph: no such layer"


def test_hooks_are_taken_down_after_an_error() -> None:
    refused_function(branching)
    model = perceptron()
    assert traced(model) == traced(perceptron())
    model(torch.zeros(2, FEATURES))


def test_models_with_what_is_not_supported_are_refused() -> None:
    assert "float64 is not part of exact-v1; use float32" in refusal(lambda: traced(perceptron().double()))
    assert "bfloat16 is not part" in refusal(lambda: traced(perceptron().bfloat16()))
    assert "uses torch.float64" in refused_function(lambda x: x.double().float())
    constant = torch.arange(8.0)
    assert "hold it by register_buffer" in refused_function(lambda x: x * constant)
    doubles = {"x": torch.zeros(4, FEATURES, dtype=torch.float64), "y": torch.zeros(4, dtype=torch.int64)}
    reason = refusal(lambda: trace(perceptron(), nn.functional.cross_entropy, SGD(), doubles))
    assert "x: torch.float64" in reason


def test_constants_are_recorded_as_canonical_float32() -> None:
    def scaled(x: Tensor) -> Tensor:
        return (x * 0.1 + 1e-45) * -0.0 + x.masked_fill(x > 0, -math.inf).relu() + 1e300

    program = traced(with_function(scaled))
    constants = {atom.hex for node in program.predict.nodes for atom in node.args if isinstance(atom, Float)}
    assert {"0x1.99999a0000000p-4", "0x0.0p+0", "inf"} <= constants
    assert "-0x0.0p+0" not in constants
    decode_program(encode_program(program))


def test_a_program_does_not_depend_on_weights_nor_on_how_the_example_lies_in_memory() -> None:
    assert encode_program(traced(perceptron(seed=1))) == encoded()
    across, down = records_of(5), records_of(5, seed=9)
    down["x"] = down["x"].t().contiguous().t()
    model = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (5, FEATURES)), perceptron())  # flattening depends on strides
    programs = [trace(model, nn.functional.cross_entropy, SGD(), example).program for example in (across, down)]
    assert encode_program(programs[0]) == encode_program(programs[1])


def test_a_model_without_values_gives_the_program_of_one_with_values() -> None:
    """On the meta device, where a model too large for this machine can be traced."""
    assert encode_program(traced(perceptron().to("meta"))) == encoded()


def test_tracing_changes_neither_the_model_nor_the_random_state() -> None:
    model = perceptron()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    traced(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(value.grad is None for value in model.parameters())


class Masked(nn.Module):
    """Attends to what is not masked, with the mask as numbers to add or as bool."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, FEATURES)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        mask, scores = self.get_buffer("mask"), self.linear(x)
        masked = scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        return torch.softmax(masked, -1)


def test_a_buffer_that_is_not_finite_is_refused_and_what_is_said_to_do_works() -> None:
    mask = torch.arange(FEATURES) > 2
    for value in (-math.inf, math.nan):
        model = Masked(torch.zeros(FEATURES).masked_fill(mask, value))
        reason = refusal(functools.partial(traced, model))
        assert reason.startswith("model: mask holds an infinity or a NaN, which no state may; hold a mask as bool and")
    broken = perceptron()
    with torch.no_grad():
        broken.get_parameter("0.bias")[1] = math.nan
    assert refusal(lambda: traced(broken)).startswith("model: 0.bias holds an infinity or a NaN")
    assert [b.name for b in traced(Masked(mask)).buffers] == ["mask"]


@pytest.mark.parametrize("name", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_on_a_gradient_is_refused_and_a_removed_one_is_not(name: str) -> None:
    model = perceptron()
    handle = getattr(model.get_parameter("2.weight"), name)(lambda _: None)
    reason = refusal(lambda: traced(model))
    assert reason.startswith("model: 2.weight has a hook on its gradient, which is not run; remove it, ")
    assert "clip_norm" in reason
    handle.remove()
    assert traced(model) == traced(perceptron())


@pytest.mark.parametrize("name", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_a_hook_on_a_backward_pass_is_refused(name: str) -> None:
    model = perceptron()
    getattr(model.get_submodule("1"), name)(lambda *gradients: None)
    assert refusal(lambda: traced(model)).startswith("model: 1 has a hook on its backward pass, which cannot be")


def test_a_hook_in_the_forward_pass_is_recorded() -> None:
    hooked, plain = perceptron(), with_function(lambda x: x * 2)
    hooked.get_submodule("1").register_forward_hook(lambda module, arguments, output: output * 2)
    ops = [[node.op for node in traced(model).gradient.nodes] for model in (hooked, plain)]
    assert ops[0] == ops[1]


class Remembering(nn.Linear):
    """Stores what it computes, as attention maps or caches are."""

    def __init__(self) -> None:
        super().__init__(FEATURES, FEATURES)
        self.last: Tensor | None = None
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.cache["y"] = super().forward(x)
        return self.last


def shared() -> nn.Module:
    layer = nn.Linear(FEATURES, FEATURES)
    return nn.Sequential(layer, nn.BatchNorm1d(FEATURES), layer)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("make", [shared, Remembering, lambda: nn.utils.weight_norm(nn.Linear(FEATURES, FEATURES))])
def test_tracing_leaves_what_modules_hold_as_it_was(make: Callable[[], nn.Module], fails: bool) -> None:
    inner = make()
    model = nn.Sequential(inner, nn.Sequential(*[Failing()] * fails)).eval()
    tensors = [*model.parameters(), *model.buffers()]
    x = torch.ones(2, FEATURES)
    with torch.no_grad():
        expected = inner(x)
    if fails:
        assert "float64" in refusal(lambda: traced(model))
    else:
        traced(model)
    assert all(ours is theirs for ours, theirs in zip([*model.parameters(), *model.buffers()], tensors, strict=True))
    assert not any(module.training for module in model.modules())
    assert torch.equal(copy.deepcopy(inner)(x), expected)
    assert torch.equal(inner(x), expected)


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def test_two_processes_give_a_program_one_name() -> None:
    script = "import program_samples, hashlib; print(hashlib.sha256(program_samples.encoded()).hexdigest())"
    environments = [{**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(TESTS)} for seed in ("1", "77")]
    running = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for environment in environments
    ]
    names = [process.communicate()[0].strip() for process in running]
    assert names == [program_name(encoded())] * 2
    assert encode_program(traced(perceptron())) == encoded()


def gradients(program: StepProgram, parameters: list[Tensor], batch: list[Tensor]) -> list[Tensor]:
    return run(prepare(program.gradient, 2**30), [*parameters, *batch, noise_key(0, 0, 0)])


def test_the_gradient_is_close_to_autograd() -> None:
    model, batch = perceptron(hidden=32), list(records_of(40).values())
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    expected = [*torch.autograd.grad(loss, list(model.parameters())), loss.detach()]
    got = gradients(traced(model, size=40), [p.detach() for p in model.parameters()], batch)
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_updates_are_close_to_those_of_torch(momentum: float) -> None:
    model, records = perceptron(hidden=16), records_of(48)
    training, state = start(model, records, size=8, micro_batches=3, momentum=momentum, rate="0.25")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25, momentum=momentum)
    for step in range(8):
        total = combine(contribution(training, state, step, index) for index in range(3))
        chosen = torch.cat([record_indices(training, step, index) for index in range(3)])
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(records["x"][chosen]), records["y"][chosen]).backward()
        optimizer.step()
        state = advance(training, state, step, total)
    for name, value in model.named_parameters():
        assert torch.allclose(state[f"parameter/{name}"], value.detach(), rtol=1e-4, atol=1e-5)


def test_tracing_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        traced(perceptron())
