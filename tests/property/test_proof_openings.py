"""Any chunk of any tensors opens against their root, and nothing else does."""

from dataclasses import replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.program.optimizers import Tensors
from tallystick.proof.roots import CHUNK_BYTES, STATE, ChunkOpening, open_chunk, opening_holds, state_root

CONTEXT = (3).to_bytes(8, "big")
SIZES = st.one_of(st.integers(1, 9), st.sampled_from([1023, 1024, 1025, 2048, 5000]))
DIGESTS = st.binary(min_size=32, max_size=32)


def tensors_of(sizes: dict[str, int]) -> Tensors:
    return {name: torch.arange(size, dtype=torch.int32) for name, size in sizes.items()}


@st.composite
def openings(draw: st.DrawFn) -> tuple[str, ChunkOpening]:
    """A root and the opening of one of the chunks under it."""
    sizes = draw(st.dictionaries(st.text("abc", min_size=1, max_size=3), SIZES, min_size=1, max_size=6))
    tensors = tensors_of(sizes)
    name = draw(st.sampled_from(sorted(sizes)))
    index = draw(st.integers(0, (4 * sizes[name] - 1) // CHUNK_BYTES))
    return state_root(tensors, 3), open_chunk(STATE, CONTEXT, tensors, name, index)


@settings(deadline=None, max_examples=60)
@given(openings())
def test_every_chunk_opens(case: tuple[str, ChunkOpening]) -> None:
    root, opening = case
    assert opening_holds(STATE, CONTEXT, root, opening)


@settings(deadline=None, max_examples=60)
@given(openings(), st.data())
def test_an_altered_opening_does_not_hold(case: tuple[str, ChunkOpening], data: st.DataObject) -> None:
    root, opening = case
    big = st.integers(-(2**70), 2**70)
    paths = st.lists(DIGESTS, max_size=4).map(tuple)
    fields = {
        "name": st.text(max_size=3),
        "dtype": st.sampled_from(["float32", "int64", "uint8", "complex"]),
        "shape": st.lists(big, max_size=3).map(tuple),
        "index": big,
        "data": st.binary(max_size=20),
        "chunk_path": paths,
        "tensor_index": big,
        "tensors": big,
        "tensor_path": paths,
    }
    changes: dict[str, Any] = data.draw(st.fixed_dictionaries({}, optional=fields))
    changed = replace(opening, **changes)
    assert opening_holds(STATE, CONTEXT, root, changed) == (changed == opening)
