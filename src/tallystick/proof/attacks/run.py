"""Runs the catalogue: makes every forgery and asks three verifiers about it."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import torch

from tallystick.proof.attacks import choices, forgeries, history, hostile, steering
from tallystick.proof.attacks.attempt import Answer, Attack, Finding
from tallystick.proof.attacks.bench import ATTACKER, Bench, make_bench
from tallystick.proof.attacks.catalogue import ROWS, Row
from tallystick.proof.attacks.records import FloatBench, ask_2021, ask_tolerant, make_float_bench
from tallystick.proof.attacks.sampling import Measured, measure
from tallystick.proof.directory import Places, open_proof

ATTACKS: Final[tuple[Attack, ...]] = tuple(
    sorted((*steering.ATTACKS, *history.ATTACKS, *choices.ATTACKS, *hostile.ATTACKS), key=lambda attack: attack.row)
)
NO_COUNTERPART: Final = Finding("not asked", "no counterpart")
"""Rows about something that records of float training do not have."""
OnAttack = Callable[[str], None]
"""Called with what is about to be run."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the catalogue with its answers."""

    row: int
    name: str
    source: str
    gain: str
    defense: str
    standing: str
    note: str
    exact: Answer
    exact_why: str
    tolerant: Answer
    tolerant_why: str
    baseline2021: Answer
    baseline2021_why: str
    variants: dict[str, str] = {}
    """What the exact verifier says to each variant."""


class Report(msgspec.Struct, frozen=True):
    results: list[Result]
    sampling: list[Measured]
    """One bad segment, of row 18; empty if that row was not run."""

    @property
    def accepted(self) -> list[Result]:
        """Rows of which the exact verifier accepted at least one variant."""
        return [result for result in self.results if result.exact == "accepted"]


def run_attacks(only: int | None = None, on_attack: OnAttack = lambda what: None) -> Report:
    """Runs every row, or `only` one. Leaves torch's generator as it was and nothing on disk."""
    rows = [row for row in ROWS if only in {None, row.number}]
    with tempfile.TemporaryDirectory(prefix="tallystick-attacks-") as folder, torch.random.fork_rng(devices=[]):
        on_attack("training the honest model")
        bench = make_bench(Path(folder))
        floats = make_float_bench(bench, Path(folder) / "float")
        results = []
        for row in rows:
            on_attack(f"row {row.number}: {row.name}")
            results.append(_result(row, bench, floats))
        sampling = list(_sampling(bench)) if any(row.number == 18 for row in rows) else []
    return Report(results, sampling)


def _result(row: Row, bench: Bench, floats: FloatBench) -> Result:
    exact, variants = _exact(row, bench)
    tolerant, baseline = _floats(row, floats)
    return Result(
        row=row.number,
        name=row.name,
        source=row.source,
        gain=row.gain,
        defense=row.defense,
        standing=row.standing,
        note=row.note,
        exact=exact.answer,
        exact_why=exact.why,
        tolerant=tolerant.answer,
        tolerant_why=tolerant.why,
        baseline2021=baseline.answer,
        baseline2021_why=baseline.why,
        variants=variants,
    )


def _exact(row: Row, bench: Bench) -> tuple[Finding, dict[str, str]]:
    """Accepted if a single variant is."""
    findings = {}
    for number, attack in enumerate(attack for attack in ATTACKS if attack.row == row.number):
        path = bench.folder / f"row-{row.number}-{number}"
        attack.make(bench, path)
        findings[attack.name] = attack.ask(bench, path)
    if not findings:
        return Finding("not asked", row.note), {}
    worst = next((f for f in findings.values() if f.answer == "accepted"), None)
    codes = list(dict.fromkeys(finding.why for finding in findings.values()))
    variants = {name: f"{finding.answer}: {finding.why}" for name, finding in findings.items()}
    return worst or Finding("caught", ", ".join(codes)), variants


def _floats(row: Row, floats: FloatBench) -> tuple[Finding, Finding]:
    make = forgeries.FORGERIES.get(row.number)
    if make is None:
        return NO_COUNTERPART, NO_COUNTERPART
    forgery = make(floats, floats.folder / f"row-{row.number}")
    return ask_tolerant(floats, forgery), ask_2021(floats, forgery)


def _sampling(bench: Bench) -> Iterator[Measured]:
    proof = open_proof(Places(bench.folder / "row-18-0"))
    assert proof.prover == ATTACKER.identity
    return measure(proof.commitment, proof.signature, history.BAD_SEGMENT)
