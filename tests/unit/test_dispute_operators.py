"""The referee's rules say the same as the kernels, for every operator that it knows."""

import pytest
import torch

from dispute_rules import all_places, differences, lowered_call
from exact_examples import EXAMPLES, Call
from tallystick.exact.kernels import OPERATORS

UNKNOWN = {
    "aten.index.Tensor",
    "aten.index_add.default",
    "aten.index_put.default",
    "aten.scatter_add.default",
}
"""What a dispute cannot be settled about yet; docs/dispute.md names them too."""

UNIFORM: list[Call] = [((torch.tensor([7, 2**32 - 1]), [3, 5], 4), {})]


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_each_line_of_an_operator_is_what_the_kernels_make(op: str) -> None:
    known = set()
    for args, kwargs in EXAMPLES.get(op, UNIFORM):
        lines, held, first = lowered_call(op, args, kwargs)
        for number, line in enumerate(lines, start=first):
            known.add(line.rule != "unknown")
            if line.rule != "unknown":
                wrong = differences(line, number, held, all_places(line, 12))
                assert not wrong, f"{line.rule} of {op}{[getattr(a, 'shape', a) for a in args]}: {wrong[:3]}"
    assert known == {op not in UNKNOWN}
