"""Segments re-executed by several processes, on this machine or on a Ray cluster.

Each process opens and authenticates the proof itself and takes whole segments. Results come back in the order of the
segments, so what is reported does not depend on who finishes first.
"""

import functools
import importlib
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Final

import torch

from tallystick.errors import Refused, TallystickError
from tallystick.program.training import Training, prepare_training
from tallystick.proof import manifest as m
from tallystick.proof.directory import Places, Proof, open_proof, read_records
from tallystick.proof.replay import Job, Result, executed, replay

AHEAD: Final = 2
"""Segments handed out for each process: one that it works on, one that waits."""


class NoRayError(TallystickError):
    """Ray is not installed."""


def in_processes(places: Places, proof: str, work: Iterator[Job], jobs: int) -> Generator[Result, None, None]:
    """Results of `work`, in its order, from `jobs` processes, which end with the generator, whatever they work on.

    Args:
        proof: the proof's name, which each process compares with what it finds.
    """
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))

    def hand_out(job: Job) -> Callable[[], Result]:
        with _interrupts_held():
            future: Future[Result] = pool.submit(check_segment, places, proof, job)
        return future.result

    try:
        yield from _in_order(work, hand_out, jobs * AHEAD)
    except BrokenProcessPool:
        raise Refused("not_executable", "a verifying process has died, perhaps for want of memory") from None
    finally:
        for process in list(pool._processes.values()):  # `terminate_workers`, from Python 3.14
            process.terminate()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started meanwhile inherit the mask, so Ctrl-C is the parent's alone, even while they still import.

    One that arrives meanwhile, which may be on another thread, takes effect afterwards: no process is started by half.
    """
    noted: list[int] = []
    handled_here = threading.current_thread() is threading.main_thread()
    earlier = signal.signal(signal.SIGINT, lambda number, _: noted.append(number)) if handled_here else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if handled_here:
            signal.signal(signal.SIGINT, earlier)
        if noted:
            signal.raise_signal(signal.SIGINT)


def on_ray(places: Places, proof: str, work: Iterator[Job]) -> Generator[Result, None, None]:
    """Results of `work`, in its order, from the Ray cluster that the environment names, or a local one.

    Every machine of the cluster must see the proof under the same path.

    Raises:
        NoRayError
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise NoRayError("ray is not installed; `pip install tallystick[ray]`, or use --jobs") from None
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    remote = ray.remote(check_segment)
    ahead = max(AHEAD, int(ray.cluster_resources().get("CPU", 1)) * AHEAD)

    def hand_out(job: Job) -> Callable[[], Result]:
        return functools.partial(ray.get, remote.remote(places, proof, job))

    try:
        yield from _in_order(work, hand_out, ahead)
    finally:
        ray.shutdown()


def check_segment(places: Places, proof: str, job: Job) -> Result:
    """One segment, in a process of its own."""
    torch.set_num_threads(1)
    try:
        opened, training = _prepared(places, proof)
    except Refused as refused:
        return Result(job.index, 0, None, (refused.code, refused.reason))
    return replay(opened, training, job)


@functools.lru_cache(maxsize=1)
def _prepared(places: Places, name: str) -> tuple[Proof, Training]:
    proof = open_proof(places)
    if proof.signature != name:
        raise Refused("wrong_digest", f"{m.SIGNATURE}: was changed while the proof was verified")
    records = read_records(proof, m.TRAIN)
    return proof, executed("preparation", lambda: prepare_training(proof.spec, proof.program, records))


def _in_order(work: Iterator[Job], hand_out: Callable[[Job], Callable[[], Result]], ahead: int) -> Iterator[Result]:
    waiting: deque[Callable[[], Result]] = deque()
    for job in work:
        waiting.append(hand_out(job))
        if len(waiting) >= ahead:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()
