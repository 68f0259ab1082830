"""What a client that waits for its task learns when the ledger has forgotten it."""

import pytest

from ledger_network import POLICY, Network
from tallystick.errors import Refused
from tallystick.network import views
from tallystick.network.client import wait_for_task
from tallystick.network.dial import Validators


class OneValidator(Validators):
    """Answers from a ledger, to which something happens whenever the client waits."""

    def __init__(self, net: Network, known: str = "") -> None:
        super().__init__(["http://nowhere"])
        self.net, self.known = net, known or net.task
        """The transaction that it has executed."""

    def task(self, task: str) -> views.TaskView:
        if task not in self.net.state.tasks:
            raise Refused("no_such_task", "none")
        return views.task_view(self.net.state.tasks[task])

    def transaction(self, name: str) -> views.TransactionView:
        if name != self.known:
            raise Refused("no_such_transaction", "none")
        return views.TransactionView(name, 1, "ok", "")

    def events(self, after: int, wait_ms: int = 0) -> list[views.EventView]:
        self.net.wait(POLICY.expires_ms)
        return []


@pytest.fixture
def net() -> Network:
    net = Network()
    net.open_task(steps=2)
    return net


def test_a_task_that_expires_while_its_client_waits_is_over(net: Network) -> None:
    seen: list[views.TaskView] = []
    with pytest.raises(Refused, match="expired before a step was finished") as refused:
        wait_for_task(net.task, OneValidator(net), seen.append)
    assert refused.value.code == "not_done"
    assert [view.status for view in seen] == ["open"]


def test_one_that_expires_with_a_finished_step_is_shown_as_it_ended(net: Network) -> None:
    net.enroll("ann")
    net.play_step("ann")
    ended = wait_for_task(net.task, OneValidator(net), lambda view: None)
    assert (ended.status, ended.step) == ("expired", 1)


def test_a_validator_that_is_behind_has_not_forgotten_a_task(net: Network) -> None:
    with pytest.raises(Refused) as refused:
        wait_for_task("0" * 64, OneValidator(net), lambda view: None)
    assert refused.value.code == "no_such_transaction"


def test_a_task_that_is_opened_between_two_questions_is_waited_for(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind, ahead = Network(), net
    one = OneValidator(behind, known=ahead.task)
    asked = one.transaction

    def catch_up(name: str) -> views.TransactionView:
        one.net = ahead
        return asked(name)

    monkeypatch.setattr(one, "transaction", catch_up)
    seen: list[views.TaskView] = []
    with pytest.raises(Refused):
        wait_for_task(ahead.task, one, seen.append)
    assert [view.status for view in seen] == ["open"]
