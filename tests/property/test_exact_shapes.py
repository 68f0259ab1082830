"""Random shapes, geometries and values: kernels and the NumPy reference give the same bits, or both refuse."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from exact_against_reference import compare
from tallystick.exact.rounding import canonical, one_nan

SIZES = st.integers(1, 6)
PATTERNS = st.integers(-(2**31), 2**31 - 1)
examples = settings(deadline=None, max_examples=40)


@st.composite
def floats(draw: st.DrawFn, *shape: int) -> Tensor:
    """Canonical float32 from any bits, or of one size with some zeros and ties."""
    count = torch.Size(shape).numel()
    if draw(st.booleans()):
        words = draw(st.lists(PATTERNS, min_size=count, max_size=count))
        x = torch.tensor(words, dtype=torch.int32).view(torch.float32)
    else:
        x = torch.tensor(draw(st.lists(st.integers(-40, 40), min_size=count, max_size=count)), dtype=torch.float32) / 8
    return one_nan(canonical(x)).reshape(shape)


def finite(*shape: int) -> st.SearchStrategy[Tensor]:
    return floats(*shape).map(lambda x: torch.nan_to_num(x, 1.0, 3e38, -3e38))


@st.composite
def pair(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    m, k, n = draw(SIZES), draw(SIZES), draw(SIZES)
    return draw(finite(m, k)), draw(finite(k, n))


@examples
@given(pair())
def test_products(operands: tuple[Tensor, Tensor]) -> None:
    compare("aten.mm.default", *operands)
    compare("aten.bmm.default", *(x[None] for x in operands))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Any, ...]:
    spatial, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    several = st.lists(st.integers(1, 2), min_size=spatial, max_size=spatial)
    kernel, stride, dilation = draw(several), draw(several), draw(several)
    padding = [size - 1 for size in draw(several)]
    sizes = [d * (k - 1) + 1 + draw(st.integers(0, 2)) for k, d in zip(kernel, dilation, strict=True)]
    samples, inputs, outputs = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    x, weight = draw(finite(samples, groups * inputs, *sizes)), draw(finite(groups * outputs, inputs, *kernel))
    return x, weight, stride, padding, dilation, False, [0] * spatial, groups


@examples
@given(convolutions(), st.data())
def test_convolutions_and_their_gradients(made: tuple[Any, ...], data: st.DataObject) -> None:
    x, weight, *geometry = made
    compare("aten.convolution.default", x, weight, data.draw(finite(len(weight))), *geometry)
    shape = torch.ops.aten.convolution(x.to("meta"), weight.to("meta"), None, *geometry).shape
    gradient = data.draw(finite(*shape))
    for result in range(3):
        mask = [result == place for place in range(3)]
        name = f"aten.convolution_backward.default/{result}"
        compare(name, gradient, x, weight, [len(weight)], *geometry, mask)


@examples
@given(st.data())
def test_pools_and_their_gradients(data: st.DataObject) -> None:
    draw = data.draw
    kernel = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    stride, padding = [draw(st.integers(1, 3)), draw(st.integers(1, 3))], [draw(st.integers(0, k // 2)) for k in kernel]
    up, counted, wild = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    shape = (draw(st.integers(1, 2)), 1, draw(st.integers(3, 6)), draw(st.integers(3, 6)))
    x = draw(floats(*shape) if wild else finite(*shape))
    largest = "aten.max_pool2d_with_indices"
    for output in range(2):
        compare(f"{largest}.default/{output}", x, kernel, stride, padding, 1, up)
    compare("aten.avg_pool2d.default", x, kernel, stride, padding, up, counted)
    places = torch.ops.aten.max_pool2d_with_indices(x, kernel, stride, padding, 1, up)[1]
    gradient = draw(finite(*places.shape))
    compare(f"{largest}_backward.default", gradient, x, kernel, stride, padding, [1, 1], up, places)
    compare("aten.avg_pool2d_backward.default", gradient, x, kernel, stride, padding, up, counted, None)
    sizes = [draw(SIZES), draw(SIZES)]
    compare("aten._adaptive_avg_pool2d.default", x, sizes)
    compare("aten._adaptive_avg_pool2d_backward.default", draw(finite(*shape[:2], *sizes)), x)
    for output in range(2):
        compare(f"aten.adaptive_max_pool2d.default/{output}", x, sizes)


@examples
@given(st.data())
def test_reductions(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    x = data.draw(floats(*shape) if data.draw(st.booleans()) else finite(*shape))
    dims = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True))
    keepdim, dim = data.draw(st.booleans()), data.draw(st.integers(-len(shape), len(shape) - 1))
    for name in ("sum.dim_IntList", "mean.dim", "amax.default", "amin.default", "any.dims", "all.dims"):
        compare(f"aten.{name}", x, dims, keepdim)
    for name in ("argmax", "argmin"):
        compare(f"aten.{name}.default", x, dim, keepdim)
    compare("aten.cumsum.default", x, dim)
    for name in ("_softmax", "_log_softmax"):
        compare(f"aten.{name}.default", x, dim, False)


@examples
@given(st.data())
def test_sums_by_index(data: st.DataObject) -> None:
    rows, width, count = data.draw(SIZES), data.draw(SIZES), data.draw(SIZES)
    x, terms = data.draw(finite(rows, width)), data.draw(finite(count, width))
    places = st.integers(-1 if data.draw(st.booleans()) else 0, rows - 1)
    index = torch.tensor(data.draw(st.lists(places, min_size=count, max_size=count)))
    compare("aten.index_add.default", x, 0, index, terms, alpha=data.draw(st.sampled_from([1, -0.5])))
    compare("aten.index_put.default", x, [index], terms, True)
    compare("aten.embedding_dense_backward.default", terms, index, rows, data.draw(places), False)
    across = index[:, None].expand(count, width)
    compare("aten.scatter_add.default", x, 0, across, terms)
    compare("aten.scatter.src", x, 0, across, terms)
    compare("aten.gather.default", x, 0, across)


UNARY = ["exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sqrt", "rsqrt", "reciprocal", "sin", "cos"]
UNARY += ["neg", "abs", "sign", "relu", "floor", "ceil", "round", "trunc"]


@examples
@given(floats(8), floats(8), st.integers(-64, 64))
def test_entries(x: Tensor, y: Tensor, exponent: int) -> None:
    for name in UNARY:
        compare(f"aten.{name}.default", x)
    for name in ("add", "sub", "mul", "div", "lt", "eq"):
        compare(f"aten.{name}.Tensor", x, y)
    compare("aten.maximum.default", x, y)
    compare("aten.pow.Tensor_Scalar", x, exponent)
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.bool):
        compare("aten._to_copy.default", x, dtype=dtype)
