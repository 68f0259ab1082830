"""Any chunk of any line opens against the root of a step's lines, and nothing else does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.canon.merkle import path_to, root_of
from tallystick.proof.dispute.referee import openings as o
from tallystick.proof.dispute.referee.openings import CHUNK_BYTES, MissingError, Opened, Opening

SIZES = st.one_of(st.integers(1, 9), st.sampled_from([CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20_000]))
DIGESTS = st.binary(min_size=32, max_size=32)


@dataclass(frozen=True)
class Case:
    """A root over lines of so many bytes, and one chunk under it."""

    root: bytes
    sizes: list[int]
    opening: Opening

    def shows(self, opening: Opening, below: int | None = None) -> bool:
        """Whether `opening` is taken for the chunk that the case is about."""
        lines = len(self.sizes)
        shown = Opened(self.root, lines, lines if below is None else below, [opening])
        line, first = self.opening.line, self.opening.chunk * CHUNK_BYTES
        try:
            value = shown.element(line, "uint8", self.sizes[line], first)
        except MissingError:
            return False
        assert value == self.opening.data[0]
        return True


def case_of(sizes: Sequence[int], line: int, chunk: int) -> Case:
    contents = [bytes((7 * number + at) % 256 for at in range(size)) for number, size in enumerate(sizes)]
    leaves = [o.data_root(data) for data in contents]
    data = contents[line][chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
    paths = path_to(leaves, line), path_to(o.chunk_leaves(contents[line]), chunk)
    return Case(root_of(leaves), list(sizes), Opening(line, paths[0], chunk, data, paths[1]))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = draw(st.lists(SIZES, min_size=1, max_size=6))
    line = draw(st.integers(0, len(sizes) - 1))
    return case_of(sizes, line, draw(st.integers(0, o.chunk_count(sizes[line]) - 1)))


@settings(deadline=None, max_examples=60)
@given(cases())
def test_every_chunk_opens_if_its_line_is_agreed(case: Case) -> None:
    assert case.shows(case.opening)
    assert not case.shows(case.opening, below=case.opening.line)


@settings(deadline=None, max_examples=60)
@given(cases(), st.data())
def test_an_altered_opening_does_not_hold(case: Case, data: st.DataObject) -> None:
    big = st.integers(0, 2**70)
    paths = st.lists(DIGESTS, max_size=4)
    fields = {"line": big, "line_path": paths, "chunk": big, "data": st.binary(max_size=20), "chunk_path": paths}
    changes: dict[str, Any] = data.draw(st.fixed_dictionaries({}, optional=fields))
    changed = msgspec.structs.replace(case.opening, **changes)
    assert case.shows(changed) == (changed == case.opening)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: {"data": bytes([x.data[0] ^ 1]) + x.data[1:]},
        lambda x: {"data": x.data[:-1]},
        lambda x: {"data": x.data + b"\0"},
        lambda x: {"chunk": x.chunk + 1},
        lambda x: {"line": x.line + 1},
        lambda x: {"chunk_path": [*x.chunk_path, bytes(32)]},
        lambda x: {"chunk_path": x.chunk_path[:-1]},
        lambda x: {"line_path": [bytes(32), *x.line_path[1:]]},
        lambda x: {"line_path": x.line_path[:-1]},
        lambda x: {"line_path": [b"short", *x.line_path[1:]]},
    ],
)
def test_no_part_of_an_opening_can_be_changed(change: Any) -> None:
    for line, chunk in ((0, 0), (1, 0), (1, 1), (1, 2), (2, 0)):
        case = case_of([5, 2 * CHUNK_BYTES + 3, 9], line, chunk)
        changed = msgspec.structs.replace(case.opening, **change(case.opening))
        assert changed == case.opening or not case.shows(changed)


def test_a_chunk_of_the_wrong_size_does_not_open_even_where_the_root_was_made_for_it() -> None:
    """A party hashes nine bytes as the only chunk of a line that has eight."""
    data = bytes(range(9))
    opening = Opening(0, [], 0, data, [])
    with pytest.raises(MissingError, match="9 bytes"):
        Opened(o.data_root(data), 1, 1, [opening]).element(0, "uint8", 8, 0)
