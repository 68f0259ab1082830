"""Merkle proofs of any list: each entry opens, and no change to any part of a proof does."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.canon.merkle import leaf_hash, opens, path_to, root_of

LISTS = st.lists(st.binary(max_size=3), min_size=1, max_size=70)


@settings(deadline=None)
@given(LISTS, st.data())
def test_every_entry_opens_and_every_flipped_byte_closes_it(entries: list[bytes], data: st.DataObject) -> None:
    leaves = [leaf_hash(entry) for entry in entries]
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, path = root_of(leaves), path_to(leaves, index)
    assert opens(root, leaves[index], index, len(leaves), path)
    parts = [root, leaves[index], *path]
    touched = data.draw(st.integers(0, len(parts) - 1))
    place, flip = data.draw(st.integers(0, 31)), data.draw(st.integers(1, 255))
    part = bytearray(parts[touched])
    part[place] ^= flip
    parts[touched] = bytes(part)
    assert not opens(parts[0], parts[1], index, len(leaves), parts[2:])


@settings(deadline=None)
@given(LISTS, LISTS)
def test_different_lists_have_different_roots(one: list[bytes], two: list[bytes]) -> None:
    assert (root_of([leaf_hash(entry) for entry in one]) == root_of([leaf_hash(entry) for entry in two])) == (
        one == two
    )


@settings(deadline=None)
@given(
    root=st.binary(max_size=33),
    leaf=st.binary(max_size=33),
    index=st.integers(-1, 2**64),
    count=st.integers(-1, 2**64),
    path=st.lists(st.binary(min_size=31, max_size=33), max_size=66),
)
def test_arbitrary_proofs_are_answered_with_no(
    root: bytes, leaf: bytes, index: int, count: int, path: list[bytes]
) -> None:
    trivial = (index, count, path) == (0, 1, []) and root == leaf
    assert opens(root, leaf, index, count, path) == trivial
