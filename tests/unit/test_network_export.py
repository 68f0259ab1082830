"""Exported blocks convince whoever has the genesis document, and nothing else does."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from lying_validator import STABLE, World, certified, honest_world, serving
from pbft_cluster import FOUR, KEYS, block_at, certify, content_of, group_of, stable_proof

from tallystick.consensus.pbft import Group
from tallystick.consensus.pbft.io import CheckpointRecord
from tallystick.errors import Refused
from tallystick.network.export import LENGTH_BYTES, MAGIC, check_export, fetch_export, write_export
from tallystick.network.store import Store, StoredBlock, create_store
from tallystick.network.tables import StoreError
from tallystick.network.views import MAX_BLOCKS, BlockView, Checkpoints

LATER = FOUR.successor(4, tuple(key.identity for key in KEYS[1:5]))
"""The validators after block 4."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Six blocks; after the fourth, validator 0 has left and 4 has come."""
    create_store(tmp_path / "consensus.db", FOUR.chain, KEYS[0].identity, muted=False)
    store = Store(tmp_path / "consensus.db", FOUR.chain, KEYS[0].identity)
    for height in range(1, 7):
        group, by = (FOUR, (0, 1, 2)) if height <= 4 else (LATER, (1, 2, 4))
        block = block_at(height, b"one", b"two")
        certificate = certify(group, block, by, height=height)
        store.save_block(StoredBlock(height, bytes(32), height, block, certificate))
    content = content_of(FOUR, 4, validators=(1, 2, 3, 4))
    store.save_snapshot(4, (0).to_bytes(8), b"")
    store.save(CheckpointRecord(0, 4, stable_proof(FOUR, content, (0, 1, 2)), ends=True))
    return store


def test_what_was_exported_checks_across_a_change_of_validators(store: Store, tmp_path: Path) -> None:
    header = write_export(store, FOUR, tmp_path / "blocks")
    assert (header.first, header.last) == (1, 6)
    checked = check_export(tmp_path / "blocks", FOUR)
    assert (checked.first, checked.last, checked.transactions, checked.validator_changes) == (1, 6, 12, 1)
    store.close()


def test_blocks_that_nobody_could_check_yet_are_left_out(store: Store, tmp_path: Path) -> None:
    for height in range(7, 11):
        block = block_at(height)
        certificate = certify(LATER, block, (1, 2, 4), height=height)
        store.save_block(StoredBlock(height, bytes(32), height, block, certificate))
    assert write_export(store, FOUR, tmp_path / "blocks").last == 8
    assert check_export(tmp_path / "blocks", FOUR).last == 8
    store.close()


def test_an_empty_store_has_nothing_to_export(tmp_path: Path) -> None:
    create_store(tmp_path / "consensus.db", FOUR.chain, KEYS[0].identity, muted=False)
    store = Store(tmp_path / "consensus.db", FOUR.chain, KEYS[0].identity)
    with pytest.raises(StoreError, match="no blocks"):
        write_export(store, FOUR, tmp_path / "blocks")
    store.close()


def records(data: bytes) -> list[bytes]:
    found, at = [], len(MAGIC)
    while at < len(data):
        size = int.from_bytes(data[at : at + LENGTH_BYTES])
        found.append(data[at : at + LENGTH_BYTES + size])
        at += LENGTH_BYTES + size
    return found


def without_history(data: bytes) -> bytes:
    """As if the validators had never changed."""
    header, *blocks = records(data)
    chain, first, last, _ = msgspec.msgpack.decode(header[LENGTH_BYTES:])
    return with_header([chain, first, last, []], *blocks)


def with_header(header: list[object], *blocks: bytes) -> bytes:
    bare = msgspec.msgpack.encode(header)
    return MAGIC + len(bare).to_bytes(LENGTH_BYTES) + bare + b"".join(blocks)


FORGERIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another kind of file": (lambda data: b"x" + data, "malformed"),
    "cut short": (lambda data: data[:-10], "truncated"),
    "more at the end": (lambda data: data + b"x", "malformed"),
    "a block twice": (lambda data: MAGIC + b"".join([*records(data)[:2], *records(data)[1:]]), "wrong_height"),
    "a block left out": (lambda data: MAGIC + b"".join(records(data)[:-1]), "malformed"),
    "a bit of a certificate": (lambda data: data[:-50] + bytes([data[-50] ^ 1]) + data[-49:], "bad_signature"),
    "no change of validators": (without_history, "unproven_height"),
    "a length beyond all bounds": (lambda data: MAGIC + b"\xff\xff\xff\xff" + data[len(MAGIC) + 4 :], "malformed"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_anything_else_is_refused(store: Store, tmp_path: Path, what: str) -> None:
    path = tmp_path / "blocks"
    write_export(store, FOUR, path)
    store.close()
    change, code = FORGERIES[what]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(Refused, match=code):
        check_export(path, FOUR)


@pytest.mark.parametrize(("first", "last"), [(10**6, 10**6 - 1), (-5, -9), (1, 0), (0, -1), (7, 6)])
def test_a_file_of_no_blocks_proves_nothing(tmp_path: Path, first: int, last: int) -> None:
    path = tmp_path / "blocks"
    path.write_bytes(with_header([FOUR.chain, first, last, []]))
    with pytest.raises(
        Refused, match=f"{path}: its header names blocks {first} to {last}; an export holds at least one"
    ):
        check_export(path, FOUR)


@pytest.mark.parametrize("first", [0, -1])
def test_no_block_is_before_the_first(store: Store, tmp_path: Path, first: int) -> None:
    """The blocks are there, so that nothing but the range is wrong."""
    path = tmp_path / "blocks"
    write_export(store, FOUR, path)
    store.close()
    header, *blocks = records(path.read_bytes())
    chain, _, last, checkpoints = msgspec.msgpack.decode(header[LENGTH_BYTES:])
    path.write_bytes(with_header([chain, first, last, checkpoints], *blocks))
    with pytest.raises(Refused, match="none below 1"):
        check_export(path, FOUR)


@pytest.mark.parametrize("group", [group_of(4, chain="another"), group_of(7), LATER])
def test_another_genesis_does_not_vouch_for_it(store: Store, tmp_path: Path, group: Group) -> None:
    write_export(store, FOUR, tmp_path / "blocks")
    store.close()
    with pytest.raises(Refused):
        check_export(tmp_path / "blocks", group)


# ---- from a running validator


@pytest.fixture
def world() -> World:
    return honest_world()


def test_what_a_running_validator_shows_is_the_same_file(world: World, tmp_path: Path) -> None:
    with serving(world) as validators:
        header = fetch_export(validators, FOUR, tmp_path / "blocks")
    assert (header.first, header.last, len(header.checkpoints)) == (1, 10, 2)
    checked = check_export(tmp_path / "blocks", FOUR)
    assert (checked.first, checked.last, checked.transactions, checked.validator_changes) == (1, 10, 20, 1)
    assert len([path for path in world.asked if "blocks" in path]) == 4, "the oldest, then pages of four"


def test_a_validator_that_forgot_old_blocks_and_has_some_above_its_checkpoints_shows_those_between(
    world: World, tmp_path: Path
) -> None:
    del world.blocks[1], world.blocks[2]
    for height in (11, 12, 13):
        world.blocks[height] = certified(height, b"new")
    world.height = 13
    with serving(world) as validators:
        header = fetch_export(validators, FOUR, tmp_path / "blocks")
    assert (header.first, header.last) == (3, 12), "who agreed on 13 is not known yet"
    assert check_export(tmp_path / "blocks", FOUR).last == 12


LIES: dict[str, tuple[Callable[[World], None], str]] = {
    "a block by too few": (lambda world: world.blocks.update({7: certified(7, by=(1, 2))}), "too_few_votes"),
    "a block twice": (lambda world: world.blocks.update({7: world.blocks[6]}), "wrong_height"),
    "fewer blocks than promised": (lambda world: setattr(world, "height", 11), "no_such_block"),
    "none at all": (lambda world: world.blocks.clear(), "no_such_block"),
    "a first block below 1": (lambda world: setattr(world, "page", lambda start: [certified(0)]), "no_such_block"),
    "a first block that is none": (lambda world: world.blocks.update({1: BlockView(b"x", b"")}), "malformed"),
    "a history that leads elsewhere": (
        lambda world: setattr(world, "checkpoints", lambda start: Checkpoints([], STABLE)),
        "not_a_validator",
    ),
    "pages beyond their bound": (
        lambda world: setattr(world, "page", lambda start: [world.blocks[1]] * (MAX_BLOCKS + 1)),
        "malformed",
    ),
}


@pytest.mark.parametrize("what", LIES)
def test_a_lie_leaves_no_file(world: World, tmp_path: Path, what: str) -> None:
    tell, code = LIES[what]
    tell(world)
    with serving(world) as validators, pytest.raises(Refused, match=code):
        fetch_export(validators, FOUR, tmp_path / "blocks")
    assert not (tmp_path / "blocks").exists()
