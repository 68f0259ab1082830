"""Whatever stops when, the ledger under CometBFT ends where executing the same blocks once would have ended."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cometbft_app import App, Payer, make_chain
from cometbft_engine import Comet
from ledger_network import CLIENT, key, make_genesis
from tallystick.consensus.cometbft.snapshots import app_hash
from tallystick.consensus.port import CommittedBlock
from tallystick.ledger.transactions import Transfer
from tallystick.network.node import Node

GENESIS = make_genesis()
LIMIT_SECONDS = 60
MOMENTS = ["stored", "finalized", "committed", "saved"]
"""How far a block has come when something stops: in CometBFT's store, executed, committed, noted by CometBFT."""

BLOCKS = st.lists(
    st.tuples(
        st.integers(0, 2),  # transactions
        st.integers(0, 3),  # milliseconds since the block before
        st.none() | st.sampled_from(MOMENTS),  # when something stops
        st.booleans(),  # whether the application is killed; CometBFT stops either way
    ),
    max_size=25,
)


async def live(home: Path, blocks: list[tuple[int, int, str | None, bool]], interval: int, retain: int) -> None:
    app = App(home / "node", GENESIS, snapshot_interval=interval, retain_blocks=retain)
    comet, payer, time_ms = Comet(make_chain(GENESIS)), Payer(GENESIS, CLIENT), GENESIS.time_ms
    pay = Transfer(key("ann").identity, 1)
    serving = app.serving()
    await serving.__aenter__()
    try:
        await comet.start(app.path)
        for transactions, ms, moment, killed in blocks:
            time_ms += ms
            block = comet.chain.decide([payer.sign(pay) for _ in range(transactions)], time_ms)
            comet.stored = block.height
            reached = MOMENTS.index(moment or "saved")
            if reached >= 1:
                await comet.finalize(block)
            if reached >= 2:
                await comet.commit(block.height)
            if moment == "committed":
                comet.state_height = block.height - 1
            if moment is None:
                continue
            if killed:
                await comet.hang_up()
                await serving.__aexit__(None, None, None)
                app = app.again()
                serving = app.serving()
                await serving.__aenter__()
            await comet.start(app.path)
            assert app.node.height == comet.state_height == block.height
    finally:
        await comet.hang_up()
        await serving.__aexit__(None, None, None)
    once = Node(GENESIS, home / "once.db")
    for decided in comet.chain.blocks:
        ms = (decided.time.seconds * 10**9 + decided.time.nanos) // 10**6 if decided.time else 0
        once.execute(CommittedBlock(decided.height, ms, decided.hash, decided.txs, b""))
    assert app.node.snapshot() == once.snapshot()
    assert comet.app_hash == app_hash(once.snapshot()) or not blocks


@settings(max_examples=40, deadline=None)
@given(BLOCKS, st.integers(1, 6), st.integers(0, 4))
def test_no_crash_loses_or_repeats_a_block(
    blocks: list[tuple[int, int, str | None, bool]], interval: int, retain: int
) -> None:
    async def limited() -> None:
        with tempfile.TemporaryDirectory() as home:
            async with asyncio.timeout(LIMIT_SECONDS):
                await live(Path(home), blocks, interval, retain)

    asyncio.run(limited())
