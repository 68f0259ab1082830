"""The demonstration from start to end: 4 validators, 6 workers, two cheats, three crashes, one proof.

Every claim of the summary is checked here from the outside: over HTTP, from files, and by running `tallystick verify`
and a single-machine reference in processes of their own.
"""

import json
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

from tallystick.canon.identity import load_key
from tallystick.demo.board import Board, new_board
from tallystick.demo.processes import Processes, output_of
from tallystick.demo.screen import Screen, screen_for
from tallystick.demo.summary import Summary, write_summary
from tallystick.errors import Refused, TallystickError
from tallystick.ledger.events import Event
from tallystick.network.blobs import BlobStore
from tallystick.network.client import collect_proof, offer_task
from tallystick.network.dial import UnreachableError, Validators
from tallystick.network.local import LocalNetwork, Member, free_ports, make_network
from tallystick.network.running import one_torch_thread
from tallystick.network.validator import KEY
from tallystick.network.views import Money

VALIDATORS: Final = 4
WORKERS: Final = 6
CHEATS: Final = {"worker-0": "one-ulp", "worker-1": "copier"}
KILLED_WORKER: Final = "worker-5"
BACKUP: Final = "validator-2"
"""Killed while it is not primary; if the office has just come around to it, the one after it is taken."""
START_SECONDS: Final = 60.0
RUN_SECONDS: Final = 300.0
"""A guard against waiting for ever, far above what the demonstration takes."""
CATCH_UP_SECONDS: Final = 30.0
EVENT_WAIT_MS: Final = 250
POLL_SECONDS: Final = 0.1
MARKER: Final = ".tallystick-demo"


class DemoError(TallystickError):
    """Something that the demonstration shows did not happen."""


@dataclass
class Faults:
    """The crashes: at which steps they happen, and what has come of them."""

    kill_backup: int
    restart_backup: int
    kill_worker: int
    kill_primary: int
    restart_primary: int
    done: set[str] = field(default_factory=set)
    killed: dict[str, str] = field(default_factory=dict)
    """Which validator was the `backup`, and which the `primary`."""
    primary_killed_at: float | None = None
    successor_at: int | None = None
    """The height at which the others were when they had another primary: blocks above it are that one's."""
    failover_seconds: float | None = None
    """From the primary's death to the next block."""


def _faults(steps: int) -> Faults:
    third, tenth = steps // 3, steps // 10
    return Faults(third, third + tenth, steps // 2, 2 * third, 2 * third + tenth)


def run_demo(task_file: Path, out: Path, *, plain: bool) -> Summary:
    """Runs the demonstration and writes `summary.json` into `out`, which is emptied first.

    Raises:
        DemoError and other TallystickErrors: with the first thing that failed.
        KeyboardInterrupt: all processes have been stopped.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    one_torch_thread()
    began = time.monotonic()
    _clear(out)
    now_ms = time.time_ns() // 10**6
    ports = free_ports(2 * VALIDATORS)
    network = make_network(out / "network", validators=VALIDATORS, workers=WORKERS, ports=ports, now_ms=now_ms)
    with Processes(out / "logs") as processes, screen_for(plain) as screen:
        summary = _run(network, processes, screen, task_file, out)
    summary = msgspec.structs.replace(summary, seconds=round(time.monotonic() - began, 1))
    write_summary(summary, out / "summary.json")
    return summary


def _run(network: LocalNetwork, processes: Processes, screen: Screen, task_file: Path, out: Path) -> Summary:
    screen.phase(f"starting {VALIDATORS} validators and {WORKERS} workers, each a process with its own key and folder")
    for member in network.validators:
        _start_validator(member, network, processes)
    for member in network.workers:
        _start_worker(member, network, processes)
    blobs, key = BlobStore(network.blobs), load_key(network.client.home / KEY)
    _wait_for_validators(network.validators, processes)
    proof = out / "proof"
    with Validators(network.urls) as validators:
        screen.phase("tracing the model and offering the task")
        task, prepared = offer_task(task_file, key, validators, blobs)
        board = new_board(network, prepared.offer)
        screen.phase("training on machines that nobody trusts")
        faults = _watch(board, network, processes, screen, validators)
        screen.phase("collecting the proof; then verifying it and training again on one machine, side by side")
        finished = validators.task(task)
        collect_proof(finished, key, validators, blobs, proof, lambda step, steps: None)
    verdict, reference = _check_outside(proof, network, prepared.offer.spec)
    heights, monies = _wait_for_same_height(network)
    return Summary(
        root=finished.root,
        reference_root=reference,
        test_accuracy=verdict.get("test_accuracy"),
        verdict=verdict["outcome"],
        caught=board.caught,
        killed=[KILLED_WORKER, faults.killed["backup"], faults.killed["primary"]],
        failover_seconds=faults.failover_seconds,
        standings=board.standings,
        conserved=all(money.conserved for money in monies) and len(set(map(msgspec.json.encode, monies))) == 1,
        payouts=board.payouts,
        returned=board.returned or 0,
        heights=heights,
        proof=str(proof),
        seconds=0.0,
    )


# ---- processes


def _start_validator(member: Member, network: LocalNetwork, processes: Processes) -> None:
    command = ("validator", "run", str(member.home), "--blobs", network.blobs, "--stop-on-eof")
    processes.start(member.name, "tallystick.cli.main", *command)


def _start_worker(member: Member, network: LocalNetwork, processes: Processes) -> None:
    options = ["--key", str(member.home / KEY), "--blobs", network.blobs]
    options += [argument for url in network.urls for argument in ("--join", url)]
    if member.name in CHEATS:
        processes.start(member.name, "tallystick.demo.saboteurs", CHEATS[member.name], *options)
    else:
        processes.start(member.name, "tallystick.cli.main", "worker", *options, "--stop-on-eof")


def _wait_for_validators(members: Sequence[Member], processes: Processes) -> None:
    deadline = time.monotonic() + START_SECONDS
    for member in members:
        while not _answers(member):
            if time.monotonic() > deadline or processes.died():
                raise DemoError(f"{member.name} did not start: {processes.log_of(member.name)}")
            time.sleep(POLL_SECONDS)


def _answers(member: Member) -> bool:
    try:
        with Validators([member.url]) as validators:
            validators.status()
    except (UnreachableError, Refused):
        return False
    return True


# ---- the run itself


def _watch(board: Board, network: LocalNetwork, processes: Processes, screen: Screen, validators: Validators) -> Faults:
    """Follows the ledger's events until the task is finished, and makes the crashes happen on the way."""
    faults = _faults(board.steps)
    deadline, after = time.monotonic() + RUN_SECONDS, 0
    while not board.finished:
        for entry in validators.events(after, EVENT_WAIT_MS):
            after = entry.sequence
            event: Event = msgspec.json.decode(entry.event, type=Event)
            board.see(entry.height, event)
        _crash(board, faults, network, processes, validators)
        _see_failover(board, faults, validators)
        screen.show(board, _balances(validators, board))
        if unexpected := [name for name in processes.died() if board.standings.get(name) != "caught"]:
            raise DemoError(f"{unexpected[0]} died: {processes.log_of(unexpected[0])}")
        if time.monotonic() > deadline:
            raise DemoError(f"step {board.step} of {board.steps} after {RUN_SECONDS:.0f} s; see the logs")
    if board.expired:
        raise DemoError("the task expired before it was finished")
    return faults


def _crash(board: Board, faults: Faults, network: LocalNetwork, processes: Processes, validators: Validators) -> None:
    """Each fault once, when its step has come."""
    if _due(board, faults, "kill backup", faults.kill_backup):
        primary = _primary(board, validators)
        names = [member.name for member in network.validators]
        backup = BACKUP if primary != BACKUP else names[names.index(BACKUP) - 1]
        _kill_validator("backup", backup, board, faults, processes)
    if _due(board, faults, "restart backup", faults.restart_backup):
        _restart("backup", board, faults, network, processes)
    if _due(board, faults, "kill worker", faults.kill_worker):
        processes.kill(KILLED_WORKER)
        board.standings[KILLED_WORKER] = "gone"
        board.note(f"{KILLED_WORKER} killed with SIGKILL at step {board.step}")
    if _due(board, faults, "kill primary", faults.kill_primary):
        _kill_validator("primary", _primary(board, validators), board, faults, processes)
        faults.primary_killed_at = time.monotonic()
    if faults.failover_seconds is not None and _due(board, faults, "restart primary", faults.restart_primary):
        _restart("primary", board, faults, network, processes)


def _due(board: Board, faults: Faults, what: str, step: int) -> bool:
    if board.step < step or what in faults.done:
        return False
    faults.done.add(what)
    return True


def _primary(board: Board, validators: Validators) -> str:
    return board.names[validators.status().primary]


def _kill_validator(role: str, name: str, board: Board, faults: Faults, processes: Processes) -> None:
    processes.kill(name)
    faults.killed[role] = name
    office = ", the primary," if role == "primary" else ""
    board.note(f"{name}{office} killed with SIGKILL at step {board.step}, height {board.height}")


def _restart(role: str, board: Board, faults: Faults, network: LocalNetwork, processes: Processes) -> None:
    name = faults.killed[role]
    _start_validator(next(v for v in network.validators if v.name == name), network, processes)
    board.note(f"{name} started again at step {board.step}")


def _see_failover(board: Board, faults: Faults, validators: Validators) -> None:
    """The others give the primary up and go on under another: blocks after that are the proof."""
    if faults.primary_killed_at is None or faults.failover_seconds is not None:
        return
    now = validators.status()
    if faults.successor_at is None and board.names[now.primary] != faults.killed["primary"]:
        faults.successor_at = now.height
    elif faults.successor_at is not None and now.height > faults.successor_at:
        faults.failover_seconds = round(time.monotonic() - faults.primary_killed_at, 2)
        name, seconds = board.names[now.primary], faults.failover_seconds
        board.note(f"{name} is primary now: blocks go on at height {now.height}, {seconds} s after the death")


def _balances(validators: Validators, board: Board) -> dict[str, int]:
    return {name: validators.account(identity).balance for identity, name in board.names.items()}


# ---- checks


def _check_outside(proof: Path, network: LocalNetwork, spec: str) -> tuple[dict[str, Any], str]:
    """The verdict of `tallystick verify` and the root of a single-machine run, each from a fresh process."""
    checking = output_of("tallystick.cli.main", ["verify", str(proof), "--json"])
    training = output_of("tallystick.demo.reference", [network.blobs, spec])
    results = []
    for what, process in (("tallystick verify", checking), ("the single-machine run", training)):
        answer, complaint = process.communicate()
        if not answer:
            raise DemoError(f"{what} failed: {complaint.strip()[-300:]}")
        results.append(json.loads(answer))
    return results[0], results[1]["root"]


def _wait_for_same_height(network: LocalNetwork) -> tuple[dict[str, int], list[Money]]:
    """Heights by validator, once all have executed the same blocks, and the money that each of them counts."""
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while True:
        monies = [_money(member) for member in network.validators]
        heights = {m.name: money.height for m, money in zip(network.validators, monies, strict=True)}
        if len(set(heights.values())) == 1 or time.monotonic() > deadline:
            return heights, monies
        time.sleep(POLL_SECONDS)


def _money(member: Member) -> Money:
    with Validators([member.url]) as validators:
        return validators.money()


def _clear(out: Path) -> None:
    """Empties `out`, if it is ours."""
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        raise DemoError(f"{out}: holds something that is not a demonstration's; name another folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARKER).touch()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
