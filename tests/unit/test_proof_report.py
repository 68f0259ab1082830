"""The report: one file that loads nothing, and in which no string of a stranger is markup."""

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from proof_samples import nudged, sample
from tallystick.proof.directory import Places
from tallystick.proof.policy import Listed
from tallystick.proof.report import Point, render, write_report
from tallystick.proof.verdict import Verdict
from tallystick.proof.verify import How, verify

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def tags(document: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(document)
    return parser.seen


def require_self_contained(document: str) -> None:
    for tag, attributes in tags(document):
        assert tag not in {"script", "img", "link", "iframe", "object", "embed", "form", "base", "a"}
        assert not {name for name in attributes if name in {"src", "href", "srcset", "action"} or name.startswith("on")}
    assert not re.search(r"https?:|//|url\(|@import", document)


def test_a_report_shows_verdict_charts_and_audited_segments(tmp_path: Path) -> None:
    sample().write(tmp_path / "proof")
    verdict = verify(Places(tmp_path / "proof"), How(Listed((0, 2))))
    write_report(tmp_path / "report.html", Places(tmp_path / "proof"), verdict)
    document = (tmp_path / "report.html").read_text()
    require_self_contained(document)
    names = [tag for tag, _ in tags(document)]
    assert (names.count("svg"), names.count("polyline"), names.count("rect")) == (2, 2, 4)
    assert verdict.final_root is not None and verdict.final_root in document
    assert "2 of 3" in document and "5 of 8" in document


def test_a_report_marks_the_segment_that_differs(tmp_path: Path) -> None:
    sample().write(tmp_path / "proof", tamper=lambda n, s, t: (nudged(s, "parameter/0.bias"), t) if n == 4 else (s, t))
    verdict = verify(Places(tmp_path / "proof"))
    write_report(tmp_path / "report.html", Places(tmp_path / "proof"), verdict)
    document = (tmp_path / "report.html").read_text()
    assert document.count("#cf222e") == 3 and verdict.expected is not None and verdict.expected in document


@pytest.mark.parametrize(
    "field", ["reason", "code", "prover", "network", "task", "tensor", "expected", "found", "nonce", "policy"]
)
def test_no_string_becomes_markup(field: str) -> None:
    honest = Verdict(outcome="mismatch", code="c", reason="r", total_steps=8, segments=3)
    hostile = msgspec.structs.replace(honest, **{field: HOSTILE})
    require_self_contained(render(hostile, [Point(0, 3, 1.0, 0.5), Point(1, 8, 0.5, None)]))


def test_what_cannot_be_read_has_a_report_without_charts(tmp_path: Path) -> None:
    verdict = verify(Places(tmp_path / "nothing"))
    write_report(tmp_path / "report.html", Places(tmp_path / "nothing"), verdict)
    document = (tmp_path / "report.html").read_text()
    assert "could not check" in document and "<svg" not in document


def test_a_flat_line_and_a_single_point_can_be_drawn() -> None:
    verdict = Verdict(outcome="verified", code="verified", reason="r", checked=[0])
    assert render(verdict, [Point(0, 1, 2.0, 0.0)]).count("<polyline") == 2
