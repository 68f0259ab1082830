"""Whatever a proof holds, reading it gives a value or a refusal, and verifying it a verdict."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proof_samples import ATTACKER, resign, sample
from tallystick.canon.encoding import to_json
from tallystick.canon.sealed import seal
from tallystick.errors import Refused
from tallystick.proof import commitment as c
from tallystick.proof import manifest as m
from tallystick.proof.commitment import Parent, open_commitment
from tallystick.proof.directory import Places
from tallystick.proof.manifest import Statement, decode_manifest, open_statement
from tallystick.proof.segments import Segment, decode_segment, encode_segment
from tallystick.proof.verify import verify

Edit = tuple[float, int, bytes]
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3)
"""Where, as a share of the length; how many bytes go; what comes instead."""
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
LOSSES = st.integers(-(2**63), 2**63 - 1)
SEGMENTS = st.builds(
    Segment,
    st.integers(1, 10**7),
    DIGESTS,
    LOSSES,
    DIGESTS,
    DIGESTS,
    LOSSES,
    st.none() | st.floats(0, 1e38).map(lambda value: f"{value:.8e}"),
    DIGESTS,
)
FILES: list[m.FileName] = sorted({*m.REQUIRED, m.TEST})


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
@given(SEGMENTS, EDITS)
def test_a_line_is_the_one_spelling_of_its_segment_or_refused(segment: Segment, edits: list[Edit]) -> None:
    honest = encode_segment(segment)
    assert decode_segment(honest) == segment
    data = edited(honest, edits)
    try:
        found = decode_segment(data)
    except Refused:
        return
    assert encode_segment(found) == data


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_everywhere(data: bytes) -> None:
    for decode in (open_statement, decode_manifest, open_commitment, decode_segment):
        with pytest.raises(Refused):
            decode(data)
    for domain, decode_sealed in ((m.DOMAIN, open_statement), (c.DOMAIN, open_commitment)):
        with pytest.raises(Refused):
            decode_sealed(seal(ATTACKER, domain, data))


@settings(deadline=None, max_examples=50)
@given(EDITS)
def test_a_signed_statement_is_the_one_spelling_of_its_value_or_refused(edits: list[Edit]) -> None:
    payload = edited(to_json(Statement(*[digit * 64 for digit in "12345"])), edits)
    try:
        sender, statement = open_statement(seal(ATTACKER, m.DOMAIN, payload))
    except Refused:
        return
    assert (sender, to_json(statement)) == (ATTACKER.identity, payload)


@settings(deadline=None, max_examples=50)
@given(EDITS)
def test_a_signed_commitment_is_the_one_spelling_of_its_value_or_refused(edits: list[Edit]) -> None:
    honest = msgspec.structs.replace(sample().commitment(), parent=Parent("1" * 64, "2" * 64))
    payload = edited(to_json(honest), edits)
    try:
        sender, commitment = open_commitment(seal(ATTACKER, c.DOMAIN, payload))
    except Refused:
        return
    assert (sender, to_json(commitment)) == (ATTACKER.identity, payload)
    assert 1 <= commitment.roots_every <= commitment.segment <= commitment.steps


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
@given(name=st.sampled_from(FILES), edits=EDITS)
def test_edited_and_signed_again_any_file_gives_a_verdict(proof: Path, name: m.FileName, edits: list[Edit]) -> None:
    """The attacker signs hostile bytes with a good signature, so that they reach every decoder and the replay."""
    original = (proof / name).read_bytes()
    data = edited(original, edits)
    with copy_of(proof) as copy:
        resign(copy, {name: data})
        verdict = verify(Places(copy))
    if data == original:
        assert verdict.outcome == "verified"
    elif verdict.outcome == "verified":
        assert name.endswith(".safetensors")  # another spelling of the same tensors
    if verdict.outcome == "mismatch":
        assert verdict.expected != verdict.found or verdict.code == "not_finite"


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from([*FILES, m.MANIFEST, m.SIGNATURE, "checkpoints/00000003.safetensors"]), edits=EDITS)
def test_edited_without_the_key_any_file_is_refused(proof: Path, name: str, edits: list[Edit]) -> None:
    original = (proof / name).read_bytes()
    data = edited(original, edits)
    with copy_of(proof) as copy:
        (copy / name).write_bytes(data)
        assert verify(Places(copy)).outcome == ("verified" if data == original else "could_not_check")
