"""What a client is told when no validator serves it."""

from dataclasses import dataclass

import msgspec
import pytest
from lying_validator import World, serving

from ledger_network import POLICY, name
from tallystick.ledger.state import Task
from tallystick.network import views
from tallystick.network.dial import UnreachableError


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
