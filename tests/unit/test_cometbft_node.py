"""The ledger under a scripted CometBFT, over real sockets: handshake, blocks, crashes, and what it must not accept."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from cometbft_app import App, Payer, agree, make_chain
from cometbft_engine import CONSENSUS, MEMPOOL, QUERY, Chain, Comet, StoppedError, at
from ledger_network import CLIENT, POLICY, RICH, key, make_genesis, name
from tallystick.consensus.cometbft import messages as m
from tallystick.consensus.cometbft import values as v
from tallystick.consensus.cometbft.snapshots import app_hash
from tallystick.consensus.cometbft.validators import update_of
from tallystick.ledger.transactions import Deposit, OpenTask, Transfer, sign_transaction

GENESIS = make_genesis()
START = GENESIS.time_ms
ANN = key("ann").identity
PAY = Transfer(ANN, 7)
LIMIT_SECONDS = 60

Scenario = Callable[[App, Comet], Awaitable[None]]


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            await scenario()

    asyncio.run(limited())


def with_one(home: Path, scenario: Scenario, **options: int) -> None:
    """Plays `scenario` with one application, and one engine that has shaken hands with it."""

    async def whole() -> None:
        app = App(home, GENESIS, **options)
        async with app.serving(), Comet(make_chain(GENESIS)) as comet:
            await comet.start(app.path)
            await scenario(app, comet)

    play(whole)


# ---- the first handshake


def test_a_new_chain_begins_with_our_validators_and_state(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        assert comet.app_hash == app_hash(app.node.snapshot())
        assert comet.validators == {bytes.fromhex(info.identity): 1 for info in GENESIS.validators}
        info = await comet.ask(QUERY, m.RequestInfo())
        assert (info.data, info.version, info.app_version) == ("tallystick", "test", 1)
        assert (info.last_block_height, info.last_block_app_hash) == (0, b"")

    with_one(tmp_path, scenario)


def changed(**fields: object) -> Callable[[m.RequestInitChain], m.RequestInitChain]:
    return lambda init: replace(init, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (changed(chain_id="test-" + "0" * 32), "wrong_chain"),
        (changed(initial_height=2), "wrong_genesis"),
        (changed(time=at(START + 1)), "wrong_genesis"),
        (changed(time=None), "malformed"),
        (changed(time=v.Timestamp(-1)), "malformed"),
        (changed(app_state_bytes=b'{"rich": true}'), "wrong_genesis"),
        (changed(consensus_params=None), "wrong_params"),
        (changed(consensus_params=v.ConsensusParams(v.BlockParams(-1))), "wrong_params"),
        (changed(consensus_params=v.ConsensusParams(v.BlockParams(8 * 2**20 + 1))), "wrong_params"),
        (
            changed(consensus_params=v.ConsensusParams(v.BlockParams(2**20), abci=v.ABCIParams(1))),
            "wrong_params",
        ),
        (lambda init: replace(init, validators=init.validators[1:]), "wrong_validators"),
        (lambda init: replace(init, validators=(*init.validators, init.validators[0])), "wrong_validators"),
        (lambda init: replace(init, validators=(update_of(ANN), *init.validators[1:])), "wrong_validators"),
        (lambda init: replace(init, validators=(replace(init.validators[0], power=9),)), "wrong_validators"),
        (lambda init: replace(init, validators=(v.ValidatorUpdate(),)), "wrong_validators"),
    ],
)
def test_another_network_is_not_begun(
    tmp_path: Path, change: Callable[[m.RequestInitChain], m.RequestInitChain], code: str
) -> None:
    async def scenario() -> None:
        app, chain = App(tmp_path, GENESIS), make_chain(GENESIS)
        async with app.serving(), Comet(Chain(change(chain.init))) as comet:
            with pytest.raises(StoppedError, match=code):
                await comet.start(app.path)
        assert app.server.rejections[code] == 1

    play(scenario)


def test_the_genesis_document_may_leave_the_validators_to_us(tmp_path: Path) -> None:
    async def scenario() -> None:
        app, chain = App(tmp_path, GENESIS), make_chain(GENESIS)
        async with app.serving(), Comet(Chain(replace(chain.init, validators=()))) as comet:
            await comet.start(app.path)
        assert len(comet.validators) == 4

    play(scenario)


# ---- blocks


def test_four_nodes_agree_on_every_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        chain, payer = make_chain(GENESIS), Payer(GENESIS, CLIENT)
        apps = [App(tmp_path / str(index), GENESIS) for index in range(4)]
        nodes = [Comet(chain) for _ in apps]
        async with AsyncExitStack() as stack:
            for app, node in zip(apps, nodes, strict=True):
                await stack.enter_async_context(app.serving())
                await node.start(app.path)
            hashes = [await agree(nodes, (payer.sign(PAY), payer.sign(PAY)), START + ms) for ms in (0, 0, 5, 900)]
            hashes.append(await agree(nodes, (), START + 901))
            for node in nodes:
                await node.hang_up()
        assert len(set(hashes)) == 5
        assert {app.node.state.accounts[ANN].balance for app in apps} == {RICH + 8 * 7}
        assert {app_hash(app.node.snapshot()) for app in apps} == {hashes[-1]}
        assert {app.node.state.time_ms for app in apps} == {START + 901}

    play(scenario)


def test_results_say_what_became_of_each_transaction(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        payer = Payer(GENESIS, CLIENT)
        good, poor = payer.sign(PAY), payer.sign(Transfer(ANN, RICH))
        (good_check, poor_check) = await comet.check(good, poor)
        assert good_check.code == poor_check.code == 0  # whether the money is there is known when the block is
        response = await comet.run_block(comet.chain.decide((good, poor), START))
        ok, refused = response.tx_results
        assert ok == v.ExecTxResult()
        assert (refused.code, refused.data, refused.codespace) == (1, b"insufficient_balance", "tallystick")
        assert "insufficient" in refused.log or str(RICH) in refused.log
        (again,) = await comet.check(good, again=True)
        assert (again.code, again.data) == (1, b"stale_nonce")
        (forged,) = await comet.check(good[:-1] + b"!")
        assert (forged.code, forged.data) == (1, b"bad_signature")

    with_one(tmp_path, scenario)


def test_what_happened_is_told_as_events(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        heard: list[int] = []
        app.node.listen(lambda state: heard.append(state.height))
        task = Payer(GENESIS, CLIENT).sign(OpenTask(name("spec"), name("initial"), 1, 4, 1000, POLICY))
        response = await comet.run_block(comet.chain.decide((task,), START))
        (opened,) = (event for event in response.events if event.type == "task_opened")
        attributes = {attribute.key: attribute.value for attribute in opened.attributes}
        assert attributes["client"] == key(CLIENT).identity and attributes["reward"] == "1000"
        assert all(attribute.index for attribute in opened.attributes)
        assert len(app.node.journal.events(0)) == len(response.events) and heard == [1]

    with_one(tmp_path, scenario)


def test_deadlines_pass_in_empty_blocks(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        task = Payer(GENESIS, CLIENT).sign(OpenTask(name("spec"), name("initial"), 1, 4, 1000, POLICY))
        await comet.run_block(comet.chain.decide((task,), START))
        await comet.run_block(comet.chain.decide((), START + POLICY.expires_ms))
        assert not app.node.state.tasks and app.node.state.accounts[key(CLIENT).identity].balance == RICH

    with_one(tmp_path, scenario)


# ---- proposals


def test_a_proposal_holds_what_is_authentic_once_and_fits(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        payer = Payer(GENESIS, CLIENT)
        first, second, third = (payer.sign(PAY) for _ in range(3))
        mixed = (first, b"noise", second[:-1] + b"!", first, second, b"", third)
        assert await comet.propose(mixed, START) == (first, second, third)
        each = len(first) + 2 + 1  # two bytes of length and one of tag
        assert len(second) == len(third) == len(first) > 127
        for room, fit in ((3 * each, 3), (3 * each - 1, 2), (each, 1), (each - 1, 0), (-1, 0)):
            request = m.RequestPrepareProposal(room, (first, second, third), None, (), 1, at(START))
            assert (await comet.ask(CONSENSUS, request)).txs == (first, second, third)[:fit]
        twice = m.RequestPrepareProposal(2 * each, (first, first, second), None, (), 1, at(START))
        assert (await comet.ask(CONSENSUS, twice)).txs == (first, second)  # a repetition takes no room

    with_one(tmp_path, scenario)


def test_a_proposal_is_accepted_or_not_by_all_alike(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        payer = Payer(GENESIS, CLIENT)
        good, other = payer.sign(PAY), payer.sign(PAY)
        strange = sign_transaction(key(CLIENT), "another-chain", 9, PAY)
        assert await comet.process((), START)
        assert await comet.process((good, other), START)
        assert await comet.process((other, good), START)
        for txs in [(good, good), (good, b""), (good, b"noise"), (good[:-1] + b"!",), (strange,)]:
            assert not await comet.process(txs, START), txs
        assert not await comet.process((good,), START - 1)
        await comet.run_block(comet.chain.decide((good,), START))
        assert await comet.process((good,), START)  # used already: a result, not a reason to refuse the block
        late = m.RequestProcessProposal((), None, (), b"h" * 32, 1, at(START))
        assert (await comet.ask(CONSENSUS, late)).status == m.Verdict.REJECT

    with_one(tmp_path, scenario)


def test_asking_changes_nothing(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        before = app.node.state
        tx = Payer(GENESIS, CLIENT).sign(PAY)
        await comet.check(tx)
        await comet.propose((tx,), START)
        await comet.process((tx,), START)
        await comet.ask(CONSENSUS, m.RequestExtendVote(b"h" * 32, 1, at(START), (tx,)))
        await comet.finalize(comet.chain.decide((tx,), START))
        assert app.node.state is before and app.node.height == 0

    with_one(tmp_path, scenario)


def test_votes_are_not_extended(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        assert await comet.ask(CONSENSUS, m.RequestExtendVote()) == m.ResponseExtendVote()
        for extension, verdict in ((b"", m.Verdict.ACCEPT), (b"x", m.Verdict.REJECT)):
            request = m.RequestVerifyVoteExtension(b"h" * 32, b"a" * 20, 1, extension)
            assert (await comet.ask(CONSENSUS, request)).status == verdict

    with_one(tmp_path, scenario)


# ---- stops and starts


def test_a_kill_at_any_moment_of_a_block_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """The application is killed, or the engine, or both: before and after each step of three blocks."""

    async def scenario() -> None:
        chain, payer, app = make_chain(GENESIS), Payer(GENESIS, CLIENT), App(tmp_path, GENESIS)
        comet = Comet(chain)
        for height in range(1, 10):
            async with app.serving():
                await comet.start(app.path)
                assert app.node.height == height - 1
                block = chain.decide((payer.sign(PAY),), START + height)
                comet.stored = height
                if height % 3:
                    await comet.finalize(block)
                if height % 3 == 2:
                    await comet.commit(height)
                    comet.state_height = height - 1  # the engine dies before it has saved its own state
                await comet.hang_up()
            if height % 2:
                app = app.again()
        async with app.serving():
            await comet.start(app.path)
            await comet.hang_up()
        assert app.node.height == 9 and app.node.state.accounts[ANN].balance == RICH + 9 * 7
        assert comet.app_hash == app_hash(app.node.snapshot())

    play(scenario)


def test_an_engine_that_comes_back_to_a_living_application_finalizes_again(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        payer = Payer(GENESIS, CLIENT)
        await comet.finalize(comet.chain.decide((payer.sign(PAY),), START))
        await comet.hang_up()
        await comet.start(app.path)
        assert app.node.height == 1 and app.node.state.accounts[ANN].balance == RICH + 7

    with_one(tmp_path, scenario)


@pytest.mark.parametrize(("killed", "left"), [(True, 0), (False, 63)])
def test_the_ledger_is_never_ahead_of_the_engine(tmp_path: Path, killed: bool, left: int) -> None:
    """Killed between FinalizeBlock and Commit at the heights where the journal takes its own snapshots, too."""

    async def scenario() -> None:
        chain, app = make_chain(GENESIS), App(tmp_path, GENESIS)
        comet = Comet(chain)
        async with app.serving():
            await comet.start(app.path)
            for height in range(1, 64):
                await comet.run_block(chain.decide((), START + height))
            await comet.finalize(chain.decide((), START + 64))
            await comet.hang_up()
        if not killed:
            app.node.close()
        reopened = app.again()
        async with reopened.serving():
            assert (await comet.start(reopened.path)).last_block_height == left
            assert reopened.node.height == 64, "the rest is replayed"
            await comet.hang_up()

    play(scenario)


def test_an_engine_at_another_height_is_stopped(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        await comet.run_block(comet.chain.decide((), START))
        await comet.run_block(comet.chain.decide((), START + 10))
        first, second = comet.chain.blocks
        for request, code in [
            (first, "wrong_height"),
            (second, "wrong_height"),
            (replace(second, height=4), "wrong_height"),
            (replace(second, height=3, time=at(START + 9)), "malformed"),
            (replace(second, height=3, hash=b"short"), "malformed"),
            (m.RequestCommit(), "nothing_to_commit"),
            (comet.chain.init, "not_at_genesis"),
        ]:
            with pytest.raises(StoppedError, match=code):
                await comet.ask(CONSENSUS, request)
            await comet.hang_up()
            await comet.connect(app.path)
        assert app.node.height == 2

    with_one(tmp_path, scenario)


def test_a_refused_block_is_not_committed(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        await comet.finalize(comet.chain.decide((), START))
        with pytest.raises(StoppedError, match="wrong_height"):
            await comet.ask(CONSENSUS, replace(comet.chain.blocks[0], height=7))
        await comet.hang_up()
        await comet.connect(app.path)
        await comet.commit(1)  # of the block that was finalized before
        assert app.node.height == 1

    with_one(tmp_path, scenario)


# ---- queries and connections


def test_queries_read_the_committed_state(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        await comet.run_block(comet.chain.decide((Payer(GENESIS, CLIENT).sign(PAY),), START))
        answer = await comet.ask(QUERY, m.RequestQuery(path=f"/accounts/{ANN}"))
        assert (answer.code, answer.height) == (0, 1) and f'"balance":{RICH + 7}'.encode() in answer.value
        again = await comet.ask(QUERY, m.RequestQuery(path=f"/accounts/{ANN}", height=1))
        assert again.value == answer.value
        assert (await comet.ask(QUERY, m.RequestQuery(path="/p2p/filter/addr/1.2.3.4:5"))).code == 0
        for request, why in [
            (m.RequestQuery(path="/accounts/../../etc"), "not_found"),
            (m.RequestQuery(path=f"/tasks/{'0' * 64}"), "not_found"),
            (m.RequestQuery(path=f"/anchors/{'0' * 64}"), "not_found"),
            (m.RequestQuery(path=""), "not_found"),
            (m.RequestQuery(path="/money"), "not_found"),
            (m.RequestQuery(path="/tasks"), "not_found"),
            (m.RequestQuery(path=f"/accounts/{ANN}", prove=True), "no_proofs"),
            (m.RequestQuery(path=f"/accounts/{ANN}", height=2), "no_such_height"),
            (m.RequestQuery(path="/money", height=-1), "no_such_height"),
        ]:
            refused = await comet.ask(QUERY, request)
            assert (refused.code, refused.info) == (1, why)

    with_one(tmp_path, scenario)


def test_all_connections_see_a_block_when_it_is_committed_and_not_before(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        tx = Payer(GENESIS, CLIENT).sign(PAY)
        await comet.finalize(comet.chain.decide((tx,), START))
        assert (await comet.check(tx))[0].code == 0
        assert (await comet.ask(QUERY, m.RequestInfo())).last_block_height == 0
        await comet.commit(1)
        assert (await comet.check(tx))[0].data == b"stale_nonce"
        assert (await comet.ask(QUERY, m.RequestInfo())).last_block_height == 1

    with_one(tmp_path, scenario)


def test_many_requests_at_once_are_answered_in_order(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        payer = Payer(GENESIS, CLIENT)
        txs = [payer.sign(Deposit(1)) if index % 3 else b"noise %d" % index for index in range(300)]
        answers = await comet.check(*txs)
        assert [answer.code == 0 for answer in answers] == [bool(index % 3) for index in range(300)]
        echoes = await comet.links[MEMPOOL].call(*(m.RequestEcho(str(index)) for index in range(300)))
        assert [echo.message for echo in echoes] == [str(index) for index in range(300)]

    with_one(tmp_path, scenario)


def test_retained_blocks_reach_back_to_the_oldest_snapshot(tmp_path: Path) -> None:
    async def scenario(app: App, comet: Comet) -> None:
        kept = []
        for height in range(1, 13):
            await comet.finalize(comet.chain.decide((), START + height))
            kept.append((await comet.commit(height)).retain_height)
        assert app.shelf.heights() == [8, 10, 12]
        assert kept == [0, 0, 0, 0, 1, 2, 2, 4, 4, 6, 6, 8]

        await comet.hang_up()
        restarted = app.again()
        async with restarted.serving(), comet:
            assert (await comet.start(restarted.path)).last_block_height == 12 > comet.base

    with_one(tmp_path, scenario, snapshot_interval=2, retain_blocks=4)


def test_the_same_block_gives_the_same_app_hash_whatever_was_asked_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        chain, payer = make_chain(GENESIS), Payer(GENESIS, CLIENT)
        quiet, busy = App(tmp_path / "quiet", GENESIS), App(tmp_path / "busy", GENESIS)
        first, second = Comet(chain), Comet(chain)
        async with quiet.serving(), busy.serving():
            await first.start(quiet.path)
            await second.start(busy.path)
            tx = payer.sign(PAY)
            await second.check(tx, payer.sign(PAY))
            await second.propose((tx,), START)
            await second.finalize(replace(chain.decide((), START), hash=sha256(b"other").digest()))
            chain.blocks.pop()
            second.responses.clear()
            block = chain.decide((tx,), START)
            assert (await first.run_block(block)).app_hash == (await second.run_block(block)).app_hash
            await first.hang_up()
            await second.hang_up()

    play(scenario)
