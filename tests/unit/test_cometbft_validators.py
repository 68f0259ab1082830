"""The ledger's validators as CometBFT's: who comes, goes, changes a key, and who is caught by CometBFT's evidence."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest

from cometbft_app import App, Payer, agree, make_chain
from cometbft_engine import Comet, at
from ledger_network import VALIDATOR_STAKE, check_invariants, key, make_genesis
from tallystick.consensus.cometbft import messages as m
from tallystick.consensus.cometbft import values as v
from tallystick.consensus.cometbft.port import Offense
from tallystick.consensus.cometbft.validators import address_of, changes, offenses, update_of
from tallystick.errors import Refused
from tallystick.ledger.execute import execute_block
from tallystick.ledger.genesis import genesis_state
from tallystick.ledger.transactions import AddValidator, AnyBody, Deposit, RemoveValidator, RotateKey, prove_rotation

GENESIS = make_genesis()
START = GENESIS.time_ms
V = [key(f"v{index}").identity for index in range(4)]
ANN = key("ann").identity
LIMIT_SECONDS = 60


def test_a_validators_address_is_that_of_its_key() -> None:
    assert address_of(V[0]) == sha256(bytes.fromhex(V[0])).digest()[:20]


def test_changes_are_in_one_order_and_never_leave_nobody() -> None:
    a, b, c = sorted(V[:3])
    assert changes([a, b], [b, a]) == ()
    assert changes([c, a], [b, c]) == (update_of(a, 0), update_of(b, 1))
    with pytest.raises(Refused, match="no_validators"):
        changes([a], [])


def proof(identity: str, height: int, kind: int = v.MisbehaviorType.DUPLICATE_VOTE) -> v.Misbehavior:
    return v.Misbehavior(kind, v.Validator(address_of(identity), 1), height, at(START), 4)


def test_offenses_are_those_of_the_answerable_once_each() -> None:
    light = v.MisbehaviorType.LIGHT_CLIENT_ATTACK
    proven = [
        proof(V[1], 5),
        proof(V[0], 9),
        proof(V[0], 9),
        proof(V[0], 3, light),
        proof(ANN, 1),
        v.Misbehavior(1),
    ]
    assert offenses(proven, V) == tuple(sorted({Offense(V[0], 3), Offense(V[0], 9), Offense(V[1], 5)}))
    assert offenses([proof(V[0], 1, v.MisbehaviorType.UNKNOWN), proof(V[0], 1, 77)], V) == ()


@dataclass
class Scene:
    """Two nodes of one network, which must agree on everything."""

    apps: list[App]
    nodes: list[Comet]
    time_ms: int = START
    members: dict[str, Payer] = field(default_factory=dict)

    async def block(self, *acts: tuple[str, AnyBody], misbehavior: tuple[v.Misbehavior, ...] = ()) -> None:
        """One block with a transaction of each of these members."""
        txs = tuple(self.members.setdefault(who, Payer(GENESIS, who)).sign(body) for who, body in acts)
        self.time_ms += 1
        await agree(self.nodes, txs, self.time_ms, *misbehavior)
        last = self.nodes[0].responses[self.nodes[0].stored]
        assert [result.code for result in last.tx_results] == [0] * len(txs), last.tx_results
        for app, node in zip(self.apps, self.nodes, strict=True):
            check_invariants(app.node.state)
            assert node.validators == {bytes.fromhex(name): 1 for name in app.node.validators()}

    @property
    def last(self) -> m.ResponseFinalizeBlock:
        return self.nodes[0].responses[self.nodes[0].stored]

    def bond(self, identity: str) -> int:
        return sum(each.bond for each in self.apps[0].node.state.validators if each.identity == identity)


@asynccontextmanager
async def scene(home: Path) -> AsyncIterator[Scene]:
    chain = make_chain(GENESIS)
    async with asyncio.timeout(LIMIT_SECONDS), AsyncExitStack() as stack:
        apps = [App(home / name, GENESIS) for name in "ab"]
        nodes = [Comet(chain) for _ in apps]
        for app, node in zip(apps, nodes, strict=True):
            await stack.enter_async_context(app.serving())
            await stack.enter_async_context(node)
            await node.start(app.path)
        yield Scene(apps, nodes)


def play(home: Path, story: Callable[[Scene], object]) -> None:
    async def whole() -> None:
        async with scene(home) as it:
            await story(it)  # type: ignore[misc]

    asyncio.run(whole())


async def admit_ann(it: Scene) -> None:
    await it.block(("ann", Deposit(VALIDATOR_STAKE)))
    newcomer = AddValidator(ANN, "ann.example:7000", "", "certificate", VALIDATOR_STAKE)
    await it.block(("v0", newcomer), ("v1", newcomer))
    assert it.last.validator_updates == ()
    await it.block(("v2", newcomer))


def test_a_newcomer_votes_and_one_who_was_removed_does_not(tmp_path: Path) -> None:
    async def story(it: Scene) -> None:
        await admit_ann(it)
        assert it.last.validator_updates == (update_of(ANN, 1),)
        out = RemoveValidator(V[3])
        await it.block(("v0", out), ("v1", out), ("v2", out), ("ann", out))
        assert it.last.validator_updates == (update_of(V[3], 0),)

    play(tmp_path, story)


def test_a_new_key_takes_the_place_of_the_old_one_in_the_same_block(tmp_path: Path) -> None:
    async def story(it: Scene) -> None:
        new = key("v3, later")
        rotation = RotateKey(new.identity, "certificate", prove_rotation(new, it.apps[0].node.state.chain, V[3]))
        await it.block(("v3", rotation))
        assert set(it.last.validator_updates) == {update_of(V[3], 0), update_of(new.identity, 1)}
        await it.block(misbehavior=(proof(V[3], 1),))  # what the old key did, the new one answers for
        assert it.last.validator_updates == (update_of(new.identity, 0),)

    play(tmp_path, story)


def test_a_double_vote_costs_the_bond_and_the_office_once(tmp_path: Path) -> None:
    async def story(it: Scene) -> None:
        burned = it.apps[0].node.state.burned
        await it.block(misbehavior=(proof(V[3], 1), proof(V[3], 1), proof(ANN, 1)))
        (event,) = (event for event in it.last.events if event.type == "equivocated")
        told = {attribute.key: attribute.value for attribute in event.attributes}
        assert (told["validator"], told["amount"], told["height"]) == (V[3], str(VALIDATOR_STAKE), "1")
        assert it.last.validator_updates == (update_of(V[3], 0),)
        state = it.apps[0].node.state
        assert state.burned == burned + VALIDATOR_STAKE and state.accounts[V[3]].stake == 0
        await it.block(misbehavior=(proof(V[3], 2),))
        assert it.apps[0].node.state.burned == state.burned and not it.last.validator_updates

    play(tmp_path, story)


def test_who_has_left_answers_for_what_it_signed_before(tmp_path: Path) -> None:
    async def story(it: Scene) -> None:
        await admit_ann(it)
        out = RemoveValidator(V[3])
        await it.block(("v0", out), ("v1", out), ("v2", out), ("ann", out))
        await it.block(misbehavior=(proof(V[3], 2),))
        assert not it.last.validator_updates and it.apps[0].node.state.accounts[V[3]].stake == 0
        assert V[3] in it.apps[0].node.state.culprits

    play(tmp_path, story)


def test_the_ledger_slashes_before_the_transactions_of_the_block(tmp_path: Path) -> None:
    async def story(it: Scene) -> None:
        newcomer = AddValidator(ANN, "ann.example:7000", "", "certificate", VALIDATOR_STAKE)
        payer = it.members.setdefault("v3", Payer(GENESIS, "v3"))
        it.time_ms += 1
        await agree(it.nodes, (payer.sign(newcomer),), it.time_ms, proof(V[3], 1))
        (result,) = it.last.tx_results
        assert result.data == b"not_validator"

    play(tmp_path, story)


def test_the_only_validator_is_convicted_once_and_keeps_the_office() -> None:
    state = genesis_state(make_genesis(["v0"]))
    for height, events in ((1, 1), (2, 0)):
        executed = execute_block(
            state,
            height=height,
            time_ms=START,
            beacon=bytes(32),
            transactions=[],
            offenses=[Offense(V[0], 1), Offense(V[0], 2)],
        )
        state = executed.state
        assert len(executed.events) == events
        assert state.culprits == (V[0],) and [validator.bond for validator in state.validators] == [0]
