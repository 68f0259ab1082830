"""What a client is told when no validator serves it."""

from dataclasses import dataclass

import msgspec
import pytest
from lying_validator import World, listening, serving
from pbft_cluster import FOUR, KEYS

from ledger_network import POLICY, name
from tallystick.canon.hashing import blob_name
from tallystick.errors import Refused
from tallystick.ledger.state import Task
from tallystick.ledger.transactions import Deposit, sign_transaction
from tallystick.network import views
from tallystick.network.dial import WAIT_MS, Sender, UnreachableError, Validators


@dataclass
class Busy(World):
    def reply(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        return 503, b""


def test_a_validator_that_is_busy_is_asked_again_and_then_named_with_what_it_said() -> None:
    world = Busy()
    with serving(world) as validators, pytest.raises(UnreachableError, match=r"127\.0\.0\.1:\d+: .*503 Service Unav"):
        validators.status()
    assert len(world.asked) == 3


def test_tasks_are_asked_for_page_by_page_until_there_are_no_more() -> None:
    ids = sorted(name(i) for i in range(5))
    tasks = [views.task_view(Task(each, "", "", "", "", 1, 1, POLICY, 1, 1, 1)) for each in ids]
    pages = {"": tasks[:3], ids[2]: tasks[3:], ids[4]: []}
    world = World(raw={f"/v1/tasks?after={after}": msgspec.json.encode(page) for after, page in pages.items()})
    with serving(world) as validators:
        assert validators.tasks() == tasks


def test_who_sends_something_is_told_when_it_takes_long() -> None:
    """The validator took the transaction and then says for as long as it was asked to wait that it is not executed."""
    key, lines = KEYS[9], list[str]()
    body = Deposit(1)
    sent = blob_name(sign_transaction(key, FOUR.chain, 1, body))
    executed = views.TransactionView(sent, 3, "ok", "")
    replies = {
        f"/v1/accounts/{key.identity}": views.AccountView(key.identity, 1, 0, 0, 0),
        f"/v1/transactions?wait_ms={WAIT_MS}": views.Submitted(sent, None),
        f"/v1/transactions/{sent}?wait_ms={WAIT_MS}": executed,
    }
    with serving(World(raw={path: msgspec.json.encode(reply) for path, reply in replies.items()})) as validators:
        assert Sender(key, validators, lines.append).send(body) == executed
    assert lines == [f"transaction {sent[:12]}: not executed after 5 s; waiting for 60 s more"]


def test_who_is_stopped_while_waiting_is_told_that_it_may_still_happen() -> None:
    lines: list[str] = []

    def interrupted(line: str) -> None:
        lines.append(line)
        if len(lines) == 1:
            raise KeyboardInterrupt

    key = KEYS[9]
    replies = {
        f"/v1/accounts/{key.identity}": views.AccountView(key.identity, 1, 0, 0, 0),
        f"/v1/transactions?wait_ms={WAIT_MS}": views.Submitted("0" * 64, None),
    }
    world = World(raw={path: msgspec.json.encode(reply) for path, reply in replies.items()})
    with serving(world) as validators, pytest.raises(KeyboardInterrupt):
        Sender(key, validators, interrupted).send(Deposit(1))
    assert "may still be executed" in lines[1]


def test_what_is_no_validator_is_passed_over_for_one_that_is() -> None:
    with listening(World(raw={"/v1/status": b"<html>"})) as other, listening(World()) as url:
        with Validators([other, url]) as validators:
            assert validators.status().chain == FOUR.chain
        with Validators([other]) as validators, pytest.raises(Refused, match="not a validator's reply"):
            validators.status()
        with Validators([other, other]) as validators, pytest.raises(UnreachableError, match="not a validator's reply"):
            validators.status()


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port"])
def test_what_is_no_url_is_named(url: str) -> None:
    with pytest.raises(UnreachableError, match="no URL"):
        Validators([url])
