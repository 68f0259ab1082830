"""A network started by hand from the command line, as the README shows it, with hostile input on every door."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tallystick.canon.identity import Key, load_key
from tallystick.demo.processes import Processes
from tallystick.ledger.transactions import MAX_TRANSACTION_BYTES, Deposit, Transfer, sign_transaction
from tallystick.network.dial import Sender, UnreachableError, Validators
from tallystick.network.local import free_ports

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
STEPS = 4


def tallystick(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tallystick.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@dataclass
class Net:
    root: Path
    urls: list[str]
    processes: Processes

    @property
    def blobs(self) -> str:
        return str(self.root / "blobs")

    @property
    def joins(self) -> list[str]:
        return [argument for url in self.urls for argument in ("--join", url)]

    def dial(self, *indices: int) -> Validators:
        return Validators([self.urls[index] for index in indices] or self.urls)

    def start_validator(self, index: int, *options: str) -> None:
        home = str(self.root / f"validator-{index}")
        arguments = ("validator", "run", home, "--blobs", self.blobs, "--stop-on-eof", *options)
        self.processes.start(f"validator-{index}", "tallystick.cli.main", *arguments)

    def stop(self, name: str) -> None:
        self.processes.send(name, signal.SIGTERM)
        assert self.processes.wait(name) == 0, self.processes.log_of(name, 30)

    def wait(self, index: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with self.dial(index) as validators:
                    validators.status()
                return
            except UnreachableError:
                assert not self.processes.died(), self.processes.log_of(f"validator-{index}", 30)
        raise AssertionError(f"validator-{index} does not answer")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    root = tmp_path_factory.mktemp("hand") / "net"
    made = tallystick("init", str(root), "--workers", "2", "--port", str(free_ports(8)[0]))
    assert made.returncode == 0, made.stderr
    urls = [line.split()[-1] for line in made.stdout.splitlines() if "http://" in line]
    with Processes(root / "logs") as processes:
        net = Net(root, urls, processes)
        for index in range(4):
            net.start_validator(index)
        for index in range(4):
            net.wait(index)
        for index in range(2):
            key = str(root / f"worker-{index}" / "key")
            options = ("--key", key, *net.joins, "--blobs", net.blobs, "--stop-on-eof")
            processes.start(f"worker-{index}", "tallystick.cli.main", "worker", *options)
        yield net


@pytest.fixture(scope="module")
def proof(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The proof of a short task that the network trained."""
    folder = tmp_path_factory.mktemp("task")
    for name in ("model.py", "digits.safetensors"):
        (folder / name).write_bytes((EXAMPLE / name).read_bytes())
    (folder / "task.toml").write_text((EXAMPLE / "task.toml").read_text().replace("steps = 80", f"steps = {STEPS}"))
    out = folder / "proof"
    key = str(net.root / "client" / "key")
    options = ("--key", key, *net.joins, "--blobs", net.blobs, "--out", str(out))
    done = tallystick("submit", str(folder / "task.toml"), *options)
    assert done.returncode == 0, done.stderr
    return out


def test_the_proof_of_a_task_verifies_without_the_network(proof: Path) -> None:
    run = tallystick("verify", str(proof), "--json")
    assert run.returncode == 0, run.stderr
    verdict = json.loads(run.stdout)
    assert (verdict["outcome"], verdict["steps"]) == ("verified", STEPS)


def test_who_claimed_a_model_first_keeps_it(net: Net, proof: Path, tmp_path: Path) -> None:
    """Another party trains along the published proof, under its own key, and claims the same model later."""
    task = proof.parent / "task.toml"
    other = tmp_path / "theirs"
    trained = tallystick("train", str(task), "--out", str(other), "--key", str(net.root / "worker-1" / "key"), "-q")
    assert trained.returncode == 0, trained.stderr
    undecided = tallystick("resolve", str(proof), str(other), *net.joins, "--json")
    assert undecided.returncode == 1 and json.loads(undecided.stdout)["code"] == "not_anchored"

    key = str(net.root / "client" / "key")
    claimed = tallystick("claim", str(proof), "--key", key, *net.joins, "--json")
    assert claimed.returncode == 0, claimed.stderr
    again = tallystick("claim", str(proof), "--key", key, *net.joins)
    assert again.returncode == 0 and "anchored already" in again.stderr
    late = tallystick("claim", str(other), "--key", key, *net.joins)
    assert late.returncode == 0, late.stderr
    settled = tallystick("resolve", str(other), str(proof), *net.joins)
    assert settled.returncode == 0, settled.stderr
    assert settled.stdout.startswith(f"{proof} [first_anchored]")


def test_an_edited_proof_does_not_verify(proof: Path) -> None:
    final = proof / "final.safetensors"
    honest = final.read_bytes()
    final.write_bytes(honest[:-1] + bytes([honest[-1] ^ 1]))
    try:
        run = tallystick("verify", str(proof))
    finally:
        final.write_bytes(honest)
    assert run.returncode == 1
    assert "could not check" in run.stdout


def test_status_shows_a_finished_task_and_conserved_money(net: Net, proof: Path) -> None:
    run = tallystick("status", *net.joins, "--json")
    assert run.returncode == 0, run.stderr
    shown = json.loads(run.stdout)
    assert shown["conserved"] is True
    assert [task["status"] for task in shown["tasks"]] == ["done"]
    assert len(shown["validators"]) == 4
    assert tallystick("status", *net.joins).returncode == 0


def test_a_model_outside_the_arithmetic_is_refused_in_one_line(net: Net, tmp_path: Path) -> None:
    for name in ("model.py", "digits.safetensors", "task.toml"):
        (tmp_path / name).write_bytes((EXAMPLE / name).read_bytes())
    model = tmp_path / "model.py"
    model.write_text(model.read_text().replace("torch.relu", "torch.lgamma"))
    key = str(net.root / "client" / "key")
    options = ("--key", key, *net.joins, "--blobs", net.blobs, "--out", str(tmp_path / "proof"))
    run = tallystick("submit", str(tmp_path / "task.toml"), *options)
    assert run.returncode == 1
    assert "aten.lgamma" in run.stderr
    assert "unsupported_operator" in run.stderr
    assert "Traceback" not in run.stderr


def post(net: Net, data: bytes) -> tuple[int, str]:
    reply = httpx.post(f"{net.urls[0]}/v1/transactions", content=data, timeout=10)
    return reply.status_code, reply.json()["code"]


def test_malformed_oversized_unsigned_and_replayed_transactions_are_refused(net: Net) -> None:
    key = load_key(net.root / "worker-0" / "key")
    with net.dial() as validators:
        chain, account = validators.status().chain, validators.account(key.identity)
    nonce = account.nonce + 1
    good = sign_transaction(key, chain, nonce, Transfer(Key.from_seed(bytes(32)).identity, 1))
    assert post(net, b"") == (400, "truncated")
    assert post(net, b"x" * 200) == (400, "bad_signature")
    assert post(net, b"x" * (MAX_TRANSACTION_BYTES + 1)) == (413, "too_large")
    assert post(net, good[:-1] + bytes([good[-1] ^ 1])) == (400, "bad_signature")
    assert post(net, sign_transaction(key, "another-chain", nonce, Deposit(1))) == (400, "bad_signature")
    assert post(net, sign_transaction(Key.from_seed(b"s" * 32), chain, 1, Deposit(1))) == (400, "unknown_sender")
    with net.dial() as validators:
        outcome = validators.submit(good)
        assert outcome is not None
        assert outcome.code == "ok"
        assert validators.submit(good) == outcome, "a retransmission is answered, not executed"
        stale = sign_transaction(key, chain, nonce, Deposit(1))
        assert post(net, stale) == (400, "stale_nonce")
        assert validators.account(key.identity).balance == account.balance - 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/tasks/unknown", 404),
        ("/v1/transactions/%00?wait_ms=0", 404),
        ("/v1/events?after=-1", 400),
        ("/v1/events?after=" + "9" * 30, 400),
        ("/v1/assignments/nobody?wait_ms=soon", 400),
        ("/nowhere", 404),
    ],
)
def test_odd_requests_get_an_answer_and_no_failure(net: Net, path: str, status: int) -> None:
    assert httpx.get(net.urls[0] + path, timeout=10).status_code == status


def test_a_stranger_on_the_validators_port_is_shut_out_and_the_network_lives(net: Net) -> None:
    port = int(net.urls[0].rsplit(":", 1)[1]) - 1
    for noise in (b"", b"\0" * 1000, b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff" + b"A" * 10_000):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
            stranger.sendall(noise)
    key = load_key(net.root / "worker-1" / "key")
    with net.dial() as validators:
        assert Sender(key, validators).send(Deposit(1)).code == "ok"
    assert net.processes.died() == []


def test_a_killed_backup_catches_up_after_its_restart(net: Net) -> None:
    net.processes.kill("validator-3")
    key = load_key(net.root / "client" / "key")
    with net.dial(0, 1, 2) as validators:
        sender = Sender(key, validators)
        height = max(sender.send(Deposit(1)).height for _ in range(5))
    net.start_validator(3)
    net.wait(3)
    deadline = time.monotonic() + 30
    with net.dial(3) as restarted, net.dial(0) as other:
        while restarted.status().height < height and time.monotonic() < deadline:
            restarted.events(after=10**9, wait_ms=200)
        assert restarted.status().height >= height
        assert restarted.money() == other.money()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("validator", "run", "{root}/nothing", "--blobs", "{root}/blobs"), "genesis.json"),
        (("validator", "run", "{root}/validator-0", "--blobs", "{root}/blobs"), "cannot listen"),
        (("worker", "--key", "{root}/nokey", "--join", "{url}", "--blobs", "{root}/blobs"), "keygen"),
        (("status", "--join", "http://127.0.0.1:1"), "answers"),
        (("verify", "{root}/nothing"), "could not check"),
        (("init", "{root}"), "not empty"),
        (("keygen", "{root}/client/key"), "never overwritten"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_clear_line(net: Net, arguments: tuple[str, ...], words: str) -> None:
    filled = [argument.format(root=net.root, url=net.urls[0]) for argument in arguments]
    run = tallystick(*filled)
    assert run.returncode == 1
    assert words in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


def test_ctrl_c_says_that_a_submitted_task_goes_on(net: Net, tmp_path: Path) -> None:
    task, key = str(EXAMPLE / "task.toml"), str(net.root / "client" / "key")
    arguments = ["submit", task, "--key", key, *net.joins, "--blobs", net.blobs, "--out", str(tmp_path / "proof")]
    command = [sys.executable, "-m", "tallystick.cli.main", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        name = process.stdout.readline().strip()
        assert "of 80" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    assert f"task {name[:12]} goes on without you, and its escrow stays" in said
    assert f"`tallystick status --join {net.urls[0]}`" in said
    with net.dial() as validators:
        assert validators.task(name).status == "open"
