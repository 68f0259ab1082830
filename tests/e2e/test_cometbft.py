"""The ledger as a process under CometBFT: killed and started again, a task trained through it, and a real node.

Where no `cometbft` binary is on the PATH, the last test is not run, and says so.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cometbft_app import make_chain
from cometbft_engine import Comet
from cometbft_rpc import Rpc
from tallystick.canon.identity import load_key
from tallystick.demo.processes import Processes
from tallystick.ledger.genesis import Genesis, chain_id, load_genesis
from tallystick.ledger.transactions import Transfer, sign_transaction
from tallystick.network.dial import Sender, UnreachableError, Validators
from tallystick.network.local import free_ports

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
STEPS = 1
READY_SECONDS = 60
BLOCK_SECONDS = 0.05


def tallystick(*arguments: str) -> str:
    command = [sys.executable, "-m", "tallystick.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Place:
    """A network's folders, and the processes that run in them."""

    def __init__(self, root: Path, processes: Processes, validators: int) -> None:
        self.root, self.processes = root, processes
        port = free_ports(2 * validators)[0]
        made = tallystick("init", str(root), "--validators", str(validators), "--workers", "1", "--port", str(port))
        self.urls = [line.split()[-1] for line in made.splitlines() if "http://" in line]
        self.rpc_port = free_ports(1)[0]
        self.genesis: Genesis = load_genesis((root / "genesis.json").read_bytes())

    def home(self, index: int = 0) -> Path:
        return self.root / f"validator-{index}"

    def socket(self, index: int = 0) -> str:
        return str(self.home(index) / "abci.sock")

    def start_application(self, index: int = 0, rpc_port: int | None = None) -> None:
        options = ["--blobs", str(self.root / "blobs"), "--listen", f"unix://{self.socket(index)}"]
        options += ["--rpc", f"http://127.0.0.1:{rpc_port or self.rpc_port}", "--stop-on-eof"]
        home = str(self.home(index))
        self.processes.start(f"application-{index}", "tallystick.cli.main", "abci", "run", home, *options)
        wait_for(self.urls[index], self.processes)

    def balance(self, identity: str, index: int = 0) -> int:
        with Validators([self.urls[index]]) as one:
            return one.account(identity).balance


def wait_for(url: str, processes: Processes) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            with Validators([url]) as one:
                one.status()
            return
        except UnreachableError:
            assert not processes.died()
    raise AssertionError(f"{url} does not answer")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Processes(tmp_path / "logs") as processes:
        yield Place(tmp_path / "net", processes, validators=1)


# ---- killed


def test_a_process_killed_between_finalize_and_commit_executes_the_block_again(place: Place) -> None:
    ann = load_key(place.root / "worker-0" / "key").identity
    client = load_key(place.root / "client" / "key")
    before = place.genesis.balances[ann]
    chain = make_chain(place.genesis)

    def pay(nonce: int) -> bytes:
        return sign_transaction(client, chain_id(place.genesis), nonce, Transfer(ann, 7))

    async def whole() -> None:
        async with Comet(chain) as comet:
            await asyncio.to_thread(place.start_application)
            await comet.start(place.socket())
            await comet.run_block(chain.decide((pay(1),), place.genesis.time_ms))
            await comet.finalize(chain.decide((pay(2),), place.genesis.time_ms + 1))
            assert place.balance(ann) == before + 7
            place.processes.kill("application-0")
            await comet.hang_up()
            await asyncio.to_thread(place.start_application)
            info = await comet.start(place.socket())
            assert info.last_block_height <= 1 and comet.stored == 2
            assert place.balance(ann) == before + 14
            scraped = (await asyncio.to_thread(httpx.get, f"{place.urls[0]}/metrics", trust_env=False)).text
            assert "tallystick_height 2.0" in scraped and "tallystick_abci_connections 4.0" in scraped

    asyncio.run(whole())


# ---- trained through it


async def make_blocks(comet: Comet, mempool: dict[bytes, None]) -> None:
    """A block every BLOCK_SECONDS, from the mempool; what its transactions leave invalid is dropped."""
    last_ms = comet.chain.init.time.seconds * 1000 + 999 if comet.chain.init.time else 0
    while True:
        await asyncio.sleep(BLOCK_SECONDS)
        last_ms = max(last_ms, time.time_ns() // 10**6)
        txs = await comet.propose(mempool, last_ms)
        assert await comet.process(txs, last_ms)
        await comet.run_block(comet.chain.decide(txs, last_ms))
        rest = [tx for tx in mempool if tx not in txs]
        for tx in txs:
            mempool.pop(tx)
        for tx, answer in zip(rest, await comet.check(*rest, again=True) if rest else [], strict=True):
            if answer.code:
                mempool.pop(tx, None)


def test_a_task_is_trained_audited_and_proven_through_abci(place: Place, tmp_path: Path) -> None:
    task = tmp_path / "task"
    task.mkdir()
    for name in ("model.py", "digits.safetensors"):
        (task / name).write_bytes((EXAMPLE / name).read_bytes())
    (task / "task.toml").write_text((EXAMPLE / "task.toml").read_text().replace("steps = 80", f"steps = {STEPS}"))
    proof, blobs = tmp_path / "proof", str(place.root / "blobs")

    async def whole() -> None:
        async with Comet(make_chain(place.genesis)) as comet:
            await asyncio.to_thread(place.start_application)
            await comet.start(place.socket())
            mempool: dict[bytes, None] = {}

            async def take(transaction: bytes) -> None:
                (checked,) = await comet.check(transaction)
                if checked.code == 0:
                    mempool[transaction] = None

            server = await asyncio.start_server(Rpc(take).serve, "127.0.0.1", place.rpc_port)
            blocks = asyncio.create_task(make_blocks(comet, mempool))
            worker = ("--key", str(place.root / "worker-0" / "key"), "--join", place.urls[0], "--blobs", blobs)
            place.processes.start("worker-0", "tallystick.cli.main", "worker", *worker, "--stop-on-eof")
            client = ("--key", str(place.root / "client" / "key"), "--join", place.urls[0], "--blobs", blobs)
            submitting = asyncio.to_thread(tallystick, "submit", str(task / "task.toml"), *client, "--out", str(proof))
            done, _ = await asyncio.wait([asyncio.create_task(submitting), blocks], return_when=asyncio.FIRST_COMPLETED)
            blocks.cancel()
            for ended in done:
                ended.result()
            server.close()

    asyncio.run(whole())
    assert "verified" in tallystick("verify", str(proof))


# ---- a real node


@pytest.mark.skipif(
    shutil.which("cometbft") is None,
    reason="NOT RUN: no `cometbft` binary on the PATH, so the ledger was not tried under a real CometBFT node; "
    "install CometBFT 0.38 and run this test again (docs/cometbft.md)",
)
def test_four_real_nodes_agree_and_one_comes_back(tmp_path: Path) -> None:
    with Processes(tmp_path / "logs") as processes:
        place = Place(tmp_path / "net", processes, validators=4)
        ports = free_ports(8)
        p2p, rpc = ports[:4], ports[4:]
        homes = [tmp_path / f"comet-{index}" for index in range(4)]
        ids = []
        for index, home in enumerate(homes):
            tallystick("abci", "init", str(place.home(index)), str(home))
            cometbft("init", "--home", str(home))
            ids.append(cometbft("show-node-id", "--home", str(home)).strip())
        peers = ",".join(f"{node}@127.0.0.1:{port}" for node, port in zip(ids, p2p, strict=True))
        nodes = []
        try:
            for index, home in enumerate(homes):
                place.start_application(index, rpc[index])
                nodes.append(start_node(home, place.socket(index), p2p[index], rpc[index], peers))
            wait_for_height(place, 3, range(4))
            client = load_key(place.root / "client" / "key")
            ann = load_key(place.root / "worker-0" / "key").identity
            with Validators(place.urls) as validators:
                Sender(client, validators).send(Transfer(ann, 7))
            assert place.balance(ann) == place.genesis.balances[ann] + 7
            nodes[3].kill()
            nodes[3].wait()
            processes.kill("application-3")
            reached = wait_for_height(place, 3, range(3))
            reached = wait_for_height(place, reached + 5, range(3))
            place.start_application(3, rpc[3])
            nodes[3] = start_node(homes[3], place.socket(3), p2p[3], rpc[3], peers)
            wait_for_height(place, reached + 5, range(4))
            assert place.balance(ann, 3) == place.genesis.balances[ann] + 7
        finally:
            for node in nodes:
                node.kill()
                node.wait()


def cometbft(*arguments: str) -> str:
    done = subprocess.run(["cometbft", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start_node(home: Path, socket: str, p2p: int, rpc: int, peers: str) -> subprocess.Popen[bytes]:
    settings = {
        "CMT_PROXY_APP": f"unix://{socket}",
        "CMT_P2P_LADDR": f"tcp://127.0.0.1:{p2p}",
        "CMT_P2P_PERSISTENT_PEERS": peers,
        "CMT_P2P_ADDR_BOOK_STRICT": "false",
        "CMT_P2P_ALLOW_DUPLICATE_IP": "true",
        "CMT_RPC_LADDR": f"tcp://127.0.0.1:{rpc}",
    }
    with (home / "log").open("ab") as log:
        command = ["cometbft", "node", "--home", str(home)]
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | settings)


def wait_for_height(place: Place, height: int, indices: range) -> int:
    """Until all of these are there; the height that the last of them had then."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        heights = []
        for index in indices:
            with Validators([place.urls[index]]) as one:
                heights.append(one.status().height)
        if min(heights) >= height:
            return min(heights)
        time.sleep(0.2)
    raise AssertionError(f"height {height} is not reached: {heights}")
