"""Whatever a record holds, reading it gives a value or a refusal, and checking it a report."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.canon.encoding import to_json
from tallystick.canon.hashing import blob_name
from tallystick.errors import Refused
from tallystick.proof.tolerant import record as r
from tallystick.proof.tolerant.distances import ZERO, Distances
from tallystick.proof.tolerant.record import checkpoint_name, decode_line, decode_manifest, decode_transcript
from tallystick.proof.tolerant.state import decode_checkpoint, encode_checkpoint
from tallystick.proof.tolerant.tolerance import Tolerance, decode_tolerance
from tolerant_samples import ATTACKER, INTERVAL, STEPS, check, read, train

EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3)
"""Where, as a share of the length; how many bytes go; what comes instead."""
WIDE = Distances(1e9, 1e9, 1e9, 2.0)
TOLERANCE = Tolerance(
    fraction=1.0, weights=WIDE, buffers=WIDE, slots=WIDE, reference=WIDE, error=ZERO, movement=1.0, models=2, replays=1
)


def edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for place, cut, insert in edits:
        at = round(place * len(data))
        data = data[:at] + insert + data[at + cut :]
    return data


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "run"
    train(path, 1)
    return path


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_everywhere(data: bytes) -> None:
    for decode in (
        decode_manifest,
        decode_tolerance,
        lambda data: decode_line(data, 1),
        lambda data: decode_transcript(data, "0" * 64),
        lambda data: decode_checkpoint(data, "checkpoint"),
    ):
        with pytest.raises(Refused):
            decode(data)


@settings(deadline=None, max_examples=100)
@given(edits=EDITS)
def test_an_edited_manifest_or_line_is_the_one_spelling_of_its_value_or_refused(
    record: Path, edits: list[tuple[float, int, bytes]]
) -> None:
    manifest = edited((record / r.MANIFEST).read_bytes(), edits)
    line = edited((record / r.TRANSCRIPT).read_bytes().split(b"\n")[3], edits)
    with contextlib.suppress(Refused):
        assert to_json(decode_manifest(manifest)) == manifest
    with contextlib.suppress(Refused):
        assert to_json(decode_line(line, 1)) == line


@settings(deadline=None, max_examples=100)
@given(edits=EDITS)
def test_an_edited_checkpoint_is_a_checkpoint_or_refused(record: Path, edits: list[tuple[float, int, bytes]]) -> None:
    data = edited((record / checkpoint_name(STEPS)).read_bytes(), edits)
    with contextlib.suppress(Refused):
        encode_checkpoint(decode_checkpoint(data, "checkpoint"))


@settings(deadline=None, max_examples=40)
@given(edits=EDITS, name=st.sampled_from([r.MANIFEST, checkpoint_name(0), checkpoint_name(INTERVAL), r.TRANSCRIPT]))
def test_edited_and_signed_again_any_file_gives_a_report(
    record: Path, edits: list[tuple[float, int, bytes]], name: str
) -> None:
    """The attacker makes hashes, chain and signature fit as far as the bytes can be parsed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(record, Path(folder) / "copy"))
        data = edited((copy / name).read_bytes(), edits)
        (copy / name).write_bytes(data)
        _sign_again(record, copy)
        report = check(copy, TOLERANCE, q=0, samples=0)
    assert report.outcome in {"could_not_check", "mismatch"}


def _sign_again(source: Path, copy: Path) -> None:
    encoded = (copy / r.MANIFEST).read_bytes()
    try:
        manifest = decode_manifest(encoded)
    except Refused:
        manifest = read(source).manifest
    first = blob_name((copy / checkpoint_name(0)).read_bytes())
    if first != manifest.initial:
        encoded = encoded.replace(manifest.initial.encode(), first.encode())
        (copy / r.MANIFEST).write_bytes(encoded)
    name, chain, links = blob_name(encoded), r.start(blob_name(encoded)), []
    for entry in read(source).entries:
        digest = entry.checkpoint and blob_name((copy / checkpoint_name(entry.step + 1)).read_bytes())
        changed = r.Entry(entry.step, entry.indices, entry.batch, entry.loss, digest)
        chain = r.extend(chain, changed)
        links.append(r.Link(changed, chain))
    original = (source / r.TRANSCRIPT).read_bytes()
    if (copy / r.TRANSCRIPT).read_bytes() == original:
        (copy / r.TRANSCRIPT).write_bytes(r.encode_links(links))
    final = links[-1].entry.checkpoint
    assert final is not None
    (copy / r.COMMITMENT).write_bytes(r.commit(ATTACKER, name))
    (copy / r.SIGNATURE).write_bytes(r.sign(ATTACKER, r.Statement(name, chain, len(links), final)))


@pytest.mark.parametrize("name", [r.MANIFEST, r.TRANSCRIPT, r.SIGNATURE, r.COMMITMENT, checkpoint_name(0)])
@pytest.mark.parametrize("kind", ["missing", "link", "pipe", "folder", "empty", "huge"])
def test_a_hostile_directory_is_refused_without_reading_out_of_it(
    record: Path, tmp_path: Path, name: str, kind: str
) -> None:
    copy = Path(shutil.copytree(record, tmp_path / "copy"))
    file = copy / name
    data = file.read_bytes()
    file.unlink()
    if kind == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        file.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "empty":
        file.touch()
    elif kind == "huge":
        with file.open("wb") as sparse:
            sparse.truncate(2**40)
    report = check(copy, TOLERANCE)
    assert report.outcome == "could_not_check"
    refusals = {"missing", "not_a_file", "truncated", "too_large", "malformed", "wrong_digest", "wrong_commitment"}
    assert report.code in refusals
