"""Structure-aware fuzzing of consensus: malformed frames into live replicas, from a validator that signs them all.

    PYTHONPATH=tests:tests/unit python -m fuzz.frames [--frames 1000000] [--seed 1]

Three honest validators go on agreeing while the fourth, whose key is ours, sends them what they said to one another
with fields, votes, proofs and lengths changed, and the result signed again, so that it gets as deep as it can; and
bytes that are no frames at all. No exception may come out of a step, everything that peers can make a replica hold
stays within its bounds, memory stays flat, and the honest ones go on delivering the same blocks.
"""

import argparse
import random
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
from pbft_cluster import KEYS, SMALL, App, Cluster, Disk, Node, group_of, node

from tallystick.canon.sealed import HEADER_BYTES, seal
from tallystick.canon.votes import vote_domain
from tallystick.consensus.pbft.io import Broadcast, Halt, Received, Relay, Send
from tallystick.consensus.pbft.limits import MAX_EARLY_BYTES, MAX_EARLY_FRAMES, MAX_EVIDENCE, MAX_POOL_TRANSACTIONS

HONEST: Final = 3
ATTACKER: Final = KEYS[HONEST]
GROUP: Final = group_of(4)
CORPUS: Final = 512
"""Frames of the honest validators that are kept to be changed, the latest."""
EVERY: Final = 500
"""Frames between two transactions of honest clients."""
STEP_MS: Final = 20
KEPT: Final = 200
"""Blocks on the simulated disks."""
HEALING_STEPS: Final = 300
HEALING_MS: Final = 1000
"""Five minutes without an attack: some timeouts have doubled to a minute by then."""
EDGES: Final = (0, 1, -1, 2, 3, 4, 5, 12, 13, 31, 32, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**64 - 1, -(2**63))
BOUNDS: Final = {
    "early": 4 * MAX_EARLY_FRAMES,
    "early_bytes": 4 * MAX_EARLY_BYTES,
    "accused": MAX_EVIDENCE,
    "pool": MAX_POOL_TRANSACTIONS,
    "peers": 4,
    "view_changes": 4,
    "instances": 2 * SMALL.interval,
    "votes": 2 * SMALL.interval * 2 * 4,
}
"""Of `Replica.load`, for a group of four."""
MAX_SECONDS: Final = 2.0
"""For one frame."""
WARM_UP: Final = 100_000
"""Until then what replicas remember of signatures that they have checked fills up."""
LONG_BYTES: Final = 200_000
"""What a repeated list takes at most, about."""
FLAT_KIB: Final = 64 * 1024


class Liar:
    """Makes frames out of those it has seen."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.seen: deque[bytes] = deque(maxlen=CORPUS)

    def frame(self) -> bytes:
        chance = self._chance
        if not self.seen or chance.random() < 0.02:
            return chance.randbytes(chance.choice((0, 1, 31, HEADER_BYTES - 1, HEADER_BYTES, 200, 5000)))
        original = chance.choice(self.seen)
        if chance.random() < 0.15:
            return self._broken(original)
        value = msgspec.msgpack.decode(original[HEADER_BYTES:])
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
            value = self._changed(value)
        return self._sealed(value)

    def _broken(self, frame: bytes) -> bytes:
        """Bytes that were changed after they were signed, or a replay under another channel."""
        way = self._chance.randrange(4)
        if way == 0:
            return frame
        if way == 1:
            return frame[: self._chance.randrange(len(frame))]
        if way == 2:
            return frame + self._chance.randbytes(8)
        at = self._chance.randrange(len(frame))
        return frame[:at] + bytes([frame[at] ^ 1 << self._chance.randrange(8)]) + frame[at + 1 :]

    def _sealed(self, value: Any) -> bytes:
        try:
            payload = msgspec.msgpack.encode(value)
        except (OverflowError, msgspec.EncodeError):
            payload = self._chance.randbytes(40)
        return seal(ATTACKER, vote_domain(GROUP.chain), payload)

    def _changed(self, value: Any) -> Any:
        """One thing in `value` is another: itself, or something inside it."""
        chance = self._chance
        if isinstance(value, list) and value and chance.random() < 0.85:
            at = chance.randrange(len(value))
            return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
        changes: dict[type, Callable[[Any], Any]] = {
            bool: lambda flag: not flag,
            int: lambda number: chance.choice((number + 1, number - 1, number + SMALL.interval, chance.choice(EDGES))),
            bytes: self._changed_bytes,
            str: lambda text: chance.choice((text + "x", "", text[:-1], chance.choice(KEYS).identity, "prepare")),
            list: self._changed_list,
        }
        if chance.random() < 0.05:
            return chance.choice((None, 0, b"", "", [], True, [[]] * 3, {"a": 1}, 1.5))
        change = changes.get(type(value))
        return change(value) if change else None

    def _changed_bytes(self, data: bytes) -> bytes:
        """Inside may be a block, a proof or a signed vote: those are opened, changed, and signed again."""
        chance = self._chance
        if chance.random() < 0.5 and data:
            signed = len(data) > HEADER_BYTES
            for start in (HEADER_BYTES, 0) if signed else (0,):
                try:
                    inner = msgspec.msgpack.decode(data[start:])
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
                if isinstance(inner, list):
                    changed = self._changed(inner)
                    return self._sealed(changed) if start else self._sealed(changed)[HEADER_BYTES:]
        choices = (b"", data[:-1], data + b"\0", chance.randbytes(len(data)), data * 2, chance.choice(self.seen))
        return chance.choice(choices)

    def _changed_list(self, items: list[Any]) -> list[Any]:
        chance = self._chance
        many = min(300, LONG_BYTES // (1 + len(repr(items))))  # frames that are too long end at the channel
        return chance.choice((items[::-1], items[:-1], items * 2, items + items[-1:], [], items * many))


class Tally(App):
    """Keeps a hash of what it executed, so that memory stays flat."""

    def execute(self, transactions: Sequence[bytes]) -> None:
        for transaction in transactions:
            self.executed = [sha256(b"".join(self.executed) + transaction).digest()]


class Honest:
    """Three replicas that hear each other at once, and the attacker."""

    def __init__(self, liar: Liar) -> None:
        self.cluster = Cluster(
            GROUP, {i: node(GROUP, i, disk=Disk(GROUP, Tally(GROUP.validators))) for i in range(HONEST)}
        )
        self._liar = liar
        self._number = 0

    def work(self, ms: int) -> None:
        """A client's transaction, and time."""
        self._number += 1
        self.cluster.submit(self._number % HONEST, b"transaction %d" % self._number)
        self.pass_time(ms)

    def pass_time(self, ms: int) -> None:
        for each in self.cluster.up:
            each.tick(ms)
        self.exchange()

    def attack(self, frame: bytes) -> None:
        target = self.cluster.up[self._liar._chance.randrange(HONEST)]
        began = time.monotonic()
        target.step(Received(ATTACKER.identity, frame))
        took = time.monotonic() - began
        assert took < MAX_SECONDS, f"a frame of {len(frame)} bytes took {took:.1f} s"
        self.exchange()

    def exchange(self) -> None:
        """Delivers what the honest ones say, and shows the attacker what it would hear."""
        quiet = False
        while not quiet:
            quiet = True
            for each in self.cluster.up:
                effects, each.effects = each.effects, []
                for effect in effects:
                    assert not isinstance(effect, Halt), f"an honest replica stopped: {effect}"
                    if not isinstance(effect, Send | Relay | Broadcast):
                        continue
                    quiet = False
                    if isinstance(effect, Broadcast) or effect.peer == ATTACKER.identity:
                        self._liar.seen.append(effect.frame)
                    self._hand_over(each, effect)

    def _hand_over(self, source: Node, effect: Send | Relay | Broadcast) -> None:
        for other in self.cluster.up:
            if other is not source and (isinstance(effect, Broadcast) or effect.peer == other.key.identity):
                other.step(Received(source.key.identity, effect.frame))

    def check(self) -> None:
        for each in self.cluster.up:
            each.disk.blocks = {h: b for h, b in each.disk.blocks.items() if h > each.replica.height - KEPT}
            each.disk.snapshots = {h: s for h, s in each.disk.snapshots.items() if h > each.replica.height - KEPT}
            over = {what: size for what, size in each.replica.load.items() if size > BOUNDS.get(what, 10**9)}
            assert not over, f"more is held than the bounds allow: {over}"


def run(frames: int, seed: int, report: Callable[[str], None]) -> Counter[str]:
    """Returns what the replicas refused, by reason code."""
    liar = Liar(seed)
    honest = Honest(liar)
    honest.work(0)
    began, resident = time.monotonic(), 0
    for number in range(frames):
        if number % EVERY == 0:
            honest.work(STEP_MS)
        elif number % 20 == 0:
            honest.pass_time(STEP_MS)
        honest.attack(liar.frame())
        if number % 1000 == 0:
            honest.check()
        if number == min(WARM_UP, frames // 2):
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if number % 50_000 == 0 and number:
            height, rate = honest.cluster.up[0].replica.height, number / (time.monotonic() - began)
            report(f"{number} frames, {rate:.0f} a second, height {height}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
    assert grown < FLAT_KIB, f"memory grew by {grown} KiB after the first {WARM_UP} frames"
    before = honest.cluster.up[0].replica.height
    for step in range(HEALING_STEPS):
        (honest.pass_time if step % 10 else honest.work)(HEALING_MS)
    honest.check()
    assert len(set(honest.cluster.heights())) == 1 and honest.cluster.agreed(), honest.cluster.heights()
    assert honest.cluster.up[0].replica.height > before, "the honest replicas do not go on"
    total: Counter[str] = Counter()
    for each in honest.cluster.up:
        total.update(each.replica.rejections)
    report(f"{frames} frames: no crash, {grown} KiB more memory, height {honest.cluster.up[0].replica.height}")
    return total


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz.frames", description=str(__doc__).splitlines()[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    refused = run(options.frames, options.seed, lambda line: print(line, file=sys.stderr, flush=True))
    for reason, count in refused.most_common():
        print(f"{count:8} {reason}")


if __name__ == "__main__":
    main()
