"""The soak of real validators, for some seconds: it starts, inflicts faults, and nothing is lost."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_short_soak_loses_nothing(tmp_path: Path) -> None:
    report = tmp_path / "soak.json"
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", "0.2", "--json", str(report)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = {row["what"]: row for row in json.loads(report.read_bytes())["rows"]}
    assert "0 acknowledged" not in rows["10 s windows with progress"]["note"].split("; ")
    assert rows["lost or executed twice"]["ours"] == 0, rows["lost or executed twice"]["note"]
