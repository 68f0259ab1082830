"""A validator's folder from which something is missing or changed: who may vote from it, and who is told what."""

import asyncio
import json
import pkgutil
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tallystick.canon.chunks import manifest_of
from tallystick.canon.identity import Key, load_key, save_key
from tallystick.cli.main import app
from tallystick.consensus.pbft.io import CheckpointRecord, MuteRecord, Phase, VoteRecord
from tallystick.ledger.genesis import chain_id
from tallystick.network.genesis import read_genesis
from tallystick.network.local import free_ports, make_network
from tallystick.network.recovery import recover
from tallystick.network.store import Store, StoredBlock
from tallystick.network.tables import DamagedError, StoreError
from tallystick.network.validator import (
    CONSENSUS,
    GENESIS,
    KEY,
    LEDGER,
    NEXT_KEY,
    OLD_KEY,
    ValidatorError,
    own_key,
    run_validator,
)
from tallystick.network.validator import _take_new_key as take_new_key
from tallystick.network.views import Status


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of a validator that has voted."""
    made = make_network(tmp_path / "net", validators=4, workers=0, ports=free_ports(8), now_ms=10**12)
    with closing(store_of(made.validators[0].home)) as store:
        assert store.mute() is None, "a new one votes from the start"
        store.save(VoteRecord(0, 0, 1, Phase.PREPARE, b"d" * 32, b"block"))
    return made.validators[0].home


def store_of(home: Path) -> Store:
    return Store(home / CONSENSUS, chain_id(read_genesis(home / GENESIS)), load_key(home / KEY).identity)


def run(home: Path) -> None:
    """Starts it; if it can start, the test fails."""

    def started(status: Status) -> None:
        raise AssertionError(f"it runs: {status}")

    asyncio.run(run_validator(home, str(home.parent / "blobs"), started))


MARK = "consensus.turn"
LOST = {"the log": (CONSENSUS, MARK), "the log without its mark": (CONSENSUS,), "all but key and genesis": None}


def lose(home: Path, what: str) -> None:
    gone = LOST[what] or [path.name for path in home.iterdir() if path.name not in (KEY, GENESIS)]
    for name in gone:
        (home / name).unlink()


@pytest.mark.parametrize("what", LOST)
def test_a_validator_without_its_log_does_not_run_and_comes_back_muted(home: Path, what: str) -> None:
    lose(home, what)
    with pytest.raises(DamagedError, match=f"{home / CONSENSUS}: missing.*`tallystick validator recover {home}`"):
        run(home)
    done = recover(home)
    assert done.muted and "missing" in done.damage
    with closing(store_of(home)) as store:
        assert store.mute() == MuteRecord()
    assert recover(home).damage == ""
    with closing(store_of(home)) as store:
        assert store.mute() == MuteRecord(), "to ask twice does not give the voice back"


def test_an_old_block_that_was_changed_is_found_by_a_recovery_and_not_by_a_start(home: Path) -> None:
    with closing(store_of(home)) as store:
        for height in range(1, 5):
            store.save_block(StoredBlock(height, bytes(32), height, b"block", b"certificate"))
        store.save_snapshot(4, manifest_of(b"state"), b"state")
        store.save(CheckpointRecord(0, 4, b"stable", ends=False))
    with closing(sqlite3.connect(home / CONSENSUS, isolation_level=None)) as db:
        db.execute("UPDATE blocks SET block = x'00' WHERE height = 2")
    store_of(home).close()
    done = recover(home)
    assert done.muted and "a row of `blocks` (2) is not what was written" in done.damage
    assert recover(home).damage == ""


SPOILT = b"not a database, and long enough to tell" * 50


def test_a_spoilt_ledger_stops_the_run_and_is_set_aside(home: Path) -> None:
    (home / LEDGER).write_bytes(SPOILT)
    with pytest.raises(DamagedError, match=f"{home / LEDGER}: .*`tallystick validator recover {home}`"):
        run(home)
    done = recover(home)
    assert (done.moved, done.muted) == ((LEDGER,), False)
    assert (Path(done.aside) / LEDGER).read_bytes() == SPOILT and recover(home).damage == ""


def test_the_command_tells_what_was_missing_when_there_is_nothing_to_set_aside(home: Path) -> None:
    lose(home, "all but key and genesis")
    said = CliRunner().invoke(app, ["validator", "recover", str(home)])
    assert said.exit_code == 0 and "silent for two epochs" in said.stdout and "nothing is" not in said.stdout
    assert sorted(path.name for path in home.iterdir()) == sorted([KEY, GENESIS, CONSENSUS, MARK])


def test_a_recovery_that_was_interrupted_begins_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (home / MARK).unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tallystick.network.recovery.create_store", killed)
        recover(home)
    with pytest.raises(DamagedError, match="missing"):
        run(home)
    assert recover(home).muted
    with closing(store_of(home)) as store:
        assert store.mute() == MuteRecord()


@pytest.mark.parametrize("with_key", [False, True])
def test_only_a_key_that_is_new_may_vote_from_its_first_start(home: Path, tmp_path: Path, with_key: bool) -> None:
    """Who makes a new folder for an old key, in place of one that is lost, may have voted."""
    where = ("--address", "127.0.0.1:9", "--url", "http://127.0.0.1:10", "--genesis", str(home / GENESIS))
    old = ("--key", str(home / KEY)) if with_key else ()
    made = CliRunner().invoke(app, ["validator", "init", str(tmp_path / "new"), *where, *old, "--json"])
    assert made.exit_code == 0, made.output
    with closing(store_of(tmp_path / "new")) as store:
        assert store.mute() == (MuteRecord() if with_key else None)
    if not with_key:  # nor does its key in another's folder
        shutil.copy(home / KEY, tmp_path / "new" / KEY)
        assert json.loads(made.stdout)["identity"] != load_key(home / KEY).identity
        with pytest.raises(StoreError, match="belongs to validator"):
            store_of(tmp_path / "new")


# ---- a change of keys


def ready_to_change(home: Path) -> tuple[str, str]:
    """Puts the next key into the folder; returns both identities."""
    save_key(Key.generate(), home / NEXT_KEY)
    return load_key(home / KEY).identity, load_key(home / NEXT_KEY).identity


STEPS = ("write_whole", "Store.hand_over", "Path.unlink", "Path.hardlink_to", "sync", "Path.rename")
"""What changing the key does to the folder, in order."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_change_of_keys_that_was_interrupted_is_finished_or_begun_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    genesis = read_genesis(home / GENESIS)
    old, new = ready_to_change(home)
    name = f"tallystick.network.validator.{step}"
    real = pkgutil.resolve_name(name)

    def killed(*given: object, **named: object) -> None:
        if after:
            real(*given, **named)
        elif isinstance(given[0], Store):
            given[0].close()  # as the end of its process does
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(name, killed)
        take_new_key(home, genesis)
    begun = STEPS.index(step) + after > STEPS.index("Store.hand_over")
    assert own_key(home, genesis).identity == (new if begun else old)
    if not begun:
        take_new_key(home, genesis)
    assert load_key(home / KEY).identity == new and load_key(home / OLD_KEY).identity == old
    assert not (home / NEXT_KEY).exists() and recover(home).damage == ""
    with closing(store_of(home)) as store:
        assert len(store.votes()) == 1


def test_a_validator_without_its_key_is_not_told_to_make_another(home: Path) -> None:
    (home / KEY).unlink()
    for act in (run, recover):
        with pytest.raises(ValidatorError, match=f"{home / KEY}: missing; bring it back"):
            act(home)
