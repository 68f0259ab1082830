"""Compiled kernels that cannot be loaded leave PyTorch's, and the self-test says so."""

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import exact_built
import tallystick
from tallystick.exact import native
from tallystick.exact.selftest import cases
from tallystick.exact.settings import SettingError

NAME = f"_library{EXTENSION_SUFFIXES[0]}"
SELFTEST = [sys.executable, "-c", "from tallystick.cli.main import main; main()", "selftest"]
UNLOADABLE = {"empty": b"", "cut off": b"\x7fELF\x02\x01\x01" + bytes(50), "no library": b"not a library\n" * 99}


@pytest.mark.parametrize("what", UNLOADABLE)
def test_what_cannot_be_loaded_leaves_pytorch_alone(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALLYSTICK_NATIVE", raising=False)
    (tmp_path / NAME).write_bytes(UNLOADABLE[what])
    library, words = native.load(tmp_path)
    assert library is None
    assert words.startswith("PyTorch alone (the compiled kernels cannot be loaded: ")
    assert str(tmp_path / NAME) in words


def test_a_library_of_an_earlier_version_leaves_pytorch_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALLYSTICK_NATIVE", raising=False)
    earlier = exact_built.built(tmp_path, ["threads.c"], {"threads.c": ("void ts_share_team", "void ts_share")})
    Path(earlier._name).rename(tmp_path / NAME)
    library, words = native.load(tmp_path)
    assert library is None
    assert "undefined symbol" in words and "reinstall tallystick" in words


def test_where_nothing_was_compiled_or_it_is_switched_off_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TALLYSTICK_NATIVE", raising=False)
    assert native.load(tmp_path) == (None, "PyTorch alone (none were compiled at install)")
    monkeypatch.setenv("TALLYSTICK_NATIVE", "0")
    assert native.load(Path(native.__file__).parent) == (None, "PyTorch alone (TALLYSTICK_NATIVE=0)")


@pytest.mark.skipif(native.LIBRARY is None, reason="no compiled kernels: there is nothing to keep from a unit")
def test_products_can_be_kept_from_a_unit_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(native.__file__).parent
    with monkeypatch.context() as changed:
        changed.setenv("TALLYSTICK_NATIVE", "portable")
        assert native.load(folder)[1] == "compiled kernels (any processor)"
        changed.setenv("TALLYSTICK_NATIVE", "avx3")
        with pytest.raises(SettingError, match=r"TALLYSTICK_NATIVE=avx3: there is 0, 1, portable, float64, .*amx; "):
            native.load(folder)
    assert native.load(folder)[1] == native.IN_USE


def test_an_empty_setting_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALLYSTICK_NATIVE", raising=False)
    unset = native.load(Path(native.__file__).parent)[1]
    monkeypatch.setenv("TALLYSTICK_NATIVE", "")
    assert native.load(Path(native.__file__).parent)[1] == unset


@pytest.mark.parametrize(
    ("name", "admitted"),
    [
        ("TALLYSTICK_NATIVE", "0, 1, portable, float64, avx2, avx512, vnni, amx"),
        ("TALLYSTICK_PRODUCTS", "float64, int8"),
    ],
)
def test_a_setting_that_means_nothing_is_one_line(name: str, admitted: str) -> None:
    ended = subprocess.run(SELFTEST, env=os.environ | {name: "bogus"}, capture_output=True, text=True, check=False)
    message = f"error: {name}=bogus: there is {admitted}; unset it or use one of these\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", message)


def test_a_library_of_another_architecture_passes_the_selftest_by_pytorch_alone(tmp_path: Path) -> None:
    installed = Path(native.__file__).with_name(NAME)
    if not installed.exists() or sys.platform != "linux":
        pytest.skip("no compiled kernels, or not Linux: there is no library to change")
    shutil.copytree(Path(tallystick.__file__).parent, tmp_path / "tallystick")
    data = bytearray(installed.read_bytes())
    data[18:20] = (0x5A5A).to_bytes(2, "little")  # the ELF header's e_machine
    (tmp_path / "tallystick" / "exact" / "native" / NAME).write_bytes(data)
    environment = {k: v for k, v in os.environ.items() if k != "TALLYSTICK_NATIVE"} | {"PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(SELFTEST, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert f"{len(cases())} of {len(cases())} cases passed by PyTorch alone" in ended.stdout
    assert NAME in ended.stdout
