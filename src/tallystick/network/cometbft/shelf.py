"""Snapshots for other nodes, as files in one folder: `<height>.snapshot`, each there in full or not at all."""

import re
from pathlib import Path
from typing import Final

from tallystick.ledger.state import MAX_STATE_BYTES
from tallystick.proof.durable import write_whole

KEPT: Final = 3
"""A node that is fetching the oldest one has as long as two more take."""
NAME: Final = re.compile(r"([0-9]{1,19})\.snapshot")


class FileShelf:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def heights(self) -> list[int]:
        return sorted(int(match[1]) for path in self._folder.iterdir() if (match := NAME.fullmatch(path.name)))

    def load(self, height: int) -> bytes | None:
        path = self._path(height)
        try:
            return path.read_bytes() if path.stat().st_size <= MAX_STATE_BYTES else None
        except OSError:
            return None

    def save(self, height: int, data: bytes) -> None:
        write_whole(self._path(height), data)
        for old in self.heights()[:-KEPT]:
            self._path(old).unlink(missing_ok=True)

    def _path(self, height: int) -> Path:
        return self._folder / f"{height}.snapshot"
