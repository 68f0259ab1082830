"""The operator table: every operator that a program may use, and its exact kernel.

A kernel takes what the operator takes and returns what it returns. float32 tensors and Python floats that enter are
canonical and hold only the one NaN (`rounding`), and so do results. The table is the allow-list: an operator that is
not here cannot be in a program. Integer and bool tensors mostly use torch's own operators, which are exact already.

An operator with several results has one entry for each, "name/0", "name/1" and so on, which takes all arguments and
returns that result. Kernels also run on meta tensors, which have a shape and a dtype but no values: so a program is
checked before it runs.
"""

import functools
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from tallystick.exact import convolution, creation, functions, indexing, noise, pooling, reductions, roots, trigonometry
from tallystick.exact import elementwise as by_entry
from tallystick.exact.elementwise import Kernel, multiply
from tallystick.exact.products import matmul
from tallystick.exact.sums import exact_sum

aten = torch.ops.aten


def product(a: Tensor, b: Tensor, *, bits: int) -> Tensor:
    return matmul(a, b, bits)


def bias_gradient(gradient: Tensor, *arguments: object) -> Tensor:
    """The gradient of a convolution's bias: the sum over everything but the channels."""
    return exact_sum(gradient, (0, *range(2, gradient.dim())))


def _unchanged(x: Tensor) -> Tensor:
    return x


def _with_overloads(name: str, kernel: Kernel, *overloads: str) -> dict[str, Kernel]:
    return {f"aten.{name}.{overload}": kernel for overload in overloads}


def _on_tensors_and_numbers(kernels: Mapping[str, Kernel]) -> dict[str, Kernel]:
    return {f"aten.{name}.{over}": kernel for name, kernel in kernels.items() for over in ("Tensor", "Scalar")}


def _plain(kernels: Mapping[str, Kernel]) -> dict[str, Kernel]:
    return {f"aten.{name}.default": kernel for name, kernel in kernels.items()}


ARITHMETIC_KERNELS: Final[dict[str, Kernel]] = {
    **_on_tensors_and_numbers(
        {
            "add": by_entry.add,
            "sub": by_entry.sub,
            "mul": multiply,
            "div": by_entry.divide,
            "eq": by_entry.comparison(torch.eq),
            "ne": by_entry.comparison(torch.ne),
            "lt": by_entry.comparison(torch.lt),
            "le": by_entry.comparison(torch.le),
            "gt": by_entry.comparison(torch.gt),
            "ge": by_entry.comparison(torch.ge),
            "bitwise_and": by_entry.bitwise(torch.bitwise_and),
            "bitwise_or": by_entry.bitwise(torch.bitwise_or),
            "bitwise_xor": by_entry.bitwise(torch.bitwise_xor),
            "remainder": by_entry.remainder,
        }
    ),
    **_plain(
        {
            "neg": by_entry.neg,
            "abs": by_entry.absolute,
            "sign": by_entry.sign,
            "relu": by_entry.relu,
            "clamp": by_entry.clamp,
            "clamp_min": by_entry.clamp,
            "clamp_max": by_entry.clamp_max,
            "maximum": by_entry.maximum,
            "minimum": by_entry.minimum,
            "floor_divide": by_entry.floor_divide,
            "floor": by_entry.rounding(torch.floor),
            "ceil": by_entry.rounding(torch.ceil),
            "round": by_entry.rounding(torch.round),
            "trunc": by_entry.rounding(torch.trunc),
            "logical_and": torch.logical_and,
            "logical_or": torch.logical_or,
            "logical_xor": torch.logical_xor,
            "logical_not": torch.logical_not,
            "bitwise_not": by_entry.bitwise_not,
            "isnan": torch.isnan,
            "isinf": torch.isinf,
            "exp": functions.exp,
            "expm1": functions.expm1,
            "log": functions.log,
            "log1p": functions.log1p,
            "tanh": functions.tanh,
            "sigmoid": functions.sigmoid,
            "erf": functions.erf,
            "sin": trigonometry.sin,
            "cos": trigonometry.cos,
            "sqrt": roots.sqrt,
            "rsqrt": roots.rsqrt,
            "reciprocal": roots.reciprocal,
        }
    ),
    "aten.clamp.Tensor": by_entry.clamp,
    "aten.clamp_min.Tensor": by_entry.clamp,
    "aten.clamp_max.Tensor": by_entry.clamp_max,
    "aten.pow.Tensor_Scalar": roots.power,
    "aten.where.self": by_entry.where,
}
REDUCTION_KERNELS: Final[dict[str, Kernel]] = {
    "aten.sum.dim_IntList": reductions.sum_over,
    "aten.sum.default": reductions.sum_over,
    "aten.mean.dim": reductions.mean_over,
    "aten.mean.default": reductions.mean_over,
    **_plain(
        {
            "_softmax": reductions.softmax,
            "_log_softmax": reductions.log_softmax,
            "amax": reductions.amax,
            "amin": reductions.amin,
            "argmax": reductions.place_of(largest=True),
            "argmin": reductions.place_of(largest=False),
            "cumsum": reductions.cumsum,
        }
    ),
    **_with_overloads("any", torch.any, "default", "dim", "dims"),
    **_with_overloads("all", torch.all, "default", "dim", "dims"),
}
MOVING_KERNELS: Final[dict[str, Kernel]] = {
    **_plain(
        {
            "alias": _unchanged,
            "detach": _unchanged,
            "clone": torch.clone,
            "lift_fresh_copy": torch.clone,
            "copy": creation.copy,
            "cat": torch.cat,
            "permute": torch.permute,
            "view": torch.reshape,
            "expand": Tensor.expand,
            "unsqueeze": torch.unsqueeze,
            "repeat": Tensor.repeat,
            "flip": torch.flip,
            "constant_pad_nd": indexing.constant_pad,
            "slice_scatter": indexing.slice_scatter,
            "select_scatter": indexing.select_scatter,
            "gather": indexing.gather,
            "scatter_add": indexing.scatter_add,
            "index_select": indexing.index_select,
            "index_add": indexing.index_add,
            "index_put": indexing.index_put,
            "embedding": indexing.embedding,
            "embedding_dense_backward": indexing.embedding_gradient,
        }
    ),
    **_with_overloads("squeeze", torch.squeeze, "dim", "dims"),
    "aten.slice.Tensor": aten.slice.Tensor,
    "aten.select.int": torch.select,
    "aten.scatter.value": indexing.scatter,
    "aten.scatter.src": indexing.scatter_source,
    "aten.index.Tensor": indexing.index,
}
CREATION_KERNELS: Final[dict[str, Kernel]] = {
    **_plain(
        {
            "_to_copy": creation.to_copy,
            "full": creation.full,
            "full_like": creation.full_like,
            "scalar_tensor": creation.scalar_tensor,
            "zeros": creation.zeros,
            "ones": creation.ones,
            "zeros_like": creation.zeros_like,
            "ones_like": creation.ones_like,
            "empty_like": creation.zeros_like,
            "empty_permuted": creation.empty_permuted,
        }
    ),
    "aten.empty.memory_format": creation.zeros,
    "aten.arange.start_step": creation.arange,
    "tallystick.uniform.default": noise.uniform,
}
POOLING_KERNELS: Final[dict[str, Kernel]] = {
    "aten.max_pool2d_with_indices.default/0": pooling.max_pool,
    "aten.max_pool2d_with_indices.default/1": pooling.max_pool_places,
    "aten.max_pool2d_with_indices_backward.default": pooling.max_pool_gradient,
    "aten.adaptive_max_pool2d.default/0": pooling.adaptive_max_pool,
    "aten.adaptive_max_pool2d.default/1": pooling.adaptive_max_pool_places,
    "aten.adaptive_max_pool2d_backward.default": pooling.adaptive_max_pool_gradient,
    "aten.avg_pool2d.default": pooling.average_pool,
    "aten.avg_pool2d_backward.default": pooling.average_pool_gradient,
    "aten._adaptive_avg_pool2d.default": pooling.adaptive_average_pool,
    "aten._adaptive_avg_pool2d_backward.default": pooling.adaptive_average_pool_gradient,
    "aten.convolution_backward.default/2": bias_gradient,
}


KERNELS: Final[dict[str, Kernel]] = {
    **ARITHMETIC_KERNELS,
    **REDUCTION_KERNELS,
    **MOVING_KERNELS,
    **CREATION_KERNELS,
    **POOLING_KERNELS,
}
"""Operator name, as ATen spells it, to the exact kernel of an operator that is the same in every profile."""
PRODUCTS: Final[dict[str, Callable[..., Tensor]]] = {
    "aten.mm.default": product,
    "aten.bmm.default": product,
    "aten.convolution.default": convolution.convolution,
    "aten.convolution_backward.default/0": convolution.gradient_of_input,
    "aten.convolution_backward.default/1": convolution.gradient_of_weight,
}
"""The operators that depend on the profile: their kernels take the keyword `bits`, see `products`."""
OPERATORS: Final = frozenset(KERNELS) | frozenset(PRODUCTS)
"""The allow-list."""
PROFILE_BITS: Final = frozenset({20, 13})


@functools.cache
def table(bits: int) -> Mapping[str, Kernel]:
    """Every operator's kernel, for products on integers of magnitude up to 2**bits."""
    if bits not in PROFILE_BITS:
        raise ValueError(f"no profile has integers of {bits} bits")
    return ChainMap(KERNELS, {name: functools.partial(kernel, bits=bits) for name, kernel in PRODUCTS.items()})
