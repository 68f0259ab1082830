"""`tallystick validator`: what an operator does with a running network, and with a folder that was damaged."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_network import Net, tallystick
from typer.testing import CliRunner

from tallystick.canon.identity import load_key
from tallystick.cli.main import app
from tallystick.demo.processes import Processes
from tallystick.ledger.transactions import Deposit
from tallystick.network.dial import Sender
from tallystick.network.local import free_ports

SECONDS = 60


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    root = tmp_path_factory.mktemp("operators") / "net"
    port = free_ports(40)[0]  # those of the newcomers are counted from here too
    terms = ("--interval", "8", "--epoch-length", "32", "--window", "4")  # epochs go by quickly
    made = tallystick("init", str(root), "--workers", "1", "--port", str(port), *terms)
    assert made.returncode == 0, made.stderr
    urls = [line.split()[-1] for line in made.stdout.splitlines() if "http://" in line]
    with Processes(root / "logs") as processes:
        net = Net(root, urls, processes)
        for index in range(4):
            net.start_validator(index)
        for index in range(4):
            net.wait(index)
        yield net


def answer(*arguments: str) -> Any:
    """What a command prints; in this process, since starting one for each takes longer than all the rest."""
    run = CliRunner().invoke(app, ["validator", *arguments, "--json"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)


def reached(net: Net, index: int, ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The status of a validator as soon as `ready` holds for it; meanwhile blocks are made."""
    deadline = time.monotonic() + SECONDS
    status: dict[str, Any] = {}
    while time.monotonic() < deadline:
        try:
            status = httpx.get(f"{net.urls[index]}/v1/status", timeout=10).json()
        except httpx.TransportError:
            continue  # it changes its key and is back at once
        if ready(status):
            return status
        pay(net, 1)
    raise AssertionError(f"validator-{index} after {SECONDS} s: {status}")


def pay(net: Net, count: int) -> None:
    with net.dial() as validators:
        sender = Sender(load_key(net.root / "client" / "key"), validators)
        for _ in range(count):
            sender.send(Deposit(1))


def home(net: Net, index: int) -> str:
    return str(net.root / f"validator-{index}")


def test_status_and_metrics_say_where_everybody_is(net: Net) -> None:
    pay(net, 3)
    for index in range(4):  # three of them make blocks, whether or not the fourth has reached all others yet
        reached(net, index, lambda status: len(status["connected"]) == 3)
    shown = answer("status", *net.joins)
    assert shown["height"] >= 3 and [row["lag"] < 3 for row in shown["validators"]] == [True] * 4
    status = shown["validators"][0]["status"]
    assert status["voting"] and status["active"] and len(status["connected"]) == 3
    table = tallystick("validator", "status", *net.joins)
    assert table.returncode == 0 and "last view change" in table.stdout
    assert tallystick("validator", "status", "--join", "http://127.0.0.1:1").returncode == 1
    metrics = httpx.get(f"{net.urls[0]}/metrics", timeout=10).text
    for name in ("height", "epoch", "view", "checkpoint_height", "peers_connected", "transactions_executed_total"):
        assert f"\ntallystick_{name} " in metrics, name
    assert 'tallystick_commit_seconds_bucket{le="0.001"}' in metrics


def test_a_validator_joins_by_the_votes_of_a_quorum_and_leaves_again(net: Net) -> None:
    """With a new key, funded by somebody else; and others reach it elsewhere than where it listens."""
    folder = net.root / "validator-4"
    port = int(net.urls[0].rsplit(":", 1)[1]) + 20
    options = ("--genesis", str(net.root / "genesis.json"), "--stake", "50000")
    where = ("--address", f"localhost:{port}", "--url", f"http://nowhere.invalid:{port + 1}")
    card = answer("init", str(folder), *options, *where)
    net.urls.append(f"http://127.0.0.1:{port + 1}")
    net.start_validator(4, "--listen", f"127.0.0.1:{port}", "--listen-http", f"127.0.0.1:{port + 1}")
    net.wait(4)
    money = ("--key", str(net.root / "client" / "key"), *net.joins[:2])
    paid = tallystick("transfer", card["identity"], "50000", *money)
    assert paid.returncode == 0 and paid.stdout.startswith("executed in block ")
    answer("deposit", str(folder), "50000", *net.joins[:2])
    has = tallystick("balance", card["identity"], *net.joins[:2])
    assert has.stdout == "balance 0, stake 50000, of which 0 is bound\n", has.stderr
    for index in range(2):
        assert answer("add", home(net, index), card["card"], *net.joins[:2])["code"] == "ok"
    head = httpx.get(f"{net.urls[0]}/v1/status", timeout=10).json()["height"]
    status = reached(net, 4, lambda status: status["height"] >= head)
    assert not status["voting"] and status["epoch"] == 0, "it follows, since an honest validator wants it"
    assert answer("add", home(net, 2), card["card"], *net.joins[:2])["code"] == "ok"
    status = reached(net, 4, lambda status: status["voting"] and len(status["connected"]) == 4)
    assert status["identity"] == card["identity"]
    for index in range(4):
        assert answer("remove", home(net, index), card["identity"], *net.joins[:2])["code"] == "ok"
    reached(net, 0, lambda status: status["epoch"] >= 2)
    assert answer("status", "--join", net.urls[4])["validators"][0]["status"]["voting"] is False
    net.processes.kill("validator-4")
    net.urls.pop()


def test_a_rotated_key_is_in_office_without_a_restart_by_hand(net: Net) -> None:
    old = load_key(net.root / "validator-1" / "key").identity
    new = answer("rotate-key", home(net, 1), *net.joins[:2])["identity"]
    again = answer("rotate-key", home(net, 1), *net.joins[:2])
    assert again == {"identity": new, "outcome": None}, "before the checkpoint, and it asks for nothing more"
    status = reached(net, 1, lambda status: status["identity"] == new and status["voting"])
    assert status["height"] > 0
    assert load_key(net.root / "validator-1" / "key").identity == new
    assert load_key(net.root / "validator-1" / "key.old").identity == old
    assert net.processes.died() == []


def test_money_moves_by_hand_and_mistakes_with_it_are_told(net: Net) -> None:
    key = ("--key", str(net.root / "worker-0" / "key"))
    me, join = load_key(net.root / "worker-0" / "key").identity, net.joins[:2]
    with net.dial() as validators:
        before = validators.account(me)
        Sender(load_key(net.root / "worker-0" / "key"), validators).send(Deposit(30))
        moved = json.loads(tallystick("withdraw", "20", *key, *join, "--json").stdout)
        assert moved["code"] == "ok"
        shown = json.loads(tallystick("balance", *key, *join, "--json").stdout)
        assert (shown["balance"], shown["stake"]) == (before.balance - 10, before.stake + 10)
    for arguments, said in (
        (("transfer", me, str(10**12), *key, *join), "insufficient_balance"),
        (("transfer", me, str(10**30), *key, *join), "should be less than or"),
        (("transfer", "me", "1", *key, *join), "64 lower-case hex characters"),
        (("withdraw", "11", *key, *join), "insufficient_stake"),
        (("balance", *join), "name an identity, or a key file"),
    ):
        run = tallystick(*arguments)
        assert run.returncode == 1 and said in run.stderr and "Traceback" not in run.stderr, run.stderr


def test_a_client_with_the_genesis_checks_that_its_transaction_was_committed(net: Net, tmp_path: Path) -> None:
    """Across the changes of validators before this."""
    with net.dial() as validators:
        done = Sender(load_key(net.root / "client" / "key"), validators).send(Deposit(1))
    where, join = ("--genesis", str(net.root / "genesis.json")), net.joins[:2]
    shown = tallystick("check-transaction", done.hash, *where, *join, "--json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)["committed"]
    assert (found["height"], found["kind"], found["validators"]) == (done.height, "deposit", 4)
    assert found["epoch"] >= 1 and len(found["signers"]) >= 3
    told = tallystick("check-transaction", done.hash, *where, *join, "--height", str(done.height))
    assert told.returncode == 0 and f"of block {done.height} of " in told.stdout
    elsewhere = tallystick("check-transaction", "0" * 64, *where, *join, "--height", str(done.height))
    assert elsewhere.returncode == 1 and "is that its height?" in elsewhere.stderr
    unknown = tallystick("check-transaction", "0" * 64, *where, *join)
    assert unknown.returncode == 1 and "another validator" in unknown.stderr
    assert tallystick("init", str(tmp_path / "other"), "--port", "40000").returncode == 0
    other = ("--genesis", str(tmp_path / "other" / "genesis.json"))
    foreign = tallystick("check-transaction", done.hash, *other, *join)
    assert foreign.returncode == 1 and "the genesis document is of" in foreign.stderr


def test_blocks_are_exported_and_checked_with_the_genesis_alone(net: Net, tmp_path: Path) -> None:
    refused = tallystick("validator", "export", home(net, 3), "--out", str(tmp_path / "blocks"))
    assert refused.returncode == 1 and "--join" in refused.stderr
    live, genesis = str(tmp_path / "live"), ("--genesis", str(net.root / "genesis.json"))
    fetched = answer("export", "--join", net.urls[3], *genesis, "--out", live)
    assert fetched["first"] == 1 and answer("export", "--check", live, *genesis)["last"] == fetched["last"] > 3
    again = tallystick("validator", "export", "--join", net.urls[3], *genesis, "--out", live)
    assert again.returncode == 1 and "is there already" in again.stderr
    unclear = tallystick("validator", "export", home(net, 3), "--out", live, *genesis)
    assert unclear.returncode == 1 and "--check" in unclear.stderr
    net.stop("validator-3")
    written = answer("export", home(net, 3), "--out", str(tmp_path / "blocks"))
    assert written["first"] == 1 and written["last"] > 3
    check = ("export", "--check", str(tmp_path / "blocks"), *genesis)
    checked = answer(*check)
    assert checked["last"] == written["last"] and checked["validator_changes"] >= 1, "a key was rotated"
    data = bytearray((tmp_path / "blocks").read_bytes())
    data[-200] ^= 1
    (tmp_path / "blocks").write_bytes(data)
    wrong = tallystick("validator", *check)
    assert wrong.returncode == 1 and "Traceback" not in wrong.stderr
    net.start_validator(3)
    net.wait(3)


def sql(path: Path, change: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute(change).rowcount == 1


def lose_the_log(folder: Path) -> None:
    for name in ("consensus.db", "consensus.turn"):
        (folder / name).unlink()


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "state": (lambda folder: sql(folder / "ledger.db", "UPDATE snapshot SET state = zeroblob(500)"), "ledger.db"),
    "lost log": (lose_the_log, "ledger.db"),
    "log": (lambda folder: sql(folder / "consensus.db", "UPDATE summary SET value = zeroblob(8)"), "consensus.db"),
}
"""What is done to the folder, and which file is set aside for it. The state first: after the others their validator is
silent for long."""


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_and_recovered(net: Net, damage: str) -> None:
    assert tallystick("validator", "recover", home(net, 2)).returncode == 1, "it is running"
    net.stop("validator-2")
    folder = net.root / "validator-2"
    assert "nothing is damaged" in tallystick("validator", "recover", str(folder)).stdout
    change, name = DAMAGE[damage]
    change(folder)
    refused = tallystick("validator", "run", str(folder), "--blobs", net.blobs)
    assert refused.returncode == 3, refused.stderr
    assert f"tallystick validator recover {folder}" in refused.stderr and "Traceback" not in refused.stderr
    done = answer("recover", str(folder))
    assert done["muted"] is (damage != "state") and name in done["moved"]
    height = httpx.get(f"{net.urls[0]}/v1/status", timeout=10).json()["height"]
    net.start_validator(2)
    net.wait(2)
    status = reached(net, 2, lambda status: status["height"] >= height)
    assert status["voting"] is (damage == "state")
