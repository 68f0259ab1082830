"""What the ledger takes for a transfer: checking its signature, executing it, storing the block; and for a snapshot.

    python -m benchmarks.ledger [--json FILE] [--accounts N]

Processor time of one thread, the median of REPEATS runs, so that other work on the machine counts little. Blocks are
executed as by a validator that has never seen their transactions: nothing is remembered.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.report import Row, middle_and_spread, progress, publish
from tallystick.canon.identity import Key
from tallystick.ledger.events import Result
from tallystick.ledger.execute import Executed, execute_block
from tallystick.ledger.genesis import Agreement, Genesis, ValidatorInfo, genesis_state
from tallystick.ledger.state import State, dump_state, load_state
from tallystick.ledger.transactions import Batch, Transfer, open_transaction, sign_transaction
from tallystick.network.journal import KEPT_RESULTS, Journal

TRANSFERS: Final = 2_000
"""In a block."""
BATCH: Final = 50
MEMO: Final = bytes(72)
"""Makes a transfer, signed alone, 256 bytes."""
REPEATS: Final = 9
BARS: Final = {"alone": 25.0, "batch": 15.0}
"""Microseconds for each transfer that is executed."""


def key(*words: object) -> Key:
    return Key.from_seed(sha256(repr(words).encode()).digest())


def state_with(accounts: Sequence[str]) -> State:
    validators = tuple(ValidatorInfo(key("validator", i).identity, "v:1", "", "", 1_000) for i in range(4))
    return genesis_state(Genesis("benchmark", 1, Agreement(), validators, dict.fromkeys(accounts, 10**6)))


def payments(people: Sequence[Key], sender: int, count: int) -> list[Transfer]:
    return [Transfer(people[(sender + 7 * i + 1) % len(people)].identity, 1, MEMO) for i in range(count)]


def alone(state: State, people: Sequence[Key]) -> list[bytes]:
    turns = [(people[i % len(people)], 1 + i // len(people), i) for i in range(TRANSFERS)]
    return [sign_transaction(who, state.chain, nonce, payments(people, i, 1)[0]) for who, nonce, i in turns]


def in_batches(state: State, people: Sequence[Key]) -> list[bytes]:
    senders = range(TRANSFERS // BATCH)
    return [sign_transaction(people[i], state.chain, 1, Batch([*payments(people, i, BATCH)])) for i in senders]


def execute(state: State, transactions: Sequence[bytes]) -> Executed:
    return execute_block(state, height=1, time_ms=2, beacon=bytes(32), transactions=transactions)


def cost(what: str, unit: str, scale: float, action: Callable[[], object], bar: float | None = None) -> Row:
    """A row whose bar is a limit on our own figure: processor seconds times `scale`."""
    progress(what)
    samples = []
    for _ in range(REPEATS):
        start = time.process_time()
        action()
        samples.append((time.process_time() - start) * scale)
    middle, spread = middle_and_spread(samples)
    return Row(what, unit, middle, bar, "limit", None, None, None if bar is None else middle <= bar, spread)


def rows(accounts: int) -> list[Row]:
    people = [key("person", i) for i in range(1_000)]
    crowd = [sha256(b"%d" % i).hexdigest() for i in range(accounts - len(people))]
    state = state_with([*(person.identity for person in people), *crowd])
    singles, batches = alone(state, people), in_batches(state, people)
    each, of_batch = 1e6 / TRANSFERS, 1e6 / len(batches)
    executed = execute(state, singles)
    assert all(result.code == "ok" for result in (*executed.results, *execute(state, batches).results))
    snapshot = dump_state(state)
    size = f"of {accounts} accounts, {len(snapshot) / 2**20:.1f} MiB"
    return [
        cost("check a transfer of 256 bytes", "us", each, lambda: [open_transaction(t, state.chain) for t in singles]),
        cost("check a batch of 50", "us", of_batch, lambda: [open_transaction(t, state.chain) for t in batches]),
        cost("execute a transfer", "us", each, lambda: execute(state, singles), BARS["alone"]),
        cost("execute a transfer of a batch", "us", each, lambda: execute(state, batches), BARS["batch"]),
        late_results(executed.state),
        cost(f"write a snapshot {size}", "ms", 1e3, lambda: dump_state(state)),
        cost(f"read a snapshot {size}", "ms", 1e3, lambda: load_state(snapshot)),
    ]


def late_results(state: State) -> Row:
    """What a result costs when as many are kept as may be, and each new one takes the place of the oldest."""
    full = KEPT_RESULTS // TRANSFERS
    part = full // 5
    blocks = iter(
        [(msgspec.structs.replace(state, height=h), results_at(h)) for h in range(1, full + REPEATS * part + 1)]
    )
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "ledger.db")

        def append(count: int) -> None:
            for after, results in islice(blocks, count):
                journal.append(after, results, ())

        append(full)
        each = 1e6 / (part * TRANSFERS)
        row = cost(f"store the result of a transfer, {KEPT_RESULTS:,} being kept", "us", each, lambda: append(part))
        journal.abandon()
    return row


def results_at(height: int) -> list[Result]:
    return [Result(sha256(b"%d %d" % (height, i)).hexdigest(), "", "ok", "") for i in range(TRANSFERS)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Processor time of the ledger.")
    parser.add_argument("--json", type=Path, help="Also write the report here.")
    parser.add_argument("--accounts", type=int, default=1_000, help="In the state; at least 1,000 act.")
    options = parser.parse_args()
    publish(rows(max(options.accounts, 1_000)), 1, options.json)


if __name__ == "__main__":
    main()
