"""A report as one web page without scripts; everything that came from a record is escaped."""

from html import escape

from tallystick.proof.report import STYLE
from tallystick.proof.tolerant.verdict import Report


def page(report: Report) -> str:
    outcome = report.outcome.replace("_", " ")
    facts = {
        "record": report.record,
        "signed by": report.signed_by or "nobody",
        "steps": report.steps,
        "segments": f"{report.segments}, of which {len(report.checked)} were run again",
        "nonce": report.nonce,
        **{f"chance to find if bad: {bad}": f"{chance:.1%}" for bad, chance in report.detection.items()},
    }
    checked = [
        (f"{c.steps[0]} to {c.steps[1]}", ", ".join(c.drawn), *(f"{x:.3g}" for x in (
            c.weights.l1, c.weights.l2, c.weights.linf, c.weights.cosine, c.buffers.l2, c.slots.l2, c.movement)))
        for c in report.checked
    ]  # fmt: skip
    heads = ("steps", "drawn", "l1", "l2", "linf", "cosine", "buffers l2", "slots l2", "movement l2")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(outcome)}</title><style>{STYLE}</style>'
        f"<h1>{escape(outcome)}</h1><p>{escape(report.reason)} <code>{escape(report.code)}</code></p>"
        f"{_table(('fact', ''), [(name, str(value)) for name, value in facts.items()])}"
        f"<h2>Segments that were run again</h2>{_table(heads, checked)}"
        "<h2>Known attacks that this does not rule out</h2>"
        f"{_table(('attack', 'standing', 'why'), [(a.name, a.standing, a.why) for a in report.attacks])}</html>\n"
    )


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
