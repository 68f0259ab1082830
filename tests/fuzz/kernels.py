"""Random products and convolutions, of any shape and layout that the compiled kernels take, on every unit that is here.

    PYTHONPATH=tests python -m fuzz.kernels [--cases N] [--seed N]

A library that was built with sanitizers ends the process where it reads or writes what is not its own; so does
test_kernel_memory run it. With any other one, this only shows that nothing crashes.
"""

import argparse
import random
import sys

import torch
from torch import Tensor

from exact_levels import LEVELS, computing
from tallystick.exact.native import IN_USE, convolution, products

BITS = (13, 20)


def laid_out(draw: random.Random, *shape: int) -> Tensor:
    """A tensor of this shape whose dimensions lie in any order in memory, perhaps with gaps."""
    order = draw.sample(range(len(shape)), len(shape))
    room = torch.randn([shape[dim] + draw.choice([0, 0, 1, 3]) for dim in order])
    return room.permute([order.index(dim) for dim in range(len(shape))])[tuple(map(slice, shape))]


def multiply(draw: random.Random) -> str:
    """One product, or a stack of them."""
    stack = draw.choice([(), (), (1,), (2,), (5,)])
    rows, terms, columns = (draw.randrange(1, 300 if draw.random() < 0.1 else 50) for _ in range(3))
    if draw.random() < 0.08:
        terms = draw.randrange(1900, 6200)  # around one block of terms, and two
    a, b = laid_out(draw, *stack, rows, terms), laid_out(draw, *stack, terms, columns)
    assert products.matmul(a, b, draw.choice(BITS)) is not None
    return f"product of {tuple(a.shape)} {a.stride()} and {tuple(b.shape)} {b.stride()}"


def convolve(draw: random.Random) -> str:
    """One convolution and both of its gradients."""
    axes, groups, inputs = draw.choice([1, 2, 2]), draw.choice([1, 1, 2, 3]), draw.randrange(1, 8)
    outputs = draw.randrange(1, 40 if draw.random() < 0.3 else 8)
    kernel, stride, padding, dilation = ([draw.randrange(*ends) for _ in range(axes)] for ends in RANGES)
    least = [d * (k - 1) + 1 - 2 * p for k, p, d in zip(kernel, padding, dilation, strict=True)]
    size = [max(1, low) + draw.randrange(20 if axes == 2 else 200) for low in least]
    sizes = zip(size, kernel, stride, padding, dilation, strict=True)
    output = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes]
    samples, bits = draw.randrange(1, 5), draw.choice(BITS)
    x, weight = torch.randn(samples, groups * inputs, *size), torch.randn(groups * outputs, inputs, *kernel)
    gradient = torch.randn(samples, groups * outputs, *output)
    geometry = (stride, padding, dilation, groups, bits)
    assert convolution.output(x, weight, *geometry) is not None
    assert convolution.gradient_of_input(gradient, x, weight, *geometry) is not None
    assert convolution.gradient_of_weight(gradient, x, weight, *geometry) is not None
    return f"convolution of {tuple(x.shape)} with {tuple(weight.shape)}, {geometry}"


RANGES = ((1, 6), (1, 4), (0, 5), (1, 3))
"""Of kernel, stride, padding and dilation."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz.kernels", description=str(__doc__).splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="print every case before the next one")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    for _ in range(options.cases):
        level, threads = draw.choice(LEVELS), draw.choice([1, 2, 3])
        with computing(level, threads):
            case = multiply(draw) if draw.random() < 0.5 else convolve(draw)
        if options.verbose:
            print(f"level {level}, {threads} threads: {case}", file=sys.stderr, flush=True)
    print(f"{options.cases} cases on {len(LEVELS)} levels; {IN_USE}")


if __name__ == "__main__":
    main()
