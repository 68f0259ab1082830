"""A training run as pure functions: which records a step uses, what it learns, and which runs are refused."""

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from program_samples import perceptron, records_of, same, spec_of, start, traced
from tallystick.errors import NonFiniteError, Refused
from tallystick.exact.rounding import SMALLEST
from tallystick.program.optimizers import Tensors
from tallystick.program.schedule import ConstantRate, rate_at
from tallystick.program.spec import DataSet, TrainingSpec, decode_spec, encode_spec
from tallystick.program.tensors import from_blob, from_entries, to_blob, to_entries
from tallystick.program.trace import specs
from tallystick.program.training import (
    accuracy,
    contribution,
    contribution_specs,
    initial_state,
    mean_loss,
    prepare_training,
    record_indices,
    state_specs,
    train_step,
)

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.safetensors"


def refusal(function: Callable[[], object]) -> str:
    with pytest.raises(Refused) as refused:
        function()
    return refused.value.code


def digits() -> tuple[Tensors, Tensors]:
    tensors = load_file(DIGITS)
    sets = [{"x": tensors[f"{part}.x"].float() / 16, "y": tensors[f"{part}.y"]} for part in ("train", "test")]
    return sets[0], sets[1]


def test_exact_training_learns_as_well_as_float32() -> None:
    train, test = digits()
    model = perceptron(seed=7, hidden=64, features=64, classes=10)
    training, state = start(model, train, size=64, micro_batches=4, rate="0.2")
    losses = []
    for step in range(40):
        state, total = train_step(training, state, step)
        losses.append(mean_loss(int(total["loss"]), 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for step in range(40):
        chosen = torch.cat([record_indices(training, step, index) for index in range(4)])
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train["x"][chosen]), train["y"][chosen]).backward()
        optimizer.step()
    plain = (model(test["x"]).argmax(1) == test["y"]).float().mean().item()
    ours = accuracy(training, state, test)
    assert plain > 0.9
    assert abs(ours - plain) < 0.01
    assert losses[-1] < 0.3 < losses[0]


def test_an_epoch_uses_each_record_at_most_once_and_every_epoch_has_its_own_order() -> None:
    training, _ = start(perceptron(), records_of(50), size=4, micro_batches=3)
    epochs = [
        [i for step in range(4 * e, 4 * e + 4) for m in range(3) for i in record_indices(training, step, m).tolist()]
        for e in range(3)
    ]
    for order in epochs:
        assert len(set(order)) == len(order) == 48
        assert set(order) <= set(range(50))
    assert len({tuple(order) for order in epochs}) == 3


def test_states_and_contributions_have_the_shapes_that_are_announced() -> None:
    training, state = start(perceptron(), records_of(50), size=4, micro_batches=3)
    part = contribution(training, state, 0, 0)
    after, total = train_step(training, state, 0)
    for tensors, expected in (
        (state, state_specs(training.program)),
        (after, state_specs(training.program)),
        (part, contribution_specs(training.program)),
        (total, contribution_specs(training.program)),
    ):
        assert specs(tensors) == expected
        assert same(from_blob(to_blob(tensors), expected, "it"), tensors)
        assert same(from_entries(to_entries(tensors), expected, "it"), tensors)


def test_a_contribution_takes_the_bytes_of_float32_gradients_and_four_for_each_tensor() -> None:
    training, state = start(perceptron(), records_of(50), size=4, micro_batches=3)
    part = contribution(training, state, 0, 0)
    gradients = sum(state[f"parameter/{name}"].nbytes for name in training.parameters)
    about_scale = 4 * len(training.parameters) + 8  # a peak for each tensor, and the loss
    assert len(to_entries(part)) == gradients + about_scale


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_entries_of_another_number_of_bytes_are_refused(change: Callable[[bytes], bytes]) -> None:
    training, state = start(perceptron(), records_of(50), size=4, micro_batches=3)
    data = to_entries(contribution(training, state, 0, 0))
    with pytest.raises(Refused, match="bytes, expected") as refused:
        from_entries(change(data), contribution_specs(training.program), "it")
    assert refused.value.code == "wrong_tensors"


def test_entries_that_are_no_canonical_numbers_are_refused() -> None:
    training, state = start(perceptron(), records_of(50), size=4, micro_batches=3)
    expected = state_specs(training.program)
    name = next(name for name in sorted(state) if state[name].dtype == torch.float32)
    state[name].reshape(-1)[0] = float("nan")
    with pytest.raises(Refused, match="holds a NaN") as refused:
        from_entries(to_entries(state), expected, "it")
    assert refused.value.code == "not_canonical"


def test_the_initial_state_is_a_canonical_copy() -> None:
    records, model = records_of(20), perceptron()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        parameters["0.bias"][:3] = torch.tensor([-0.0, 1e-40, SMALLEST])
    training, state = start(model, records, size=4, micro_batches=1)
    assert state["parameter/0.bias"][:3].view(torch.int32).tolist() == [0, 0, 0]
    before = state["parameter/0.weight"].clone()
    with torch.no_grad():
        parameters["0.weight"].add_(1)
    assert torch.equal(state["parameter/0.weight"], before)
    assert specs(state) == state_specs(training.program)


def test_steps_change_no_earlier_state() -> None:
    training, state = start(perceptron(), records_of(50), size=4, micro_batches=2)
    before = {name: value.clone() for name, value in state.items()}
    train_step(training, state, 0)
    assert same(state, before)


def test_training_that_diverges_says_where() -> None:
    training, state = start(perceptron(), records_of(50), size=4, micro_batches=2, rate="999999999")
    with pytest.raises(NonFiniteError, match="an infinity or a NaN"):
        for step in range(100):
            state, _ = train_step(training, state, step)


def test_accuracy_counts_each_record_once() -> None:
    records = records_of(11)
    training, state = start(perceptron(), records, size=4, micro_batches=1)
    scores = perceptron()(records["x"])
    assert math.isclose(
        accuracy(training, state, records), (scores.argmax(1) == records["y"]).float().mean().item(), rel_tol=1e-6
    )


def test_a_label_that_the_model_does_not_have_is_refused() -> None:
    records = records_of(20)
    training, state = start(perceptron(), records, size=4, micro_batches=1)
    records["y"][:] = 3
    assert refusal(lambda: contribution(training, state, 0, 0)) == "index_out_of_range"


SPEC = spec_of(traced(perceptron()), records_of(50), 3, "0.05")


def changed(**changes: object) -> TrainingSpec:
    return msgspec.structs.replace(SPEC, **changes)


def data_set(records: Tensors) -> DataSet:
    return DataSet("0" * 64, "0" * 64, specs(records))


def test_a_specification_survives_the_round_trip() -> None:
    full = changed(test=data_set(records_of(3)))
    assert decode_spec(encode_spec(full)) == full
    assert rate_at(SPEC.learning_rate, 7) == 0.05


X, Y = specs(records_of(50))


@pytest.mark.parametrize(
    "changes",
    [
        {"program": "../../etc/passwd"},
        {"initial_root": "0" * 63},
        {"initial_state": "A" * 64},
        {"train": DataSet("0" * 64, "x", [X, Y])},
        {"test": DataSet("0" * 63, "0" * 64, [X, Y])},
        {"train": data_set(records_of(0))},
        {"train": DataSet("0" * 64, "0" * 64, [X, msgspec.structs.replace(Y, shape=(49,))])},
        {"train": DataSet("0" * 64, "0" * 64, [X, msgspec.structs.replace(Y, shape=())])},
        {"train": DataSet("0" * 64, "0" * 64, [X, msgspec.structs.replace(Y, name="x")])},
        {"train": DataSet("0" * 64, "0" * 64, [X, msgspec.structs.replace(Y, shape=(50, 2**31))])},
    ],
)
def test_a_specification_that_does_not_hang_together_is_refused(changes: dict[str, object]) -> None:
    data = encode_spec(changed(**changes))
    assert refusal(lambda: decode_spec(data)) == "bad_spec"


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"steps": 10**7 + 1},
        {"micro_batches": 0},
        {"micro_batches": 4097},
        {"seed": 2**63},
        {"seed": -1},
        {"format": "tallystick-training-v2"},
        {"train": DataSet("0" * 64, "0" * 64, [X])},
        *(
            {"learning_rate": ConstantRate(rate)}
            for rate in ("", "-1", "1e3", "0.05\n", " 1", "٣", "1" * 10, ".5", "1.")
        ),
    ],
)
def test_a_specification_outside_the_limits_is_malformed(changes: dict[str, object]) -> None:
    data = encode_spec(changed(**changes))
    assert refusal(lambda: decode_spec(data)) == "malformed"


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batches": 11},
        {"train": data_set({"x": records_of(50)["x"].int(), "y": records_of(50)["y"]})},
        {"train": data_set({"x": records_of(50)["x"][:, :5], "y": records_of(50)["y"]})},
        {"train": data_set({"y": records_of(50)["y"], "x": records_of(50)["x"]})},
        {"train": data_set({**records_of(50), "z": records_of(50)["y"]})},
        {"test": data_set({"x": records_of(50)["x"], "z": records_of(50)["y"]})},
        {"test": data_set({**records_of(50), "z": records_of(50)["y"]})},
    ],
)
def test_data_that_does_not_fit_the_program_is_refused(changes: dict[str, object]) -> None:
    program = traced(perceptron())
    prepare_training(SPEC, program, records_of(50))
    assert refusal(lambda: prepare_training(changed(**changes), program, records_of(50))) == "bad_spec"


def test_a_weight_that_is_not_finite_is_refused_at_the_start() -> None:
    training, _ = start(perceptron(), records_of(20), size=4, micro_batches=1)
    parameters = {name: value.detach() for name, value in perceptron().named_parameters()}
    parameters["0.weight"][0, 0] = math.nan
    slots = {f"momentum/{name}": torch.zeros_like(value) for name, value in parameters.items()}
    with pytest.raises(
        NonFiniteError, match=r"^step 0, micro-batch 0: 0: aten\.mm\.default: .*; lower the learning rate"
    ):
        initial_state(training, parameters, slots)
