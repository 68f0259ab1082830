"""How a mistake is planted: something else is put in the place of a function or constant of the core, from outside."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from tallystick.lab.consensus.signatures import forget_verified

Bug = Callable[[], AbstractContextManager[None]]
BUGS: dict[str, Bug] = {}


def planted(bug: Callable[[], Iterator[None]]) -> Bug:
    made = contextmanager(bug)
    BUGS[bug.__name__] = made
    return made


@contextmanager
def swapped(*changes: tuple[object, str, Any]) -> Iterator[None]:
    """Puts other things in the place of attributes while inside. What was verified outside is forgotten."""
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(patch.object(owner, name, value))
        forget_verified()
        yield
    forget_verified()
