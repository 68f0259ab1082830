"""What one validator shows convinces a client that has the genesis document; whatever it makes up does not."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from lying_validator import CHANGE, LATER, PAY, STABLE, World, certified, group_at, honest_world, listening, serving
from pbft_cluster import FOUR, KEYS, block_at, certify, content_of, group_of, identities, stable_proof
from typer.testing import CliRunner

from tallystick.canon.hashing import blob_name
from tallystick.cli.main import app
from tallystick.consensus.pbft import Group
from tallystick.errors import Refused, TallystickError
from tallystick.ledger.genesis import Agreement, Genesis, ValidatorInfo, dump_genesis
from tallystick.ledger.transactions import Deposit, sign_transaction
from tallystick.network.committed import Committed, UnprovenError, check_committed
from tallystick.network.dial import MAX_BLOCK_REPLY_BYTES, Validators
from tallystick.network.genesis import first_group
from tallystick.network.views import MAX_PROOFS, BlockView, Checkpoints

HEIGHT = 6


@pytest.fixture
def world() -> World:
    return honest_world()


@pytest.fixture
def validators(world: World) -> Iterator[Validators]:
    with serving(world) as dialed:
        yield dialed


def name_at(height: int) -> str:
    """The second transaction of a block."""
    return blob_name(PAY[2 * height - 1])


def test_one_honest_reply_is_enough(validators: Validators) -> None:
    for height in range(1, 11):
        group, found = group_at(height), check_committed(validators, FOUR, name_at(height))
        assert found == Committed(
            FOUR.chain,
            name_at(height),
            height,
            2,
            KEYS[9].identity,
            "deposit",
            group.epoch,
            identities([1, 2, 3]),
            4,
        )


def test_a_height_that_the_client_knows_needs_no_word_of_the_validator(validators: Validators, world: World) -> None:
    world.where.clear()
    assert check_committed(validators, FOUR, name_at(HEIGHT), HEIGHT).height == HEIGHT
    with pytest.raises(UnprovenError, match="another validator"):
        check_committed(validators, FOUR, name_at(HEIGHT))


def test_a_height_that_is_not_its_own_is_no_lie_of_the_validator(validators: Validators) -> None:
    with pytest.raises(UnprovenError, match="is that its height"):
        check_committed(validators, FOUR, name_at(HEIGHT), HEIGHT + 1)


def test_a_genesis_document_of_another_network_is_named(validators: Validators, world: World) -> None:
    world.chain = "another"
    with pytest.raises(UnprovenError, match="'another', and the genesis document is of 'test'"):
        check_committed(validators, FOUR, name_at(HEIGHT))


def test_nothing_is_fetched_beyond_what_is_needed(validators: Validators, world: World) -> None:
    check_committed(validators, FOUR, name_at(2))
    assert not any("history" in path for path in world.asked), "genesis says who agreed up to the first checkpoint"


def show(height: int, view: BlockView) -> Callable[[World], None]:
    return lambda world: world.blocks.update({height: view})


def show_history(changes: list[bytes], stable: bytes = b"") -> Callable[[World], None]:
    def lie(world: World) -> None:
        world.checkpoints = lambda start: Checkpoints(changes[start:], stable)

    return lie


def reply(path: str, body: bytes) -> Callable[[World], None]:
    return lambda world: world.raw.update({path: body})


BLOCK, OTHER = PAY[2 * HEIGHT - 2 : 2 * HEIGHT], PAY[2 * HEIGHT]
MINE = block_at(HEIGHT, *BLOCK)
ANOTHER_CHAIN = Group("another", LATER.validators, LATER.epoch, 4, 4, LATER.parameters)
NEXT_EPOCH = Group("test", LATER.validators, LATER.epoch + 1, 4, 4, LATER.parameters)
LIES: dict[str, tuple[Callable[[World], None], str]] = {
    "a certified block without it": (show(HEIGHT, certified(HEIGHT, OTHER)), "not_in_block"),
    "a block that was never agreed on": (
        show(HEIGHT, BlockView(MINE, certified(HEIGHT, OTHER).certificate)),
        "wrong_vote",
    ),
    "a certified block of another height": (show(HEIGHT, certified(7, *BLOCK)), "wrong_height"),
    "another height": (lambda world: world.where.update({name_at(HEIGHT): 7}), "not_in_block"),
    "a height beyond all": (lambda world: world.where.update({name_at(HEIGHT): 2**62}), "not here"),
    "a height below all": (lambda world: world.where.update({name_at(HEIGHT): -1}), "not here"),
    "too few votes": (show(HEIGHT, certified(HEIGHT, *BLOCK, by=(1, 2))), "too_few_votes"),
    "no votes": (show(HEIGHT, certified(HEIGHT, *BLOCK, by=())), "too_few_votes"),
    "one vote three times": (show(HEIGHT, certified(HEIGHT, *BLOCK, by=(1, 2, 2))), "duplicate_signer"),
    "votes of one who has left": (show(HEIGHT, certified(HEIGHT, *BLOCK, by=(0, 1, 2))), "not_a_validator"),
    "votes of strangers": (show(HEIGHT, certified(HEIGHT, *BLOCK, by=(7, 8, 9))), "not_a_validator"),
    "votes of another chain": (show(HEIGHT, certified(HEIGHT, *BLOCK, group=ANOTHER_CHAIN)), "bad_signature"),
    "votes of two epochs": (
        show(
            HEIGHT,
            BlockView(
                MINE,
                msgspec.msgpack.encode(
                    [
                        vote
                        for group, by in ((LATER, (1, 2)), (NEXT_EPOCH, (3,)))
                        for vote in msgspec.msgpack.decode(certify(group, MINE, by, height=HEIGHT))
                    ]
                ),
            ),
        ),
        "wrong_epoch",
    ),
    "no history": (show_history([]), "say only up to 4"),
    "no history beyond genesis, and a stable checkpoint": (show_history([], STABLE), "not_a_validator"),
    "a history that begins too late": (show_history([STABLE]), "not_a_validator"),
    "a history signed by too few": (
        show_history([stable_proof(FOUR, content_of(FOUR, 4, validators=(7, 8, 9)), (0, 1))]),
        "too_few_votes",
    ),
    "a transaction in two pieces": (reply(f"/v1/blocks/{HEIGHT}", b'{"block": "AA"'), "malformed"),
    "a block beyond all bounds": (reply(f"/v1/blocks/{HEIGHT}", bytes(MAX_BLOCK_REPLY_BYTES + 1)), "too_large"),
    "a certificate beyond its bound": (
        reply(
            f"/v1/blocks/{HEIGHT}",
            b'{"block": "", "certificate": "' + b64encode(bytes(9000)) + b'"}',
        ),
        "malformed",
    ),
    "a page beyond its bound": (
        reply("/v1/history?start=0", msgspec.json.encode(Checkpoints([CHANGE, *[STABLE] * MAX_PROOFS], b""))),
        "malformed",
    ),
}


@pytest.mark.parametrize("what", LIES)
def test_a_lie_is_refused(validators: Validators, world: World, what: str) -> None:
    tell, reason = LIES[what]
    tell(world)
    with pytest.raises(TallystickError, match=reason) as caught:
        check_committed(validators, FOUR, name_at(HEIGHT))
    silent = reason in ("not here", "say only up to 4")
    assert isinstance(caught.value, UnprovenError if silent else Refused)


def test_the_command_tells_a_lie_from_a_wrong_question(tmp_path: Path) -> None:
    infos = tuple(ValidatorInfo(key.identity, "127.0.0.1:1", "", "", 1) for key in KEYS[:4])
    document = Genesis("test", 0, Agreement(), infos, {})
    (tmp_path / "genesis.json").write_bytes(dump_genesis(document))
    group = first_group(document)
    world = World(chain=group.chain)
    pay = sign_transaction(KEYS[9], group.chain, 1, Deposit(1))

    def check(*options: str) -> tuple[int, str]:
        with listening(world) as url:
            where = ("--genesis", str(tmp_path / "genesis.json"), "--join", url)
            run = CliRunner().invoke(app, ["check-transaction", blob_name(pay), *where, *options])
        return run.exit_code, run.output

    world.blocks[1] = certified(1, pay, group=group)
    world.where[blob_name(pay)] = 1
    code, said = check()
    assert code == 0 and "committed: transaction 1 of block 1" in said
    world.blocks[1] = certified(1, PAY[0], group=group)
    code, said = check()
    assert code == 2 and "shows something false" in said and "not_in_block" in said
    code, said = check("--height", "1")
    assert code == 1 and "is that its height?" in said
    world.chain = "another"
    code, said = check()
    assert code == 1 and "serves chain 'another'" in said


def test_a_history_that_goes_around_in_circles_is_left(validators: Validators, world: World) -> None:
    show_history([CHANGE, *[STABLE] * (MAX_PROOFS - 1)])(world)
    world.blocks[2**40] = world.blocks[HEIGHT]
    with pytest.raises(Refused, match="not_in_order"):
        check_committed(validators, FOUR, name_at(HEIGHT), 2**40)


@pytest.mark.parametrize("genesis", [group_of(4, chain="another"), group_of(7)])
def test_another_genesis_does_not_vouch_for_it(validators: Validators, world: World, genesis: Group) -> None:
    world.chain = genesis.chain
    with pytest.raises(Refused):
        check_committed(validators, genesis, name_at(2))


def test_a_long_history_is_read_page_by_page_and_only_as_far_as_needed(validators: Validators, world: World) -> None:
    """Validators 0 to 3, and one of the others, in turns."""
    proofs, group = [], FOUR
    for height in range(4, 4 * 150, 4):
        extra = 4 + (height // 4) % 2
        proofs.append(stable_proof(group, content_of(group, height, validators=(0, 1, 2, 3, extra)), (0, 1, 2, 3)))
        group = group.successor(height, identities([0, 1, 2, 3, extra]))
        if height == 4 * 100:
            there = group
    world.checkpoints = lambda start: Checkpoints(proofs[start : start + MAX_PROOFS], proofs[-1])
    world.blocks[402] = certified(402, *BLOCK, group=there, by=(0, 1, 2, 3))
    assert check_committed(validators, FOUR, name_at(HEIGHT), 402).epoch == there.epoch
    assert [path for path in world.asked if "history" in path] == ["/v1/history?start=0", "/v1/history?start=64"]
    world.checkpoints = lambda start: Checkpoints(proofs[:MAX_PROOFS][start:], proofs[MAX_PROOFS - 1])
    with pytest.raises(UnprovenError, match=f"say only up to {4 * (MAX_PROOFS + 1)} "):
        check_committed(validators, FOUR, name_at(HEIGHT), 402)
    world.checkpoints = lambda start: Checkpoints(proofs[start : start + MAX_PROOFS], proofs[-1])
    world.asked.clear()
    world.blocks[599] = certified(599, *BLOCK, group=group, by=(0, 1, 2, 3))
    assert check_committed(validators, FOUR, name_at(HEIGHT), 599).epoch == group.epoch
    assert len([path for path in world.asked if "history" in path]) == 3
