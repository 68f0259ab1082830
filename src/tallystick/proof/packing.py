"""The part of a proof that is published: all of it but the states between segments, and on wish the records.

The checkpoints stay with the prover, who hands over those that an auditor's sample asks for.
"""

import os
import shutil
from pathlib import Path

from tallystick.errors import Refused
from tallystick.proof import manifest as m
from tallystick.proof.directory import Places, open_proof
from tallystick.proof.writer import ProofExistsError


def pack(proof: Path, out: Path, *, without_data: bool) -> tuple[int, int]:
    """Copies the published part of `proof` to `out`; its size in bytes, and that of the checkpoints left behind.

    Raises:
        Refused: `proof` is not a finished proof.
        ProofExistsError: `out` is there and is not an empty directory.
    """
    names: list[str] = [m.SIGNATURE, m.MANIFEST, *open_proof(Places(proof)).manifest.names]
    if without_data:
        names = [name for name in names if name not in {m.TRAIN, m.TEST}]
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise ProofExistsError(f"{out}: is there already and is not an empty directory; choose another place")
    missing = [name for name in names if not (proof / name).is_file()]
    if missing:
        raise Refused("missing", f"{missing[0]}: is not in {proof}; pack a proof that has all of its files")
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(proof / name, out / name)
    return _size(out), _size(proof / m.CHECKPOINTS)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0
