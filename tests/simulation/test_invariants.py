"""Each invariant can fail: mistakes made around the core, where no planted bug of the core reaches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from tallystick.consensus.pbft import views
from tallystick.lab.consensus.application import Account, Application
from tallystick.lab.consensus.campaign import Seeds, run_seed
from tallystick.lab.consensus.cluster import Cluster
from tallystick.lab.consensus.disk import Disk
from tallystick.lab.consensus.node import Node
from tallystick.lab.consensus.replicated import Reply

IMPATIENT_MS = 20


@contextmanager
def broken(owner: Any, name: str, value: Any) -> Iterator[None]:
    with patch.object(owner, name, value):
        yield


def invariants_broken(seeds: Seeds) -> set[int]:
    return {run_seed(seed, 4).invariant for seed in range(seeds.first, seeds.last + 1)} - {0}


def test_3_a_request_executed_twice_is_noticed() -> None:
    def apply(self: Application, transaction: bytes) -> Reply:
        before = dict(self.accounts)
        for name, account in before.items():
            self.accounts[name] = Account(0, account.funds, account.reply)
        return original(self, transaction)

    original = Application._apply
    with broken(Application, "_apply", apply), broken(Application, "admit", lambda self, transaction: None):
        assert 3 in invariants_broken(Seeds(0, 60))


def test_8_a_state_that_differs_is_noticed() -> None:
    """As a computation that depends on the machine would make it."""

    def apply(self: Application, transaction: bytes) -> Reply:
        reply = original(self, transaction)
        return Reply(reply.client, reply.number, f"{reply.result} at {id(self) % 7}")

    original = Application._apply
    with broken(Application, "_apply", apply):
        assert 8 in invariants_broken(Seeds(0, 5))


def test_11_a_reply_that_is_not_what_was_executed_is_noticed() -> None:
    def reply(self: Cluster, node: Node, told: Reply) -> None:
        original(self, node, Reply(told.client, told.number, told.result + " or so"))

    original = Cluster.reply
    with broken(Cluster, "reply", reply):
        assert 11 in invariants_broken(Seeds(0, 5))


def test_14_a_client_that_outlives_too_many_primaries_is_noticed() -> None:
    """Backups without patience replace every primary before it can serve anybody."""
    with broken(views, "_timeout", lambda state: IMPATIENT_MS):
        assert 14 in invariants_broken(Seeds(96, 96))


def test_15_money_from_nowhere_is_noticed() -> None:
    def transfer(self: Application, account: Account, request: Any) -> str:
        account.funds += 1
        return "ok"

    with broken(Application, "_transfer", transfer):
        assert 15 in invariants_broken(Seeds(0, 5))


@pytest.mark.parametrize("what", ["votes", "view"])
def test_7_a_disk_that_forgets_is_noticed(what: str) -> None:
    """The shell must keep what it was given: a disk that loses synced records makes an honest node vote twice."""

    def crash(self: Disk, random: Any) -> None:
        original(self, random)
        if what == "votes":
            self.votes.clear()
        self.view = None

    original = Disk.crash
    with broken(Disk, "crash", crash):
        assert invariants_broken(Seeds(0, 40)) & {7, 9}
