"""What the demonstration found, whether that is what it promises, and how it is told."""

from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from tallystick.demo.board import Caught

ACCURACY: Final = 0.95
EXPECTED_FAULTS: Final = {"worker-0": "wrong_contribution", "worker-1": "commitment_does_not_open"}


class Summary(msgspec.Struct, frozen=True):
    root: str
    """State root that the network reached."""
    reference_root: str
    """State root of the single-machine run."""
    test_accuracy: float | None
    verdict: str
    """Outcome of `tallystick verify` in a fresh process."""
    caught: list[Caught]
    killed: list[str]
    """A worker, a validator that was not primary, and the primary."""
    failover_seconds: float | None
    """From the primary's death to the next block; None if none came."""
    standings: dict[str, str]
    conserved: bool
    """Every validator counts the same money, and none was made or lost."""
    payouts: dict[str, int]
    returned: int
    """What came back to the client from escrow."""
    heights: dict[str, int]
    proof: str
    seconds: float


def first_failure(summary: Summary) -> str | None:
    """The first promise that was not kept, in plain words; None if all were."""
    if summary.root != summary.reference_root:
        return f"the network reached state {summary.root}, one machine alone reaches {summary.reference_root}"
    if summary.test_accuracy is None or summary.test_accuracy < ACCURACY:
        return f"the test accuracy is {summary.test_accuracy}, promised are {ACCURACY}"
    found = {entry.worker: entry.reason for entry in summary.caught}
    for name, reason in EXPECTED_FAULTS.items():
        if found.get(name) != reason:
            return f"{name} cheated and was not caught for {reason}"
    if innocent := sorted(set(found) - set(EXPECTED_FAULTS)):
        return f"{innocent[0]} is honest and was slashed for {found[innocent[0]]}"
    if summary.failover_seconds is None:
        return f"no block came after the primary, {summary.killed[-1]}, was killed"
    if len(set(summary.heights.values())) != 1:
        return f"the validators did not end at one height: {summary.heights}"
    if not summary.conserved:
        return "money was made or lost, or validators count it differently"
    if summary.verdict != "verified":
        return f"`tallystick verify` says {summary.verdict} of {summary.proof}"
    return None


def write_summary(summary: Summary, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")


def print_summary(summary: Summary, console: Console) -> None:
    """The facts for people; the same are in `summary.json`."""
    same = "equal" if summary.root == summary.reference_root else "DIFFERENT"
    accuracy = "unknown" if summary.test_accuracy is None else f"{summary.test_accuracy:.4f}"
    console.print(f"\ntest accuracy     {accuracy}")
    console.print(f"state root        {summary.root}")
    console.print(f"on one machine    {summary.reference_root}  ({same})")
    caught = Table("caught", "why", "by", "height", "slashed", "burned", title="cheats")
    for entry in summary.caught:
        by = ", ".join(entry.finders) or "the ledger"
        caught.add_row(entry.worker, entry.reason, by, str(entry.height), str(entry.amount), str(entry.burned))
    payouts = Table("paid to", "amount", title="payouts")
    for name, amount in sorted(summary.payouts.items()):
        payouts.add_row(name, str(amount))
    payouts.add_row("client (returned)", str(summary.returned))
    console.print(caught, payouts)
    heights = ", ".join(f"{name} {height}" for name, height in summary.heights.items())
    console.print(f"killed            {', '.join(summary.killed)} (the validators came back)")
    console.print(f"primary killed    the next block came after {summary.failover_seconds} s, from another primary")
    console.print(f"heights           {heights}")
    console.print(f"money conserved   {'yes' if summary.conserved else 'NO'}")
    console.print(f"proof             {summary.proof}: tallystick verify says {summary.verdict}")
    console.print(f"time              {summary.seconds:.1f} s")
