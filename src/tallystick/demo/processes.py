"""The demonstration's processes: started in sessions of their own, and certain to be gone at the end."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

STOP_SECONDS: Final = 5.0
WAIT_SECONDS: Final = 60.0


class Processes:
    """Starts Python modules as processes; on exit from its context none is left.

    Each child watches its standard input, a pipe that we hold, and stops when it closes: so the children end even if
    this process is killed. A terminal's Ctrl-C reaches only this process, which then stops them in order.

    Args:
        logs: folder for one log file per process.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def start(self, name: str, module: str, *arguments: str) -> None:
        """Runs `python -m module arguments...`; a name can be started again after its process has ended."""
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL: the process can do nothing about it."""
        process = self._running.pop(name)
        process.kill()
        _forget(process)

    def send(self, name: str, number: signal.Signals) -> None:
        """Sends a signal, such as SIGSTOP, to a process of ours that goes on being ours."""
        self._running[name].send_signal(number)

    def wait(self, name: str) -> int:
        """Waits for a process that was told to stop; returns its exit status."""
        process = self._running.pop(name)
        code = process.wait(WAIT_SECONDS)
        _forget(process)
        return code

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def died(self) -> list[str]:
        """Processes that ended though nobody stopped them."""
        return [name for name, process in self._running.items() if process.poll() is not None]

    def log_of(self, name: str, lines: int = 5) -> str:
        return "\n".join((self._logs / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])

    def stop_all(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            _forget(process)
        self._running.clear()


def output_of(module: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """A process that computes something and prints it; the caller reads its output."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _forget(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
