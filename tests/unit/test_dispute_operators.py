"""The referee's rules say the same as the kernels, for every operator."""

import pytest
import torch

from dispute_rules import all_places, differences, lowered_call
from exact_examples import EXAMPLES, Call
from tallystick.exact.kernels import OPERATORS

UNIFORM: list[Call] = [((torch.tensor([7, 2**32 - 1]), [3, 5], 4), {})]


@pytest.mark.parametrize("op", sorted(OPERATORS))
def test_each_line_of_an_operator_is_what_the_kernels_make(op: str) -> None:
    for args, kwargs in EXAMPLES.get(op, UNIFORM):
        lines, held, first = lowered_call(op, args, kwargs)
        for number, line in enumerate(lines, start=first):
            assert line.rule != "unknown"
            wrong = differences(line, number, held, all_places(line, 12))
            assert not wrong, f"{line.rule} of {op}{[getattr(a, 'shape', a) for a in args]}: {wrong[:3]}"
