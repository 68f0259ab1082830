"""Attacks with files that are not what a reader expects: rows 20 to 22."""

import re
from pathlib import Path
from typing import Final

import torch

from tallystick.canon.hashing import blob_name
from tallystick.program.spec import encode_spec
from tallystick.program.tensors import to_blob
from tallystick.proof import manifest as m
from tallystick.proof.attacks import bench as b
from tallystick.proof.attacks.attempt import Attack, Finding
from tallystick.proof.attacks.bench import Bench, forged_copy, resign
from tallystick.proof.dispute.referee.openings import (
    CHUNK_BYTES,
    MissingError,
    Opened,
    Opening,
    chunk_leaves,
    data_root,
)
from tallystick.proof.policy import Listed

MARK: Final = "unpickled"
HUGE_BYTES: Final = 3 * 2**30
WEIGHT: Final = "parameter/4.weight"


def linked_file(bench: Bench, path: Path) -> None:
    """The final state is a symbolic link out of the proof, to a file with the right bytes."""
    forged_copy(bench, path)
    outside = path.with_name(f"{path.name}-outside")
    (path / m.FINAL).rename(outside)
    (path / m.FINAL).symlink_to(outside)


def pickled_checkpoint(bench: Bench, path: Path) -> None:
    """A checkpoint that runs a command where it is unpickled, as `torch.load` of old would have done."""
    forged_copy(bench, path)
    code = f"cos\nsystem\n(S'touch {path.parent / MARK}'\ntR.".encode()
    first = path / m.CHECKPOINTS / f"{b.SEGMENT:08d}.safetensors"
    lines = (path / m.SEGMENTS).read_bytes().replace(blob_name(first.read_bytes()).encode(), blob_name(code).encode())
    first.write_bytes(code)
    resign(path, {m.SEGMENTS: lines})


def huge_file(bench: Bench, path: Path) -> None:
    """Three gibibytes of nothing: cheap for the prover to store, not for a verifier to read."""
    forged_copy(bench, path)
    with (path / m.FINAL).open("r+b") as file:
        file.truncate(HUGE_BYTES)


def huge_shape(bench: Bench, path: Path) -> None:
    """A specification with records of more numbers than fit into any machine."""
    forged_copy(bench, path)
    large = encode_spec(bench.spec).replace(b'"shape":[160,16]', b'"shape":[160,1000000000000]')
    resign(path, {m.SPEC: large})


def not_a_number(bench: Bench, path: Path) -> None:
    """A NaN in a final weight: its distance to anything is not greater than any threshold."""
    forged_copy(bench, path)
    weight = bench.states[-1][WEIGHT].clone()
    weight[0, 0] = float("nan")
    resign(path, {m.FINAL: to_blob({**bench.states[-1], WEIGHT: weight})})


def negative_zero(bench: Bench, path: Path) -> None:
    """Row 21: 0 spelled as -0, which is equal to it and has another digest."""
    forged_copy(bench, path)
    name = "parameter/1.bias"
    resign(path, {m.INITIAL: to_blob({**bench.initial, name: -torch.zeros_like(bench.initial[name])})})


def repeated_key(bench: Bench, path: Path) -> None:
    """Row 21: a key twice in one line, so that two readers can take two values from the same signed bytes."""
    forged_copy(bench, path)
    lines = (path / m.SEGMENTS).read_bytes()
    resign(path, {m.SEGMENTS: re.sub(rb'"mean_loss":', b'"mean_loss":1,"mean_loss":', lines, count=1)})


def node_as_leaf(bench: Bench, path: Path) -> Finding:
    """Row 22: of a tensor of two chunks, a referee is shown one that is made of the two chunks' hashes."""
    genuine = bytes(at % 251 for at in range(2 * CHUNK_BYTES))
    inner = b"".join(chunk_leaves(genuine))
    opening = Opening(line=0, line_path=[], chunk=0, data=inner, chunk_path=[])
    shown = Opened(data_root(genuine), lines=1, below=1, openings=[opening])
    try:
        shown.element(0, "uint8", known_size(genuine, inner), 0)
    except MissingError:
        return Finding("caught", "opening_refused")
    return Finding("accepted", "opened")


def known_size(genuine: bytes, shown: bytes) -> int:
    """How many elements the referee takes the tensor to have: what the program says, whatever is shown."""
    return len(genuine)


ATTACKS: Final = (
    Attack(20, "a link out of the proof", linked_file, "not_a_file"),
    Attack(20, "a pickle for a checkpoint", pickled_checkpoint, "malformed", Listed((1,))),
    Attack(20, "a file of 3 GiB", huge_file, "too_large"),
    Attack(20, "a shape beyond all memory", huge_shape, "malformed"),
    Attack(20, "NaN in a weight", not_a_number, "not_canonical"),
    Attack(21, "-0 in place of 0", negative_zero, "not_canonical"),
    Attack(21, "a key repeated", repeated_key, "not_canonical"),
    Attack(22, "an inner node as a leaf", lambda bench, path: path.mkdir(), "opening_refused", judge=node_as_leaf),
)
