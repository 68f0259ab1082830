"""Merkle trees against RFC 6962: published vectors, its recursive definition, and proofs that must not open."""

from hashlib import sha256

import pytest

from tallystick.canon.merkle import EMPTY_ROOT, leaf_hash, node_hash, opens, path_to, root_of

# Entries, roots of the first 1..8 entries, and audit paths from the Certificate Transparency reference tests.
ENTRIES = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")] + [
    bytes(range(0x60, 0x70))
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
PATHS = (
    (
        0,
        8,
        (
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ),
    ),
    (2, 3, ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",)),
    (
        1,
        5,
        (
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ),
    ),
)
SIZES = range(1, 21)


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(b"entry %d" % i) for i in range(count)]


def rfc_root(hashes: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word: split at the largest power of two below n."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return sha256(b"\x01" + rfc_root(hashes[:split]) + rfc_root(hashes[split:])).digest()


def test_the_empty_tree_is_the_hash_of_nothing() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert root_of([]) == EMPTY_ROOT


@pytest.mark.parametrize("count", range(1, 9))
def test_roots_are_the_published_ones(count: int) -> None:
    assert root_of([leaf_hash(entry) for entry in ENTRIES[:count]]).hex() == ROOTS[count - 1]


@pytest.mark.parametrize(("index", "count", "path"), PATHS)
def test_paths_are_the_published_ones(index: int, count: int, path: tuple[str, ...]) -> None:
    hashes = [leaf_hash(entry) for entry in ENTRIES[:count]]
    assert [node.hex() for node in path_to(hashes, index)] == list(path)


@pytest.mark.parametrize("count", SIZES)
def test_row_by_row_equals_the_recursive_definition(count: int) -> None:
    assert root_of(leaves(count)) == rfc_root(leaves(count))


@pytest.mark.parametrize("count", SIZES)
def test_each_leaf_opens_at_its_own_index_and_at_no_other(count: int) -> None:
    tree = leaves(count)
    root = root_of(tree)
    for index, leaf in enumerate(tree):
        path = path_to(tree, index)
        assert [claimed for claimed in range(-2, count + 3) if opens(root, leaf, claimed, count, path)] == [index]


@pytest.mark.parametrize("count", SIZES)
def test_another_leaf_does_not_open(count: int) -> None:
    tree = leaves(count)
    root = root_of(tree)
    for index in range(count):
        path = path_to(tree, index)
        others = [*tree[:index], *tree[index + 1 :], leaf_hash(b"stranger")]
        assert not any(opens(root, other, index, count, path) for other in others)


@pytest.mark.parametrize("count", SIZES)
def test_a_path_that_was_touched_does_not_open(count: int) -> None:
    tree = leaves(count)
    root = root_of(tree)
    for index, leaf in enumerate(tree):
        path = path_to(tree, index)
        for broken in touched(path):
            assert not opens(root, leaf, index, count, broken)


def touched(path: list[bytes]) -> list[list[bytes]]:
    """Paths one step longer, one shorter, one byte off, or with steps swapped or of the wrong size."""
    longer = [[*path, bytes(32)], [bytes(32), *path], [*path, b""]]
    shorter = [path[:i] + path[i + 1 :] for i in range(len(path))]
    off = [[*path[:i], bytes([node[0] ^ 1]) + node[1:], *path[i + 1 :]] for i, node in enumerate(path)]
    resized = [[*path[:i], size, *path[i + 1 :]] for i, node in enumerate(path) for size in (node[:-1], node + b"\0")]
    swapped = [path[::-1]] if len(path) > 1 else []
    return longer + shorter + off + resized + swapped


def test_bytes_cannot_move_between_a_leaf_and_its_sibling() -> None:
    """H(1 | a | b) stays the same when a byte moves from b to a; fixed sizes are what refuses it."""
    left, right = leaves(2)
    root = root_of([left, right])
    assert opens(root, left, 0, 2, [right])
    assert not opens(root, left + right[:1], 0, 2, [right[1:]])


def test_an_inner_node_is_not_the_leaf_that_holds_its_children() -> None:
    """The second-preimage attack on trees without separate domains: a leaf whose data is two child hashes."""
    left, right = leaves(2)
    forged = leaf_hash(left + right)
    assert forged != node_hash(left, right)
    assert not opens(root_of([left, right]), forged, 0, 1, [])


def test_an_inner_node_does_not_open_as_a_leaf_of_the_true_count() -> None:
    tree = leaves(4)
    inner = node_hash(tree[0], tree[1])
    above = [node_hash(tree[2], tree[3])]
    assert not any(opens(root_of(tree), inner, index, 4, above) for index in range(4))


def test_no_entry_is_duplicated_to_fill_a_row() -> None:
    """Doubling the last leaf must change the root; in Bitcoin's tree it did not (CVE-2012-2459)."""
    for count in SIZES:
        tree = leaves(count)
        assert root_of([*tree, tree[-1]]) != root_of(tree)


@pytest.mark.parametrize(("index", "count"), [(0, 0), (-1, 3), (3, 3)])
def test_an_index_outside_the_tree_has_no_path(index: int, count: int) -> None:
    with pytest.raises(IndexError, match="leaves"):
        path_to(leaves(count), index)
    assert not opens(root_of(leaves(count)), leaf_hash(b""), index, count, [])


def test_leaf_hash_takes_a_view_without_copying_meaning() -> None:
    assert leaf_hash(memoryview(b"xabcx")[1:4]) == leaf_hash(b"abc") == sha256(b"\x00abc").digest()
