"""What a benchmark says: rows of ours beside a baseline, on a described machine, as a table and as JSON.

    {"commit": ..., "machine": ..., "rows": [{"what", "unit", "ours", "baseline", "baseline_name",
                                              "ratio", "bar", "met", "note"}, ...]}

A row that could not be measured has no numbers, `met` false if there is a bar, and the reason in its note.
"""

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import torch
from rich.console import Console
from rich.table import Table

CPU_FLAGS: Final = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
"""What decides which arithmetic unit is the fastest here."""
WIDTH: Final = 150
"""Of tables that go to a file or a pipe."""


SHARE: Final = "% right"
"""The unit of accuracies: their bar is a difference, where every other bar is a ratio."""


class Row(msgspec.Struct, frozen=True):
    """One comparison. Smaller is better for time and memory."""

    what: str
    unit: str
    ours: float | None
    baseline: float | None
    baseline_name: str
    ratio: float | None
    bar: float | None
    met: bool | None
    """None where there is no bar."""
    note: str = ""


class Report(msgspec.Struct, frozen=True):
    commit: str
    machine: str
    rows: list[Row]


def ratio_row(what: str, unit: str, ours: float, baseline: float, name: str, bar: float | None, note: str = "") -> Row:
    """A row whose bar is a limit on ours / baseline."""
    ratio = ours / baseline
    return Row(what, unit, ours, baseline, name, ratio, bar, None if bar is None else ratio <= bar, note)


def difference_row(what: str, ours: float, baseline: float, name: str, bar: float | None) -> Row:
    """A row of accuracies, whose bar is a limit on how far ours is from the baseline, either way."""
    difference = ours - baseline
    met = None if bar is None else abs(difference) <= bar
    return Row(what, SHARE, ours, baseline, name, None, bar, met, f"difference {difference:+.3f}")


def missing_row(what: str, unit: str, name: str, bar: float | None, reason: str) -> Row:
    return Row(what, unit, None, None, name, None, bar, None if bar is None else False, reason)


def middle_and_spread(samples: Sequence[float]) -> tuple[float, str]:
    """The median, and for people how far the middle half of the samples reaches around it.

    >>> middle_and_spread([4.0, 1.0, 3.0, 2.0, 5.0])
    (3.0, '2.00-4.00')
    """
    if len(samples) < 2:
        return samples[0], "one sample"
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return middle, f"{low:.2f}-{high:.2f}"


def machine(threads: int) -> str:
    """The machine in one line, without a name or an address."""
    facts = _cpu_facts()
    parts = [
        facts.get("model name", platform.machine()),
        f"{os.cpu_count()} cores visible",
        " ".join(cpu_flags()) or "no vector unit known",
        f"{threads} threads",
        f"{platform.system()} {platform.machine()}",
        f"Python {platform.python_version()}",
        f"PyTorch {torch.__version__}",
    ]
    return ", ".join(parts)


def cpu_flags() -> list[str]:
    """Which of CPU_FLAGS the processor has."""
    facts = _cpu_facts()
    flags = facts.get("flags", facts.get("Features", "")).split()
    return [flag for flag in CPU_FLAGS if flag in flags]


def _cpu_facts() -> dict[str, str]:
    """What Linux says of the last core; nothing elsewhere."""
    source = Path("/proc/cpuinfo")
    lines = source.read_text().splitlines() if source.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def commit() -> str:
    """The commit that was measured, marked if files differ from it."""
    folder = Path(__file__).parent
    try:
        name = _git(folder, "rev-parse", "--short=12", "HEAD")
        return name + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S607  # git is wherever the user has it


def progress(line: str) -> None:
    """What is being done, for whoever waits; standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def publish(rows: Iterable[Row], threads: int, file: Path | None) -> Report:
    """Prints the table and, where asked for, writes the JSON."""
    report = Report(commit(), machine(threads), list(rows))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(f"commit {report.commit}\n{report.machine}", soft_wrap=True)
    console.print(table(report.rows))
    if file is not None:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return report


def table(rows: Sequence[Row]) -> Table:
    result = Table("what", "unit", "ours", "baseline", "against", "ratio", "bar", "met", "note")
    for row in rows:
        numbers = (_number(row.ours), _number(row.baseline))
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        met = "" if row.met is None else "yes" if row.met else "NO"
        result.add_row(row.what, row.unit, *numbers, row.baseline_name, ratio, _bar(row), met, row.note)
    return result


def _bar(row: Row) -> str:
    if row.bar is None:
        return ""
    return f"+-{row.bar:g}" if row.unit == SHARE else f"<= {row.bar:g}x"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
