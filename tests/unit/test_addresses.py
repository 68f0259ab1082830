"""Where a leaver was reached outlives its place in the ledger, and a start."""

import errno
import os
from pathlib import Path

import pytest

from tallystick.network import addresses
from tallystick.network.addresses import AddressBook
from tallystick.network.peers import Validator

OLD, NEW, MOVED = Validator("a", "one:1", "A"), Validator("b", "two:2", "B"), Validator("a", "three:3", "A")


def test_the_latest_word_counts_and_those_that_were_kept_are_known_at_the_next_start(tmp_path: Path) -> None:
    book = AddressBook(tmp_path / "peers.json", [OLD])
    book.learn([NEW, MOVED])
    book.keep(["b", "a", "b", "nobody"])
    again = AddressBook(tmp_path / "peers.json", [OLD])
    assert again.find("a") == MOVED and again.find("b") == NEW and again.find("nobody") is None
    again.keep(["b"])
    assert AddressBook(tmp_path / "peers.json", []).find("a") is None, "it left two epochs ago"


@pytest.mark.parametrize("data", [b"", b"{}", b'[{"identity":"a"}]', b"\xff", b"[" * 10_000])
def test_a_file_that_cannot_be_read_is_said_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(data)
    assert AddressBook(path, [OLD]).find("a") == OLD
    assert f"{path} is not used" in caplog.text


def test_a_file_that_cannot_be_written_is_said_and_what_did_not_change_is_not_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validator without a free file descriptor must not stop for a file that decides nothing."""
    path = tmp_path / "peers.json"
    book = AddressBook(path, [OLD, NEW])
    book.keep(["a"])

    def fail(path: Path, data: bytes) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(addresses, "write_whole", fail)
    book.keep(["a"])
    assert not caplog.text
    book.keep(["a", "b"])
    assert f"{path} cannot be written" in caplog.text
    monkeypatch.undo()
    book.keep(["a", "b"])
    assert AddressBook(path, []).find("b") == NEW
