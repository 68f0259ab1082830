"""Archives made by strangers: only the bytes that were asked for come out, or a refusal, and nothing lands on disk."""

import gzip
import io
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tallystick.errors import Refused
from tallystick.network.datasets.archives import read_members, unzip
from tallystick.network.datasets.catalog import Member

DATA = b"seven digits"


def member(path: str = "package/a", data: bytes = DATA) -> Member:
    return Member(path, len(data), sha256(data).hexdigest())


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def read(archive: bytes, *wanted: Member, limit: int = 2**20) -> list[bytes]:
    return read_members(io.BytesIO(gzip.compress(archive)), wanted, "a.tgz", gzipped=True, limit=limit)


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(Refused) as caught:
        action()
    return caught.value.code


def test_members_come_in_the_order_they_were_asked_for() -> None:
    other = b"other"
    archive = tar(entry("./package/b", other), entry("package/c", b"c"), entry("package/a", DATA))
    assert read(archive, member(), member("package/b", other)) == [DATA, other]


def test_an_uncompressed_stream_is_read_too() -> None:
    archive = io.BytesIO(tar(entry("package/a", DATA)))
    assert read_members(archive, [member()], "a.deb", gzipped=False) == [DATA]


def test_names_that_lead_elsewhere_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    hostile = [entry("../escaped", b"x"), entry(f"{tmp_path}/absolute", b"x"), entry("here", b"x")]
    assert read(tar(*hostile, entry("package/a", DATA)), member()) == [DATA]
    assert list(tmp_path.rglob("*")) == [inside]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_ordinary_file_is_refused(kind: bytes) -> None:
    archive = tar(entry("secret", DATA), entry("package/a", kind=kind, link="secret"))
    assert refusal(lambda: read(archive, member())) == "not_a_file"


def test_a_second_member_of_one_name_is_refused() -> None:
    archive = tar(entry("package/a", DATA), entry("package/a", DATA))
    assert refusal(lambda: read(archive, member())) == "repeated_member"


def test_a_missing_member_is_named() -> None:
    with pytest.raises(Refused, match=r"package/a.*missing_member"):
        read(tar(entry("a", DATA), entry("package/package/a", DATA)), member())


def test_a_member_of_another_size_is_refused_before_it_is_read() -> None:
    assert refusal(lambda: read(tar(entry("package/a", DATA + b"!")), member())) == "wrong_size"


def test_a_member_with_other_bytes_is_refused_with_both_digests() -> None:
    found, expected = sha256(DATA.upper()).hexdigest(), sha256(DATA).hexdigest()
    with pytest.raises(Refused, match=rf"{found}, expected {expected} \[digest_mismatch\]"):
        read(tar(entry("package/a", DATA.upper())), member())


def test_an_archive_that_unpacks_to_too_much_is_refused() -> None:
    bomb = tar(entry("zeros", bytes(2**20)), entry("package/a", DATA))
    assert refusal(lambda: read(bomb, member(), limit=2**19)) == "too_large"


def test_a_header_that_claims_a_huge_name_is_bounded_too() -> None:
    long_name, _ = entry("././@LongLink", kind=tarfile.GNUTYPE_LONGNAME)
    long_name.size = 2**40
    archive = long_name.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)
    assert refusal(lambda: read(archive, member(), limit=2**19)) == "too_large"


@pytest.mark.parametrize("damage", [lambda b: b[:-40], lambda b: b"no" + b, lambda b: b"", lambda b: b[:300] + b[310:]])
def test_a_damaged_archive_is_refused(damage: Callable[[bytes], bytes]) -> None:
    noise = b"".join(sha256(bytes([i])).digest() for i in range(100))
    archive = damage(gzip.compress(tar(entry("noise", noise), entry("package/a", DATA))))
    assert refusal(lambda: read_members(io.BytesIO(archive), [member()], "a.tgz", gzipped=True)) == "malformed"


def test_unzip_stops_at_its_limit() -> None:
    assert unzip(gzip.compress(bytes(1000)), 1000, "x") == bytes(1000)
    assert refusal(lambda: unzip(gzip.compress(bytes(1001)), 1000, "x")) == "too_large"
    assert refusal(lambda: unzip(gzip.compress(DATA)[:-3], 1000, "x")) == "malformed"
