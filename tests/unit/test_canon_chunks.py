"""Snapshots in chunks: each is checked alone, and nothing but the right bytes passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.canon.chunks import CHUNK_BYTES, check_chunk, check_manifest, chunk, manifest_of, root_of
from tallystick.errors import Refused

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]


@pytest.mark.parametrize("size", SIZES)
def test_chunks_put_together_are_the_data(size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    manifest = manifest_of(data)
    count = check_manifest(manifest, root_of(manifest))
    parts = [chunk(data, i) for i in range(count)]
    for index, part in enumerate(parts):
        check_chunk(manifest, index, part)
    assert b"".join(parts) == data


def test_a_changed_chunk_is_refused() -> None:
    data = b"x" * (CHUNK_BYTES + 5)
    with pytest.raises(Refused, match="chunk 1"):
        check_chunk(manifest_of(data), 1, b"x" * 4 + b"y")


@given(st.binary(max_size=200))
def test_no_other_manifest_passes(other: bytes) -> None:
    manifest = manifest_of(b"data")
    if other != manifest:
        with pytest.raises(Refused):
            check_manifest(other, root_of(manifest))


def test_a_manifest_whose_size_and_chunks_differ_is_refused_even_if_it_is_certified() -> None:
    manifest = (3 * CHUNK_BYTES).to_bytes(8, "big") + b"d" * 32
    with pytest.raises(Refused):
        check_manifest(manifest, root_of(manifest))
