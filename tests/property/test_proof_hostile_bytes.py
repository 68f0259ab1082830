"""Whatever a proof holds, reading it gives a value or a refusal, and verifying it a verdict."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proof_samples import ATTACKER, forge, sample
from tallystick.canon.encoding import to_json
from tallystick.canon.sealed import seal
from tallystick.errors import Refused
from tallystick.proof import manifest as m
from tallystick.proof.manifest import Statement, decode_manifest, open_statement
from tallystick.proof.transcript import Entry, chained, decode_transcript, encode_transcript, start
from tallystick.proof.verify import verify

Edit = tuple[float, int, bytes]
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3)
"""Where, as a share of the length; how many bytes go; what comes instead."""
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
ENTRIES = st.builds(
    Entry,
    st.integers(0, 10**7),
    DIGESTS,
    st.lists(DIGESTS, min_size=2, max_size=2),
    DIGESTS,
    st.integers(-(2**63), 2**63 - 1),
)


def edited(data: bytes, edits: list[Edit]) -> bytes:
    for place, cut, insert in edits:
        at = round(place * len(data))
        data = data[:at] + insert + data[at + cut :]
    return data


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "proof"
    sample().write(path)
    return path


@contextmanager
def copy_of(proof: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(proof, Path(folder) / "proof"))


@settings(deadline=None, max_examples=50)
@given(st.lists(ENTRIES, max_size=4), EDITS)
def test_a_transcript_is_the_one_spelling_of_its_links_or_refused(entries: list[Entry], edits: list[Edit]) -> None:
    honest = encode_transcript(chained(start("0" * 64, "1" * 64), entries))
    assert [link.entry for link in decode_transcript(honest, 2)] == entries
    data = edited(honest, edits)
    try:
        links = decode_transcript(data, 2)
    except Refused:
        return
    assert encode_transcript(links) == data


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_everywhere(data: bytes) -> None:
    for decode in (open_statement, decode_manifest):
        with pytest.raises(Refused):
            decode(data)
    if data:
        with pytest.raises(Refused):
            decode_transcript(data, 2)


@settings(deadline=None, max_examples=50)
@given(EDITS)
def test_a_signed_statement_is_the_one_spelling_of_its_value_or_refused(edits: list[Edit]) -> None:
    payload = edited(to_json(Statement("1" * 64, "2" * 64, "3" * 64)), edits)
    try:
        sender, statement = open_statement(seal(ATTACKER, m.DOMAIN, payload))
    except Refused:
        return
    assert (sender, to_json(statement)) == (ATTACKER.identity, payload)


@settings(deadline=None, max_examples=50)
@given(edits=EDITS)
def test_an_edited_manifest_is_the_one_spelling_of_its_value_or_refused(proof: Path, edits: list[Edit]) -> None:
    data = edited((proof / m.MANIFEST).read_bytes(), edits)
    try:
        manifest = decode_manifest(data)
    except Refused:
        return
    assert to_json(manifest) == data


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(sorted({*m.REQUIRED, m.TEST})), edits=EDITS)
def test_edited_and_signed_again_any_file_gives_a_verdict(proof: Path, name: m.FileName, edits: list[Edit]) -> None:
    """The attacker signs hostile bytes with a good signature, so that they reach every decoder and the replay."""
    original = (proof / name).read_bytes()
    data = edited(original, edits)
    with copy_of(proof) as copy:
        forge(copy, {name: data})
        verdict = verify(copy)
    if data == original:
        assert verdict.outcome == "verified"
    elif verdict.outcome == "verified":
        assert name.endswith(".safetensors")  # another spelling of the same tensors
    if verdict.outcome == "mismatch":
        assert verdict.expected != verdict.found or verdict.code == "not_finite"


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(sorted({*m.REQUIRED, m.TEST, m.MANIFEST, m.SIGNATURE})), edits=EDITS)
def test_edited_without_the_key_any_file_is_refused(proof: Path, name: str, edits: list[Edit]) -> None:
    original = (proof / name).read_bytes()
    data = edited(original, edits)
    with copy_of(proof) as copy:
        (copy / name).write_bytes(data)
        assert verify(copy).outcome == ("verified" if data == original else "could_not_check")
