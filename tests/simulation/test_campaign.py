"""Five hundred seeds, in two processes: what the issue calls the bar for every change."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tallystick
from tallystick.consensus.pbft.limits import MAX_VALIDATORS
from tallystick.lab.consensus.byzantine import ATTACKS
from tallystick.lab.consensus.campaign import Result, Seeds, again, campaign, run_seed
from tallystick.lab.consensus.plan import LARGEST, plan_for
from tallystick.lab.consensus.planted import BUGS

EVERY_SORT = (3, 7, 15, 20, 40)
"""Seeds of several sizes: 7 signs with Ed25519."""


@pytest.fixture(scope="module")
def result() -> Result:
    return campaign(Seeds(0, 499), jobs=2, n=None, told=lambda verdict: None)


def test_five_hundred_seeds_hold_every_invariant(result: Result) -> None:
    assert [(verdict.seed, verdict.failure, again(verdict)) for verdict in result.failed] == []


def test_the_campaign_really_does_all_these_things_to_the_cluster(result: Result) -> None:
    report = result.report()
    assert set(report["by_n"]) == {"4", "5", "7", "10", "16"}
    totals = {name: sum(size[name] for size in report["by_n"].values()) for name in report["by_n"]["4"]}
    assert totals["seeds"] == 500
    for what, least in {"blocks": 5_000, "epochs": 500, "views": 300, "crashes": 500, "transfers": 20}.items():
        assert totals[what] >= least, what
    assert totals["accused"] >= 10
    assert set(ATTACKS) <= set(report["features"])


def test_the_report_is_what_the_documentation_says(result: Result) -> None:
    report = json.loads(json.dumps(result.report()))
    assert list(report) == [
        "version",
        "code",
        "seeds",
        "ledger",
        "jobs",
        "seconds",
        "failed",
        "by_n",
        "features",
        "traces",
    ]
    assert report["seeds"] == [0, 499]
    assert len(report["code"]) == 64
    assert len(report["traces"]) == 32


def test_one_seed_is_one_history_whatever_the_order_of_sets() -> None:
    """Invariant 16: the trace of a run is the same in every process, under any hash seed."""
    program = (
        "from tallystick.lab.consensus.campaign import run_seed\n"
        f"print([(run_seed(seed).trace, run_seed(seed).blocks) for seed in {EVERY_SORT}])"
    )
    here = str([(run_seed(seed).trace, run_seed(seed).blocks) for seed in EVERY_SORT])
    for hash_seed in ("0", "1", "4242"):
        environment = os.environ | {
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": str(Path(tallystick.__file__).parent.parent),
        }
        ran = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        assert ran.stdout.strip() == here


def test_the_largest_cluster_has_room_for_all_newcomers() -> None:
    assert plan_for(72, LARGEST).nodes == MAX_VALIDATORS
    assert run_seed(72, LARGEST).passed


def test_some_seeds_sign_for_real() -> None:
    plan = plan_for(7)
    assert plan.real
    assert sum(plan_for(seed).real for seed in range(500)) == 10


def test_a_run_with_a_story_is_the_same_run() -> None:
    told, untold = run_seed(3, story=True), run_seed(3)
    assert told.trace == untold.trace
    assert told.story
    assert any("delivers" in line for line in told.story)


def test_a_failing_seed_fails_the_campaign_and_names_its_command() -> None:
    with BUGS["votes_forgotten_on_restart"]():
        failed = campaign(Seeds(0, 9), jobs=1, n=4, told=lambda verdict: None)
    assert not failed.passed
    first = failed.report()["failed"][0]
    assert first["again"] == f"tallystick lab consensus --seeds {first['seed']}..{first['seed']} --n 4 --transcript"
    assert first["invariant"] in {7, 9}
