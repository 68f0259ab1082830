"""Every operator by its ATen name; "name/1" is the second result of an operator with several.

Products take the keyword `bits`: 20 in the profile `full`, 13 in `fast`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from . import elementwise, functions, moving, pooling, products, sums
from .elementwise import Kernel
from .sums import sum_over
from .values import Array


def bias_gradient(gradient: Array, *rest: Any) -> Array:
    return sum_over(gradient, [0, *range(2, gradient.ndim)])


def _named(kernels: Mapping[str, Kernel], *overloads: str) -> dict[str, Kernel]:
    return {f"aten.{name}.{overload}": kernel for name, kernel in kernels.items() for overload in overloads}


def same(x: Array) -> Array:
    return x


_TABLE: Final[dict[str, Kernel]] = {
    **_named(
        {
            "add": elementwise.add,
            "sub": elementwise.sub,
            "mul": elementwise.mul,
            "div": elementwise.div,
            "eq": elementwise.comparison(np.equal),
            "ne": elementwise.comparison(np.not_equal),
            "lt": elementwise.comparison(np.less),
            "le": elementwise.comparison(np.less_equal),
            "gt": elementwise.comparison(np.greater),
            "ge": elementwise.comparison(np.greater_equal),
            "bitwise_and": elementwise.bitwise(np.bitwise_and),
            "bitwise_or": elementwise.bitwise(np.bitwise_or),
            "bitwise_xor": elementwise.bitwise(np.bitwise_xor),
            "remainder": elementwise.divided(lambda a, b: a % b),
        },
        "Tensor",
        "Scalar",
    ),
    **_named(
        {
            "neg": elementwise.neg,
            "abs": elementwise.absolute,
            "sign": elementwise.sign,
            "relu": elementwise.relu,
            "maximum": elementwise.maximum,
            "minimum": elementwise.minimum,
            "floor_divide": elementwise.divided(lambda a, b: a // b),
            "floor": elementwise.rounding(np.floor),
            "ceil": elementwise.rounding(np.ceil),
            "round": elementwise.rounding(np.rint),
            "trunc": elementwise.rounding(np.trunc),
            "logical_and": elementwise.logical(np.logical_and),
            "logical_or": elementwise.logical(np.logical_or),
            "logical_xor": elementwise.logical(np.logical_xor),
            "logical_not": elementwise.logical(np.logical_not),
            "bitwise_not": elementwise.bitwise_not,
            "isnan": elementwise.is_nan,
            "isinf": elementwise.is_inf,
            "exp": functions.exp,
            "expm1": functions.expm1,
            "log": functions.log,
            "log1p": functions.log1p,
            "tanh": functions.tanh,
            "sigmoid": functions.sigmoid,
            "erf": functions.erf,
            "sin": functions.sin,
            "cos": functions.cos,
            "sqrt": functions.sqrt,
            "rsqrt": functions.rsqrt,
            "reciprocal": functions.reciprocal,
            "_softmax": sums.softmax,
            "_log_softmax": sums.log_softmax,
            "amax": sums.extreme(largest=True),
            "amin": sums.extreme(largest=False),
            "argmax": sums.place_of(largest=True),
            "argmin": sums.place_of(largest=False),
            "cumsum": sums.running_sum,
            "alias": same,
            "detach": same,
            "clone": same,
            "lift_fresh_copy": same,
            "copy": moving.copy,
            "cat": moving.cat,
            "permute": np.transpose,
            "view": moving.view,
            "expand": moving.expand,
            "unsqueeze": np.expand_dims,
            "repeat": np.tile,
            "flip": np.flip,
            "constant_pad_nd": moving.constant_pad,
            "slice_scatter": moving.slice_scatter,
            "select_scatter": moving.select_scatter,
            "gather": moving.gather,
            "scatter_add": moving.scatter_add,
            "index_select": moving.index_select,
            "index_add": moving.index_add,
            "index_put": moving.index_put,
            "embedding": moving.embedding,
            "embedding_dense_backward": moving.embedding_gradient,
            "_to_copy": moving.to_copy,
            "full": moving.full,
            "full_like": moving.full_like,
            "scalar_tensor": moving.scalar_tensor,
            "zeros": moving.filled(0),
            "ones": moving.filled(1),
            "empty_permuted": moving.filled(0),
            "zeros_like": moving.filled_like(0),
            "ones_like": moving.filled_like(1),
            "empty_like": moving.filled_like(0),
            "max_pool2d_with_indices_backward": pooling.max_gradient,
            "adaptive_max_pool2d_backward": pooling.max_gradient,
            "avg_pool2d": pooling.average_pool,
            "avg_pool2d_backward": pooling.average_pool_gradient,
            "_adaptive_avg_pool2d": pooling.adaptive_average_pool,
            "_adaptive_avg_pool2d_backward": pooling.adaptive_average_pool_gradient,
        },
        "default",
    ),
    **_named({"clamp": elementwise.clamp, "clamp_min": elementwise.clamp}, "default", "Tensor"),
    **_named({"clamp_max": elementwise.clamp_max}, "default", "Tensor"),
    **_named({"sum": sums.sum_over}, "default", "dim_IntList"),
    **_named({"mean": sums.mean_over}, "default", "dim"),
    **_named({"any": sums.truth(every=False), "all": sums.truth(every=True)}, "default", "dim", "dims"),
    **_named({"squeeze": moving.squeeze}, "dim", "dims"),
    "aten.pow.Tensor_Scalar": functions.power,
    "aten.where.self": elementwise.where,
    "aten.slice.Tensor": moving.slice_of,
    "aten.select.int": moving.select,
    "aten.scatter.value": moving.scatter,
    "aten.scatter.src": moving.scatter_source,
    "aten.index.Tensor": moving.index,
    "aten.empty.memory_format": moving.filled(0),
    "aten.arange.start_step": moving.arange,
    "tallystick.uniform.default": moving.uniform,
    "aten.max_pool2d_with_indices.default/0": pooling.max_pool(0),
    "aten.max_pool2d_with_indices.default/1": pooling.max_pool(1),
    "aten.adaptive_max_pool2d.default/0": pooling.adaptive_max_pool(0),
    "aten.adaptive_max_pool2d.default/1": pooling.adaptive_max_pool(1),
    "aten.convolution_backward.default/2": bias_gradient,
}
_PRODUCTS: Final[dict[str, Kernel]] = {
    "aten.mm.default": products.matmul,
    "aten.bmm.default": products.matmul,
    "aten.convolution.default": products.convolution,
    "aten.convolution_backward.default/0": products.gradient_of_input,
    "aten.convolution_backward.default/1": products.gradient_of_weight,
}


def _quietly(kernel: Kernel) -> Kernel:
    """NumPy warns of what IEEE 754 defines, and gives scalars for arrays without dimensions."""

    def quiet(*args: Any, **kwargs: Any) -> Array:
        with np.errstate(all="ignore"):
            return np.array(kernel(*args, **kwargs))

    return quiet


OPERATORS: Final[dict[str, Callable[..., Array]]] = {name: _quietly(k) for name, k in (_TABLE | _PRODUCTS).items()}
PRODUCTS: Final = frozenset(_PRODUCTS)
