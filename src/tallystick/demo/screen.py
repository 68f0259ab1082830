"""How the demonstration looks: a live table on a terminal, plain lines everywhere else."""

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Protocol

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tallystick.demo.board import Board

NOTES_SHOWN: Final = 8
LINE_EVERY_STEPS: Final = 10
COLORS: Final = {"working": "green", "caught": "bold red", "late": "yellow", "gone": "dim"}


class Screen(Protocol):
    def __enter__(self) -> "Screen": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def phase(self, text: str) -> None:
        """Something begins that has no place on the board."""

    def show(self, board: Board, balances: Mapping[str, int]) -> None:
        """The board has changed; `balances` is by the members' names."""


class PlainScreen:
    """One line for every tenth step and for everything out of the ordinary."""

    def __init__(self) -> None:
        self._shown_step = -1
        self._shown_notes = 0

    def __enter__(self) -> "PlainScreen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def phase(self, text: str) -> None:
        print(f"-- {text}", flush=True)

    def show(self, board: Board, balances: Mapping[str, int]) -> None:
        for note in board.notes[self._shown_notes :]:
            print(f"   {note}", flush=True)
        self._shown_notes = len(board.notes)
        due = board.step >= self._shown_step + LINE_EVERY_STEPS or board.step == board.steps
        if board.loss is not None and due and board.step != self._shown_step:
            self._shown_step = board.step
            standings = ", ".join(f"{name} {standing}" for name, standing in sorted(board.standings.items()))
            print(
                f"step {board.step}/{board.steps}  loss {board.loss:.4f}  height {board.height}  {standings}",
                flush=True,
            )


class LiveScreen:
    """A table that is redrawn in place."""

    def __init__(self) -> None:
        self._live = Live(refresh_per_second=8, transient=False)
        self._phase = ""

    def __enter__(self) -> "LiveScreen":
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def phase(self, text: str) -> None:
        self._phase = text
        self._live.update(Text(f"… {text}"))

    def show(self, board: Board, balances: Mapping[str, int]) -> None:
        head = Table.grid(padding=(0, 3))
        loss = "" if board.loss is None else f"loss {board.loss:.4f}"
        bar = ProgressBar(total=board.steps, completed=board.step, width=40)
        head.add_row(f"step {board.step}/{board.steps}", bar, loss, f"height {board.height}")
        table = Table("worker", "state", "earned", "balance", expand=False)
        for name, standing in sorted(board.standings.items()):
            color = COLORS.get(standing, "")
            earned, balance = board.payouts.get(name, 0), balances.get(name, 0)
            table.add_row(name, Text(standing, style=color), str(earned), str(balance))
        notes = Text("\n".join(board.notes[-NOTES_SHOWN:]))
        self._live.update(Panel(Group(head, table, notes), title=f"tallystick demo: {self._phase}"))


def screen_for(plain: bool) -> Screen:
    return PlainScreen() if plain or not sys.stdout.isatty() else LiveScreen()
