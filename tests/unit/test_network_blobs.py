"""Blobs by hash: what is read is what was named, or nothing."""

from pathlib import Path

import pytest

from tallystick.canon.hashing import blob_name
from tallystick.errors import Refused
from tallystick.network.blobs import BlobMissingError, BlobStore


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    (tmp_path / "blobs").mkdir()
    return BlobStore((tmp_path / "blobs").as_uri())


def test_a_blob_comes_back_under_its_hash(store: BlobStore) -> None:
    name = store.put(b"notches")
    assert name == blob_name(b"notches")
    assert store.get(name, 100) == b"notches"


def test_a_plain_folder_is_a_store_as_well(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    name = BlobStore(str(tmp_path / "plain")).put(b"x")
    assert BlobStore((tmp_path / "plain").as_uri()).get(name, 1) == b"x"


@pytest.mark.parametrize("url", ["foo://bar", "{file}", "{file}-mistyped", ""])
def test_a_url_that_is_no_store_is_named(tmp_path: Path, url: str) -> None:
    (tmp_path / "file").touch()
    url = url.format(file=tmp_path / "file")
    with pytest.raises(BlobMissingError, match=f"blob store {url}: " if url else "is empty"):
        BlobStore(url)


def test_storing_twice_is_harmless_and_leaves_no_drafts(store: BlobStore, tmp_path: Path) -> None:
    assert store.put(b"same") == store.put(b"same")
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == [blob_name(b"same")]


def test_a_blob_that_was_changed_in_the_store_is_refused(store: BlobStore, tmp_path: Path) -> None:
    name = store.put(b"honest")
    (tmp_path / "blobs" / name).write_bytes(b"forged")
    with pytest.raises(Refused) as refused:
        store.get(name, 100)
    assert refused.value.code == "wrong_blob"


def test_a_blob_over_the_limit_is_refused_before_it_is_read(store: BlobStore, tmp_path: Path) -> None:
    name = blob_name(b"")
    with (tmp_path / "blobs" / name).open("wb") as file:
        file.truncate(2**40)  # sparse: reading it would need a terabyte
    with pytest.raises(Refused) as refused:
        store.get(name, 1000)
    assert refused.value.code == "too_large"


def test_a_missing_blob_says_so(store: BlobStore) -> None:
    with pytest.raises(BlobMissingError):
        store.get("0" * 64, 100)


@pytest.mark.parametrize("name", ["../key", "", "/etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_name_that_is_no_hash_never_becomes_a_path(store: BlobStore, name: str) -> None:
    with pytest.raises(Refused) as refused:
        store.get(name, 100)
    assert refused.value.code == "bad_name"
