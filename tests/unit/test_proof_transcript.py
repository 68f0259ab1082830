"""The transcript's bytes and its chain."""

from hashlib import sha256

import msgspec
import pytest

from tallystick.errors import Refused
from tallystick.proof import transcript as t
from tallystick.proof.transcript import Entry, Link, chained, decode_transcript, encode_transcript, extend, start

SPEC, ROOT = "11" * 32, "22" * 32


def entry(step: int) -> Entry:
    return Entry(step=step, root="aa" * 32, tensors=["bb" * 32, "cc" * 32], total="dd" * 32, loss=-5)


def links(count: int = 3) -> tuple[Link, ...]:
    return tuple(chained(start(SPEC, ROOT), map(entry, range(count))))


def parts(*values: bytes) -> str:
    return sha256(b"".join(len(v).to_bytes(8, "big") + v for v in values)).hexdigest()


def refusal(data: bytes, tensors: int = 2) -> str:
    with pytest.raises(Refused) as caught:
        decode_transcript(data, tensors)
    return caught.value.code


def test_a_line_is_the_entry_and_the_chain_hash_of_its_bytes() -> None:
    begin = parts(b"tallystick/transcript", b"\x11" * 32, b"\x22" * 32)
    body = b'{"step":0,"root":"%b","tensors":["%b","%b"],"total":"%b","loss":-5}' % tuple(
        pair * 32 for pair in (b"aa", b"bb", b"cc", b"dd")
    )
    chain = parts(b"tallystick/transcript/entry", bytes.fromhex(begin), body)
    assert start(SPEC, ROOT) == begin
    assert encode_transcript(links(1)) == b'{"entry":' + body + b',"chain":"' + chain.encode() + b'"}\n'


def test_a_transcript_round_trips() -> None:
    assert decode_transcript(encode_transcript(links()), 2) == links()
    assert decode_transcript(b"", 2) == ()


@pytest.mark.parametrize(
    "change", [{"step": 1}, {"root": "ab" * 32}, {"tensors": ["cc" * 32, "bb" * 32]}, {"total": "00" * 32}, {"loss": 0}]
)
def test_every_field_of_an_entry_changes_the_chain(change: dict[str, object]) -> None:
    chain = start(SPEC, ROOT)
    assert extend(chain, msgspec.structs.replace(entry(0), **change)) != extend(chain, entry(0))


def test_the_chain_starts_from_the_specification_and_the_initial_root() -> None:
    assert len({start(SPEC, ROOT), start(ROOT, SPEC), start(SPEC, SPEC)}) == 3


def test_a_transcript_that_is_cut_off_is_refused() -> None:
    assert refusal(encode_transcript(links())[:-1]) == "malformed"


def test_an_entry_with_another_number_of_tensors_is_refused() -> None:
    assert refusal(encode_transcript(links()), tensors=3) == "malformed"


def test_an_entry_with_far_too_many_tensors_is_refused_by_its_size() -> None:
    many = msgspec.structs.replace(entry(0), tensors=["bb" * 32] * 100)
    assert refusal(encode_transcript(chained(start(SPEC, ROOT), [many]))) == "too_large"


def test_a_transcript_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_transcript(links())
    monkeypatch.setattr(t, "MAX_TRANSCRIPT_BYTES", len(data) - 1)
    assert refusal(data) == "too_large"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b'{"entry"', b'{ "entry"', "not_canonical"),
        (b'"step":0', b'"step":0,"step":0', "not_canonical"),
        (b'"step":0', b'"step":-0', "not_canonical"),
        (b'"step":0', b'"step":-1', "malformed"),
        (b'"loss":-5', b'"loss":-5.5', "malformed"),
        (b'"loss":-5', b'"loss":1' + b"0" * 30, "malformed"),
        (b'"loss":-5', b'"loss":-5,"note":1', "malformed"),
        (b"aa" * 32, b"AA" * 32, "malformed"),
        (b"aa" * 32, b"aa" * 31, "malformed"),
        (b"aa" * 32, b"aa" * 31 + b"a\\n", "malformed"),
        (b"aa" * 32, b"aa" * 32 + b"\\n", "malformed"),
        (b"\n", b"\n\n", "malformed"),
        (b"\n", b"\r\n", "not_canonical"),
    ],
)
def test_another_spelling_is_refused(old: bytes, new: bytes, code: str) -> None:
    assert refusal(encode_transcript(links(1)).replace(old, new)) == code
