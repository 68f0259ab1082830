"""Small changes to what a faulty validator sends (ByzzFuzz, OOPSLA 2023).

Fields go up or down by one, digests become others that are about, lists lose an element or change their order; also
inside blocks and certificates.
"""

from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from tallystick.lab.consensus.frames import opened, resealed, tag_of

if TYPE_CHECKING:
    from tallystick.lab.consensus.node import Node


def mutated(random: Random, value: Any, seen: list[bytes]) -> Any:
    """`value` with one small thing changed, somewhere in it."""
    if isinstance(value, list):
        return _mutated_list(random, value, seen)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return max(0, value + random.choice((-1, 1, -1, 1, 2, 1000, 2**40)))
    if isinstance(value, bytes):
        return _mutated_bytes(random, value, seen)
    return value


def _mutated_list(random: Random, value: list[Any], seen: list[bytes]) -> list[Any]:
    if value and isinstance(value[0], bytes | list) and random.random() < 0.4:
        changed = list(value)
        match random.randrange(4):
            case 0:
                changed.pop(random.randrange(len(changed)))
            case 1:
                changed.append(random.choice(changed))
            case 2:
                random.shuffle(changed)
            case _:
                changed.reverse()
        return changed
    places = [i for i, item in enumerate(value) if not isinstance(item, str) or i]
    if not places:
        return value
    place = random.choice(places)
    return [mutated(random, item, seen) if i == place else item for i, item in enumerate(value)]


def _mutated_bytes(random: Random, value: bytes, seen: list[bytes]) -> bytes:
    """Digests become other digests that are about; longer things lose, gain or flip something."""
    if len(value) == 32 and seen:
        return random.choice(seen)
    if not value:
        return b"\0"
    inner = _structure(value)
    if inner is not None and random.random() < 0.7:
        return msgspec.msgpack.encode(mutated(random, inner, seen))
    match random.randrange(3):
        case 0:
            return value[: random.randrange(len(value))]
        case 1:
            return value + b"\0"
        case _:
            at = random.randrange(len(value))
            return value[:at] + bytes([value[at] ^ 1 << random.randrange(8)]) + value[at + 1 :]


def _structure(value: bytes) -> list[Any] | None:
    """The list that `value` encodes, if it does: blocks, certificates and checkpoints travel as bytes."""
    if value[0] & 0xF0 != 0x90 and value[0] != 0xDC:
        return None
    try:
        inner = msgspec.msgpack.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return inner if isinstance(inner, list) else None


class Mutator:
    """Small changes to a share of all frames, and old frames again."""

    def __init__(self, random: Random, share: float, only: frozenset[str] = frozenset()) -> None:
        self._random = random
        self._share = share
        self._only = only
        self._digests: list[bytes] = []
        self._old: list[bytes] = []

    def __call__(self, node: "Node", target: int, frame: bytes) -> list[tuple[int, bytes]]:
        random = self._random
        self._remember(frame)
        if (self._only and tag_of(frame) not in self._only) or random.random() >= self._share:
            return [(0, frame)]
        if random.random() < 0.2:
            return [(0, frame), (0, random.choice(self._old))]
        lie = resealed(node, mutated(random, opened(frame), self._digests))
        return [(0, lie)] if random.random() < 0.5 else [(0, lie), (0, frame)]

    def _remember(self, frame: bytes) -> None:
        if len(self._old) < 64:
            self._old.append(frame)
        else:
            self._old[self._random.randrange(64)] = frame
        if len(frame) < 300:
            digests = [field for field in opened(frame) if isinstance(field, bytes) and len(field) == 32]
            self._digests = (self._digests + digests)[-16:]
