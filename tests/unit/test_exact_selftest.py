"""The self-test passes here, and names the operator that a faulty machine gets wrong."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tallystick.exact import kernels
from tallystick.exact.kernels import OPERATORS
from tallystick.exact.products import matmul
from tallystick.exact.selftest import VECTORS, cases, first_failure, numbers, run_selftest
from tallystick.network.running import InexactMachineError, require_exact_arithmetic


def test_every_case_passes_and_every_answer_belongs_to_a_case() -> None:
    outcomes = list(run_selftest())
    assert [outcome.case for outcome in outcomes if not outcome.passed] == []
    assert {outcome.case for outcome in outcomes} == set(VECTORS)
    assert len(cases()) == len(VECTORS)


def test_cases_are_the_same_whatever_torch_drew_before() -> None:
    torch.manual_seed(1)
    first = numbers(3, 100)
    torch.manual_seed(2)
    assert torch.equal(numbers(3, 100), first)


def last_bit_flipped(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def faulty(*arguments: object, **options: object) -> Tensor:
        result = kernel(*arguments, **options).clone()
        result.view(torch.int32).view(-1)[-1] ^= 1
        return result

    return faulty


@pytest.mark.parametrize("op", ["exp", "tanh", "erf", "sqrt", "sigmoid", "cos"])
def test_one_wrong_bit_is_found_and_named(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"aten.{op}.default"
    assert name in OPERATORS
    monkeypatch.setitem(kernels.KERNELS, name, last_bit_flipped(kernels.KERNELS[name]))
    failure = first_failure()
    assert failure is not None
    assert failure.case == op


def test_an_operator_that_fails_is_reported_and_the_others_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> Tensor:
        raise RuntimeError("no such instruction")

    monkeypatch.setitem(kernels.KERNELS, "aten.exp.default", broken)
    failed = [outcome for outcome in run_selftest() if not outcome.passed]
    assert [outcome.case for outcome in failed] == ["exp"]
    assert "no such instruction" in failed[0].found


def test_a_saturating_product_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an int8 unit without a dot-product instruction does to long sums."""

    def saturating(a: Tensor, b: Tensor, bits: int) -> Tensor:
        return matmul(a, b, bits).clamp(max=2.0**14)

    monkeypatch.setattr(kernels, "matmul", saturating)
    failure = first_failure()
    assert failure is not None
    assert "product" in failure.case


def test_a_worker_refuses_to_work_on_an_inexact_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    require_exact_arithmetic()
    name = "aten.log.default"
    monkeypatch.setitem(kernels.KERNELS, name, last_bit_flipped(kernels.KERNELS[name]))
    with pytest.raises(InexactMachineError, match="log"):
        require_exact_arithmetic()
