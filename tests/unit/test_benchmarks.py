"""The benchmarks' own arithmetic, and that they compare like with like."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from benchmarks import accuracy, cases, consensus, exact, proof
from benchmarks.fixed_order import fixed_order_product, in_torch
from benchmarks.models import MLP, SmallCNN, SmallResNet, Transformer
from benchmarks.report import Report, difference_row, middle_and_spread, missing_row, publish, ratio_row

from tallystick.program.training import train_step


def test_a_bar_is_met_up_to_and_including_its_value() -> None:
    assert ratio_row("w", "ms", 3.0, 2.0, "b", 1.5).met is True
    assert ratio_row("w", "ms", 3.01, 2.0, "b", 1.5).met is False
    assert ratio_row("w", "ms", 3.0, 2.0, "b", None).met is None


def test_accuracies_may_differ_either_way() -> None:
    assert difference_row("w", 90.0, 90.25, "b", 0.25).met is True
    assert difference_row("w", 90.5, 90.0, "b", 0.25).met is False
    assert difference_row("w", 90.0, 90.5, "b", 0.25).met is False


def test_what_could_not_be_measured_has_not_met_its_bar() -> None:
    assert missing_row("w", "ms", "b", 2.0, "not supported: x").met is False


def test_the_median_is_in_the_middle_of_its_spread() -> None:
    assert middle_and_spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, "2.00-4.00")
    assert middle_and_spread([7.0]) == (7.0, "one sample")


def test_a_report_has_the_agreed_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report: Report = publish([ratio_row("product", "ms", 3.0, 2.0, "plain", 1.6)], 2, tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_bytes())
    assert list(written) == ["commit", "machine", "rows"]
    row = {"what": "product", "unit": "ms", "ours": 3.0, "baseline": 2.0, "baseline_name": "plain"}
    assert written["rows"] == [row | {"ratio": 1.5, "bar": 1.6, "met": True, "note": ""}]
    assert "1.50x" in capsys.readouterr().out and report.machine.endswith(torch.__version__)


@pytest.mark.parametrize(
    ("program", "arguments", "words"),
    [
        (exact, ["--only", "nothing"], "matches no case"),
        (accuracy, ["--only", "nothing"], "matches no trial"),
        (proof, ["--only", "nothing"], "matches nothing; there are overhead,digits; "),
        (consensus, ["--n", "4,x"], "argument --n: invalid sizes value: '4,x'"),
    ],
)
def test_options_that_choose_nothing_are_wrong_usage(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: ModuleType,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    with pytest.raises(SystemExit) as left:
        program.main()
    assert left.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("threads", [1, 3])
def test_fixed_order_products_do_not_depend_on_threads(threads: int) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(7, 33, generator=generator), torch.randn(33, 5, generator=generator)
    _, product = fixed_order_product(threads)
    assert torch.equal(product(a, b), fixed_order_product(1)[1](a, b))
    assert torch.allclose(product(a, b), a @ b, atol=1e-5) and torch.allclose(in_torch(a, b), a @ b, atol=1e-5)


def test_both_sides_take_the_same_steps_on_the_same_records() -> None:
    torch.manual_seed(1)
    model = MLP(784, 16, 10)
    records = {"x": torch.randint(0, 256, (96, 1, 28, 28), dtype=torch.uint8), "y": torch.randint(0, 10, (96,))}
    program = cases.traced(model, cases.loss, {name: value[:32] for name, value in records.items()}, "full")
    trial = accuracy.Trial("made up", "MLP", lambda: model, 32, "0.01", 4)
    training, state = cases.started(model, program, records, trial.schedule)
    for step in range(trial.steps):
        state, _ = train_step(training, state, step)
    accuracy.train_plain(trial, model, training)
    for name, value in model.named_parameters():
        assert torch.allclose(value, state[f"parameter/{name}"], atol=1e-6), name


def test_models_score_what_they_are_given() -> None:
    assert SmallResNet()(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert SmallCNN()(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape == (2, 10)
    assert Transformer()(torch.zeros(2, 128, dtype=torch.int64)).shape == (2, 128, 96)


def test_the_transformer_does_not_look_ahead() -> None:
    torch.manual_seed(1)
    model, tokens = Transformer(depth=1, width=32, length=8), torch.arange(8)[None]
    changed = torch.where(torch.arange(8) < 5, tokens, 90)
    assert torch.equal(model(tokens)[:, :5], model(changed)[:, :5])


def test_cases_are_chosen_by_pattern() -> None:
    assert exact.chosen_cases("mlp,full,float64") == [("mlp", "full", "float64")]
    assert len(exact.chosen_cases("")) == 8 * len(exact.paths_here()) == 4 * len(exact.chosen_cases("product"))
    assert not exact.chosen_cases("nothing")
    assert all((case, profile) in exact.TIME_BARS for case, profile, _ in exact.chosen_cases(""))
