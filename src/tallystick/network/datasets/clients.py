"""Asks a package client for a package, by name: which registry, mirror or proxy is meant is the client's own setting.

npm runs no script of a package it packs, and apt-get installs nothing here. pip does run the `setup.py` of a source
package, to learn its name, and has no option against it; so it is told the archive's SHA-256 and refuses any other
bytes before that.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from tallystick.errors import Refused, TallystickError
from tallystick.network.datasets.catalog import Package

TIMEOUT_S: Final = 600
MAX_ARCHIVE_BYTES: Final = 64 * 2**20

ERROR_LINES: Final = ("ERROR:", "E:", "npm error", "npm ERR!")
"""How pip, apt-get and npm begin the lines that matter."""


class DataSetError(TallystickError):
    """A data set cannot be had: an unknown name, or a program that is missing or failed."""


def download(package: Package, folder: Path) -> Path:
    """Has the package's archive put into `folder` (which must be empty) and returns its path.

    Raises:
        DataSetError: the client is not installed, or failed; says what to do.
        Refused: `too_large`, or `malformed` if the client left something else behind.
    """
    match package.client:
        case "npm":
            _npm(package, folder)
        case "debian":
            _apt_get(package, folder)
        case "pypi":
            _pip(package, folder)
    suffix = {"npm": "*.tgz", "debian": "*.deb", "pypi": "*.tar.gz"}[package.client]
    found = sorted(folder.glob(suffix))
    if len(found) != 1 or found[0].is_symlink() or not found[0].is_file():
        raise Refused("malformed", f"{package.name}: expected one {suffix} file from {package.client}")
    size = found[0].stat().st_size
    if size > MAX_ARCHIVE_BYTES:
        raise Refused("too_large", f"{package.name}: an archive of {size} bytes, at most {MAX_ARCHIVE_BYTES}")
    return found[0]


@contextmanager
def debian_contents(archive: Path) -> Iterator[IO[bytes]]:
    """The tar stream of the files in a Debian package.

    Raises:
        DataSetError: dpkg-deb is missing, or cannot read the package.
    """
    program = _program("dpkg-deb", "install dpkg (on Debian it is always there)")
    with subprocess.Popen(
        [program, "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()  # whoever read the stream has what it wanted, or has refused it


def _npm(package: Package, folder: Path) -> None:
    npm = _program("npm", "install Node.js with npm, for instance `apt-get install npm`")
    command = [npm, "pack", "--ignore-scripts", "--loglevel=error", f"{package.name}@{package.version}"]
    _run(command, folder, "check that npm can reach its registry")


def _apt_get(package: Package, folder: Path) -> None:
    hint = f"`apt-get install {package.name}` on Debian or Ubuntu puts the files where this command finds them"
    apt_get = _program("apt-get", hint)
    _run([apt_get, "download", package.name], folder, f"run `apt-get update` first; or {hint}")


def _pip(package: Package, folder: Path) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    # The requirement is in a file because pip takes hashes nowhere else.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "-r", requirements.name]
    _run(command, folder, "check that `python -m pip` works and can reach its index")


def _program(name: str, way_out: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise DataSetError(f"{name} is not installed; {way_out}")
    return found


def _run(command: list[str], folder: Path, way_out: str) -> None:
    name = Path(command[0]).name if command[0] != sys.executable else "pip"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise DataSetError(f"{name}: no answer within {TIMEOUT_S} s; {way_out}") from None
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = next(iter([line for line in lines if line.startswith(ERROR_LINES)] or lines[-1:]), "it did not say why")
        raise DataSetError(f"{name} failed: {said[:300]}; {way_out}")
