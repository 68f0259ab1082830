"""A verdict as one HTML file: charts as inline SVG, nothing loaded from anywhere, every string escaped.

What it shows of the training is what the prover signed; only the marked segments were re-executed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import sqrt
from pathlib import Path
from typing import Final

from tallystick.errors import Refused
from tallystick.program.training import mean_loss
from tallystick.proof.directory import Places, Proof, open_proof, scan_segments
from tallystick.proof.verdict import Verdict

MAX_POINTS: Final = 1000
"""Of a chart; with more segments, each point stands for several, and shows the last of them."""
WIDTH, HEIGHT, MARGIN = 760, 220, 44
COLORS: Final = {"verified": "#1a7f37", "could_not_check": "#9a6700", "mismatch": "#cf222e"}
STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 820px; margin: 2em auto; padding: 0 1em; color: #1f2328; }
h1 { font-size: 1.5em; } h2 { font-size: 1.1em; margin-top: 2em; }
table { border-collapse: collapse; width: 100%; } td { border-top: 1px solid #d1d9e0; padding: .3em .6em .3em 0;
vertical-align: top; } td:last-child { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } text { font-size: 11px; fill: #59636e; }
"""


@dataclass(frozen=True)
class Point:
    """The end of a segment."""

    segment: int
    step: int
    loss: float
    update: float | None


def write_report(path: Path, places: Places, verdict: Verdict) -> None:
    """Writes the report on `verdict`, with charts as far as the proof can be read."""
    try:
        proof = open_proof(places)
        points = _points(proof)
    except Refused:
        points = []
    path.write_text(render(verdict, points), encoding="utf-8")


def render(verdict: Verdict, points: Sequence[Point]) -> str:
    """The report as a document."""
    color = COLORS[verdict.outcome]
    title = verdict.outcome.replace("_", " ")
    losses = [(point.step, point.loss) for point in points]
    updates = [(point.step, point.update) for point in points if point.update is not None]
    marks = _marks(verdict, points)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>Proof: {escape(title)}</title><style>{STYLE}</style></head><body>",
        f'<h1 style="color:{color}">{escape(title)}</h1><p>{escape(verdict.reason)} [{escape(verdict.code)}]</p>',
        _table(_facts(verdict)),
        "<h2>Mean loss of each segment, as signed</h2>" + _chart(losses, marks) if losses else "",
        "<h2>Length of each segment's update of the parameters, as signed</h2>" + _chart(updates, marks)
        if updates
        else "",
        "<p>Bars mark the segments that were re-executed; red is the one that differs.</p>" if points else "",
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _points(proof: Proof) -> list[Point]:
    count = proof.commitment.segments
    every = -(-count // MAX_POINTS)
    points = []
    for index, segment in enumerate(scan_segments(proof)):
        if (index + 1) % every == 0 or index + 1 == count:
            loss = mean_loss(segment.mean_loss, proof.spec.micro_batches)
            update = None if segment.update is None else sqrt(float(segment.update))
            points.append(Point(index, segment.step, loss, update))
    return points


def _facts(verdict: Verdict) -> dict[str, object]:
    chances = ", ".join(f"{100 * c.probability:.1f} % for {c.bad} bad" for c in verdict.detection)
    return {
        "steps re-executed": f"{verdict.steps} of {verdict.total_steps} ({100 * verdict.coverage:.2f} %)",
        "segments re-executed": f"{len(verdict.checked)} of {verdict.segments}",
        "chance to have met a bad segment": chances or None,
        "drawn from nonce": verdict.nonce,
        "first differing segment": verdict.segment,
        "first differing step": verdict.step,
        "tensor": verdict.tensor,
        "expected": verdict.expected,
        "found": verdict.found,
        "test accuracy": verdict.test_accuracy,
        "signed by": verdict.prover,
        "attempt": verdict.attempt,
        "proof": verdict.proof,
        "specification": verdict.spec,
        "final state root": verdict.final_root,
        "model": verdict.model,
        "network": verdict.network,
        "task": verdict.task,
    }


def _table(facts: dict[str, object]) -> str:
    rows = (f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in facts.items() if v is not None)
    return f"<table>{''.join(rows)}</table>"


def _marks(verdict: Verdict, points: Sequence[Point]) -> list[tuple[int, int, str]]:
    """First and last step and color of each stretch that stands for re-executed segments."""
    checked, marks = set(verdict.checked), []
    before, start = -1, 0
    for point in points:
        stretch = range(before + 1, point.segment + 1)
        if verdict.segment in stretch:
            marks.append((start, point.step, COLORS["mismatch"]))
        elif not checked.isdisjoint(stretch):
            marks.append((start, point.step, "#b6e3ff"))
        before, start = point.segment, point.step
    return marks


def _chart(values: Sequence[tuple[int, float]], marks: Sequence[tuple[int, int, str]]) -> str:
    """A line over steps, above bars for `marks`."""
    last = values[-1][0]
    low, high = min(value for _, value in values), max(value for _, value in values)
    span = (high - low) or 1.0

    def x(step: int) -> str:
        return f"{MARGIN + (WIDTH - 2 * MARGIN) * step / last:.1f}"

    def y(value: float) -> str:
        return f"{HEIGHT - MARGIN / 2 - (HEIGHT - MARGIN) * (value - low) / span:.1f}"

    bars = "".join(
        f'<rect x="{x(a)}" y="{MARGIN / 2}" width="{max(1.0, float(x(b)) - float(x(a))):.1f}" '
        f'height="{HEIGHT - MARGIN}" fill="{color}" opacity=".45"/>'
        for a, b, color in marks
    )
    line = " ".join(f"{x(step)},{y(value)}" for step, value in values)
    labels = (
        f'<text x="2" y="{MARGIN / 2 + 4}">{high:.4g}</text><text x="2" y="{HEIGHT - MARGIN / 2}">{low:.4g}</text>'
        f'<text x="{MARGIN}" y="{HEIGHT - 4}">0</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 4}" text-anchor="end">step {last}</text>'
    )
    stroke = f'<polyline points="{line}" fill="none" stroke="#0969da" stroke-width="1.5"/>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{bars}{stroke}{labels}</svg>'
