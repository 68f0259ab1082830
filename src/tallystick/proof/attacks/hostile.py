"""Attacks with files that are not what a reader expects: rows 20 to 22."""

import re
from pathlib import Path
from typing import Final

import torch

from tallystick.canon.hashing import blob_name
from tallystick.canon.merkle import leaf_hash
from tallystick.program.spec import encode_spec
from tallystick.program.tensors import tensor_bytes, to_blob
from tallystick.proof import manifest as m
from tallystick.proof.attacks import bench as b
from tallystick.proof.attacks.attempt import Attack, Finding
from tallystick.proof.attacks.bench import Bench, forged_copy, resign
from tallystick.proof.policy import Listed
from tallystick.proof.roots import CHUNK_BYTES, RECORDS, ChunkOpening, opening_holds, records_root

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
    """Row 22: under the root of a tensor of two chunks, one chunk is opened that is made of the two chunks' hashes."""
    genuine = (torch.arange(2 * CHUNK_BYTES) % 251).to(torch.uint8)
    root = records_root({"x": genuine})
    data = tensor_bytes(genuine)
    inner = b"".join(leaf_hash(data[at : at + CHUNK_BYTES]) for at in (0, CHUNK_BYTES))
    opening = ChunkOpening("x", "uint8", (len(inner),), 0, inner, (), 0, 1, ())
    held = opening_holds(RECORDS, b"", root, opening)
    return Finding("accepted", "opened") if held else Finding("caught", "opening_refused")


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
