"""What every long-running process of ours does at its start and end: logging, threads, signals."""

import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import torch

from tallystick.canon.identity import load_key
from tallystick.errors import TallystickError
from tallystick.exact.selftest import first_failure
from tallystick.network.blobs import BlobStore
from tallystick.network.dial import Validators
from tallystick.network.worker import Worker


class InexactMachineError(TallystickError):
    """This machine's arithmetic is not exact-v1."""


MAX_DESCRIPTORS: Final = 16_384
DEFAULT_STAKE_LIMIT: Final = 10**9
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"


def start_logging(verbose: bool = False) -> None:
    """Log lines go to standard error."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.INFO if verbose else logging.WARNING)


def one_torch_thread() -> None:
    """One thread for arithmetic in each process: a machine with more cores runs more workers."""
    torch.set_num_threads(1)


def require_exact_arithmetic() -> None:
    """Refuses to go on where results would differ from everybody else's, since that would cost the stake.

    Raises:
        InexactMachineError: naming the operator whose bits are wrong.
    """
    failure = first_failure()
    if failure is not None:
        raise InexactMachineError(
            f"self-test: {failure.case}: this machine computes {failure.found}, exact-v1 says {failure.expected}; "
            "try TALLYSTICK_NATIVE=avx2 or 0, and see `tallystick selftest`"
        )


def raise_descriptor_limit() -> None:
    """As many connections as the system lets us have; the usual default of 1,024 is for programs with few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def stop_on_eof() -> None:
    """Sends this process SIGTERM when its standard input closes, so that it does not outlive whoever started it."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="stop-on-eof", daemon=True).start()


def run_worker(
    key: Path,
    join: Sequence[str],
    blobs: str,
    *,
    stake_limit: int = DEFAULT_STAKE_LIMIT,
    kind: type[Worker] = Worker,
) -> None:
    """Runs a worker in this process until SIGINT or SIGTERM.

    Raises:
        KeyFileError, UnreachableError: it cannot start.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    one_torch_thread()
    require_exact_arithmetic()
    try:
        with Validators(join) as validators:
            worker = kind(load_key(key), validators, BlobStore(blobs), stake_limit)
            logging.getLogger(__name__).info("worker %s: ready", worker.identity[:12])
            worker.run(threading.Event())
    except KeyboardInterrupt:
        logging.getLogger(__name__).info("worker: stopped")
