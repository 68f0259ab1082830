"""The self-test passes here, and names the operator that a faulty machine gets wrong."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from exact_against_reference import assert_same_bits
from reference import operands, vectors
from tallystick.exact import kernels
from tallystick.exact.kernels import (
    ARITHMETIC_KERNELS,
    KERNELS,
    OPERATORS,
    POOLING_KERNELS,
    PRODUCTS,
    PROFILE_BITS,
    REDUCTION_KERNELS,
)
from tallystick.exact.products import matmul
from tallystick.exact.selftest import ACCUMULATORS, cases, decoded, first_failure, outcome, run_selftest
from tallystick.network.running import InexactMachineError, require_exact_arithmetic

ARITHMETIC = {**ARITHMETIC_KERNELS, **REDUCTION_KERNELS, **POOLING_KERNELS, **PRODUCTS}


def test_every_case_passes() -> None:
    assert [outcome for outcome in run_selftest() if not outcome.passed] == []
    assert len({case.name for case in cases()}) == len(cases())


def test_every_operator_that_computes_has_a_case_and_products_one_in_each_profile() -> None:
    assert set(ARITHMETIC) <= {case.operator for case in cases()}
    assert set(ACCUMULATORS) <= {case.operator for case in cases()}
    tried = {(case.operator, case.bits) for case in cases()}
    assert {(op, bits) for op in PRODUCTS for bits in PROFILE_BITS} <= tried


def test_the_published_vectors_are_what_the_reference_says() -> None:
    assert vectors.FILE.read_text() == vectors.published()
    assert f"{operands.KEY:X}" in (vectors.FILE.parents[3] / "docs" / "exact-v1.md").read_text()


def test_operands_are_drawn_as_the_reference_draws_them() -> None:
    for argument in (
        operands.draw(3, 2, 50),
        operands.whole(4, 7, 30, start=-3, dtype="int32"),
        operands.equal(0.1, 3),
    ):
        assert_same_bits(decoded(argument).contiguous().numpy(), operands.decoded(argument), argument)


@pytest.mark.parametrize("name", sorted({case.operator for case in cases()} & set(KERNELS)))
def test_one_wrong_bit_of_any_operator_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.KERNELS, name, last_bit_flipped(kernels.KERNELS[name]))
    failed = {case.name for case in cases() if case.operator == name and not outcome(case).passed}
    assert failed == {case.name for case in cases() if case.operator == name}


def last_bit_flipped(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def faulty(*arguments: object, **options: object) -> Tensor:
        result = kernel(*arguments, **options).clone()
        result.reshape(-1).view(torch.uint8)[-4 % result.itemsize] ^= 1
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
    assert [outcome.case for outcome in failed] == ["exp", "exp at the edges", "chain of functions"]
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
