"""The real ledger under the same chaos: what the network runs is what is simulated."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from msgspec import structs

import tallystick
from tallystick.consensus.port import CommittedBlock
from tallystick.lab.consensus import ledger as application
from tallystick.lab.consensus.campaign import Seeds, again, campaign, run_seed
from tallystick.lab.consensus.cluster import Cluster
from tallystick.lab.consensus.ledger import BOND, LedgerApplication
from tallystick.lab.consensus.plan import plan_for
from tallystick.lab.consensus.replicated import Reply
from tallystick.lab.consensus.run import live, members
from tallystick.lab.consensus.signatures import laboratory
from tallystick.ledger.events import TaskExpired
from tallystick.ledger.evidence import FINDER_PERMILLE
from tallystick.ledger.execute import Executed, execute_block
from tallystick.ledger.state import State, load_state

SEEDS = Seeds(0, 99)


def test_a_hundred_seeds_hold_every_invariant() -> None:
    result = campaign(SEEDS, jobs=2, n=None, ledger=True, told=lambda verdict: None)
    assert [(verdict.seed, verdict.failure, again(verdict)) for verdict in result.failed] == []
    assert result.report()["ledger"] is True


def test_one_seed_is_one_history_whatever_the_order_of_sets() -> None:
    program = "from tallystick.lab.consensus.campaign import run_seed\nprint(run_seed(23, ledger=True).trace)"
    environment = os.environ | {"PYTHONHASHSEED": "4242", "PYTHONPATH": str(Path(tallystick.__file__).parent.parent)}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stdout.strip() == run_seed(23, ledger=True).trace != run_seed(23).trace


def test_patience_shorter_than_two_ticks_proves_nothing() -> None:
    """The one of 3,000 seeds that failed: a deadline came 7 ms after a block, and the primary ticked 113 ms later."""
    assert run_seed(101632, 7, ledger=True).passed


@dataclass(frozen=True)
class End:
    """How a run ended."""

    genesis: State
    state: State
    accused: set[str]


def ended(seed: int) -> End:
    plan = replace(plan_for(seed), ledger=True)
    with laboratory(real=plan.real, chunk_bytes=plan.chunk_bytes, block_requests=plan.block_requests):
        cluster = Cluster(plan)
        genesis = load_state(cluster.new_application().snapshot())
        live(cluster)
        state = load_state(members(cluster)[0].app.snapshot())
    return End(genesis, state, cluster.watch.accusations)


@pytest.mark.parametrize("seed", [17, 19, 34])
def test_who_votes_twice_is_slashed_and_out_of_office(seed: int) -> None:
    end = ended(seed)
    assert set(end.state.culprits) == end.accused
    assert len(end.accused) == 1
    assert not any(end.state.is_validator(culprit) for culprit in end.accused)
    assert end.state.burned == BOND - BOND * FINDER_PERMILLE // 1000


def test_keys_are_rotated_and_validators_come_and_go() -> None:
    rotated, left, grown = ended(29).state, ended(20).state, ended(45)
    assert len(rotated.rotations) == 1
    assert rotated.is_validator(rotated.rotations[0].new)
    assert len(left.retired) == 2
    assert len(grown.state.validators) > len(grown.genesis.validators)


def test_tasks_are_dealt_and_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    expired: set[str] = set()

    def watched(state: State, **block: object) -> Executed:
        executed = execute_block(state, **block)  # type: ignore[arg-type]
        expired.update(event.task for event in executed.events if isinstance(event, TaskExpired))
        return executed

    monkeypatch.setattr(application, "execute_block", watched)
    state = ended(39).state
    standings = [worker.standing for task in state.tasks.values() for worker in task.workers.values()]
    assert "suspended" in standings, "a worker was dealt work and let its deadline pass"
    state = ended(19).state
    assert expired
    assert not expired & set(state.tasks), "nobody did anything in them, so nothing of them is kept"


def found(seeds: range) -> dict[int, str]:
    verdicts = [run_seed(seed, 4, ledger=True) for seed in seeds]
    return {verdict.seed: verdict.failure for verdict in verdicts if not verdict.passed}


def test_a_ledger_that_stops_at_a_time_before_genesis_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ours did, until the first primary's clock was looked at: one that is late, or lies, stopped everybody."""

    def strict(state: State, *, time_ms: int, **block: object) -> Executed:
        if time_ms < state.time_ms:
            raise ValueError("a block before genesis")
        return execute_block(state, time_ms=time_ms, **block)  # type: ignore[arg-type]

    monkeypatch.setattr(application, "execute_block", strict)
    assert "a block before genesis" in " ".join(found(range(15, 30)).values())


@pytest.mark.parametrize(("invariant", "by_node"), [("15", False), ("8", True)])
def test_a_ledger_that_miscounts_is_found(monkeypatch: pytest.MonkeyPatch, invariant: str, by_node: bool) -> None:
    """Whether all give a client too much, or each another amount."""
    original = LedgerApplication.execute

    def execute(self: LedgerApplication, block: CommittedBlock) -> list[Reply]:
        replies = original(self, block)
        name = min(self.state.accounts)
        account = self.state.accounts[name]
        account = structs.replace(account, balance=account.balance + (id(self) % 7 if by_node else 1))
        self.state = structs.replace(self.state, accounts=self.state.accounts.set(name, account))
        return replies

    monkeypatch.setattr(LedgerApplication, "execute", execute)
    assert f"invariant {invariant}" in " ".join(found(range(4)).values())
