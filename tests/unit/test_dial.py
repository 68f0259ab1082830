"""What a client is told when no validator serves it."""

from dataclasses import dataclass

import pytest
from lying_validator import World, serving

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
