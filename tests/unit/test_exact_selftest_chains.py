"""The self-test runs what training runs: a fault of the compiled element-wise machine alone turns it red."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import torch
from typer.testing import CliRunner

from exact_built import SOURCES, Patches, built
from tallystick.cli.main import app
from tallystick.exact import native, selftest
from tallystick.exact.native import elementwise, lowering
from tallystick.exact.native.elementwise import Chain
from tallystick.exact.selftest import CHAIN, COMPILED, cases, chained_outcome, compiled_chain, run_selftest
from tallystick.network.running import InexactMachineError, require_exact_arithmetic

needs_library = pytest.mark.skipif(
    native.LIBRARY is None, reason="no compiled kernels here: there are no chains to run"
)
MACHINE: Final = ["elementwise.c", "threads.c"]
FAST_MATH: Final = ("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros", "-ffinite-math-only")
"""What -ffast-math does to operations; itself it would also flush subnormal numbers, in all of this process."""
ADD: Final = "BINARY(add, settled(a[i] + b[i]))"
FAULTS: Final[dict[str, tuple[Patches, tuple[str, ...], set[str]]]] = {
    "one bit of a coefficient of erf": (
        {"scalar.h": ("0x1.20dd750429b84p+0", "0x1.20dd740429b84p+0")},
        (),
        {"erf", "erf at the edges", "chain of functions"},
    ),
    "fast math": (
        {},
        FAST_MATH,
        {"exp", "exp at the edges", "chain of functions"},
    ),
    "a sum after the last whole vector": (
        {"elementwise_loops.h": (ADD, ADD.replace("b[i]", "(n > 8 && i >= n - n % 8 ? 0.0f : b[i])"))},
        (),
        {"chain of conversions", "chain of an optimizer"},
    ),
    "two registers at one place": (
        {
            "elementwise.c": (
                "slot[s] = own + s * apart;",
                "slot[s] = own + (s > outputs + p->outputs ? s - 1 : s) * apart;",
            )
        },
        (),
        {f"chain of {name}" for name in ("functions", "a normalization", "an optimizer", "flags", "conversions")},
    ),
    "strides of matrices": (
        {"elementwise.c": ("t[i] = f[i * stride];", "t[i] = f[i];")},
        (),
        {"chain of an optimizer"},
    ),
}


def chains() -> list[tuple[str, str, Chain]]:
    """Cases by name and operator, with the chain that runs them."""
    found = ((case, compiled_chain(case)) for case in cases())
    return [(case.name, case.operator, both[0]) for case, both in found if both is not None]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@needs_library
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_installed_machine_passes_with_any_number_of_threads(count: int) -> None:
    torch.set_num_threads(count)
    found = {case.name: chained_outcome(case) for case in cases()}
    ran = {name: outcome for name, outcome in found.items() if outcome is not None}
    assert {name: outcome.found for name, outcome in ran.items() if not outcome.passed} == {}
    assert [outcome.case for outcome in ran.values()] == [f"{name} {COMPILED}" for name in ran]
    assert set(ran) == {name for name, _, _ in chains()}


@needs_library
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_machine_alone_is_found_and_named(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches, flags, expected = FAULTS[fault]
    monkeypatch.setattr(elementwise, "LIBRARY", built(tmp_path, MACHINE, patches, *flags))
    failed = {outcome.case for outcome in run_selftest() if not outcome.passed}
    assert {f"{name} {COMPILED}" for name in expected} <= failed
    assert all(name.endswith(COMPILED) for name in failed), "the PyTorch kernels have no fault"
    with pytest.raises(InexactMachineError, match=re.escape(COMPILED)):
        require_exact_arithmetic()
    printed = CliRunner().invoke(app, ["selftest"])
    assert printed.exit_code == 1
    assert all(f"{name} {COMPILED}: found" in printed.output for name in expected)


def test_a_machine_built_here_without_a_fault_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "LIBRARY", built(tmp_path, MACHINE, {}))
    assert [outcome.case for outcome in run_selftest() if not outcome.passed] == []


def test_chains_have_every_operation_of_the_machine() -> None:
    text = (SOURCES / "elementwise.c").read_text()
    operations = set(re.findall(r"X\((\w+)\)", text.partition("#define TS_OPERATIONS")[2].partition("\n\n")[0]))
    assert len(operations) == 40
    assert {line.op for _, operator, chain in chains() if operator == CHAIN for line in chain.code} == operations


def test_every_rule_has_a_case() -> None:
    ran = {operator for _, operator, _ in chains()}
    ran |= {step[0] for case in cases() if case.operator == CHAIN for step in case.arguments[1]}
    assert set(lowering.RULES) - ran == set()


def test_chains_are_long_enough_for_blocks_vectors_remainders_and_threads() -> None:
    serial = re.search(r"SERIAL = 1 << (\d+)", (SOURCES / "elementwise.c").read_text())
    assert serial is not None
    sizes = [(torch.Size(chain.shape).numel(), len(chain.code)) for _, operator, chain in chains() if operator == CHAIN]
    assert max(entries * steps for entries, steps in sizes) >= 1 << int(serial[1])
    assert any(entries > 1024 and entries % 1024 > 16 and entries % 16 for entries, _ in sizes)


def test_without_compiled_kernels_no_chain_is_claimed_to_have_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "LIBRARY", None)
    assert [outcome.case for outcome in run_selftest()] == [case.name for case in cases()]
