"""What a recorded operator is replaced by, so that a program needs few operators.

torch's core decompositions do most of it. Here are the exceptions: normalization in terms of means that can be summed
exactly; random numbers that are a function of a key instead of a generator's state; biases apart from products, so that
they are added in one pass with what follows; and embeddings, whose gradient stays one operator because torch's own
decomposition would add rows in some order.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._decomp.decompositions import _compute_upsample_nearest_indices as _nearest_places

Table = dict[Any, Callable[..., Any]]
aten = torch.ops.aten

FURTHER = (
    aten.gelu,
    aten.silu,
    aten.huber_loss,
    aten.hardtanh,
    aten.leaky_relu,
    aten.mish,
    aten.hardswish,
    aten.hardsigmoid,
    aten.elu,
    aten.softplus,
    aten.addcmul,
    aten.addcdiv,
    aten.lerp,
    aten.baddbmm,
    aten.slice_backward,
    aten.select_backward,
    aten.lift_fresh_copy,
    aten.linalg_vector_norm,
)
"""Operators beyond the core set that torch can decompose when asked."""


class Noise:
    """Hands out a number to each random operator of a program, in the order in which they are recorded."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        """The program's input that random numbers are keyed by (int64 [2])."""
        self.streams = 0

    def uniform(self, size: Sequence[int]) -> Tensor:
        """float32 in [0, 1), a function of (key, number of this operator, element)."""
        assert self.key is not None
        stream, self.streams = self.streams, self.streams + 1
        drawn: Tensor = torch.ops.tallystick.uniform(self.key, list(size), stream)
        return drawn


def table(noise: Noise) -> Table:
    """The decompositions to record a step with; random operators draw on `noise`."""
    chosen: Table = cast(Table, dict(core_aten_decompositions().items()))
    chosen |= get_decompositions(FURTHER)
    chosen[aten.new_empty_strided.default] = empty_strided
    del chosen[aten.embedding_dense_backward.default]
    for axes in (1, 2, 3):
        chosen[getattr(aten, f"upsample_nearest{axes}d_backward").default] = upsampling_gradient
    return chosen | {
        aten.roll.default: roll,
        aten.native_layer_norm.default: layer_norm,
        aten.native_group_norm.default: group_norm,
        aten.native_batch_norm.default: batch_norm,
        aten.var.correction: variance,
        aten.var_mean.correction: lambda *args, **kwargs: (variance(*args, **kwargs), mean(*args, **kwargs)),
        aten.addmm.default: addmm,
        aten.convolution.default: convolution,
        aten.convolution_backward.default: convolution_gradients,
        aten.max.dim: lambda x, dim, keepdim=False: (x.amax(dim, keepdim), x.argmax(dim, keepdim)),
        aten.min.dim: lambda x, dim, keepdim=False: (x.amin(dim, keepdim), x.argmin(dim, keepdim)),
        aten.native_dropout.default: lambda x, p, train: dropout(noise, x, p, train),
        aten.bernoulli.p: lambda x, p=0.5, generator=None: (noise.uniform(x.shape) < p).to(x.dtype),
        aten.bernoulli.default: lambda x, generator=None: (noise.uniform(x.shape) < x).to(x.dtype),
        aten.rand_like.default: lambda x, **kwargs: noise.uniform(x.shape),
        aten.rand.default: lambda size, **kwargs: noise.uniform(size),
    }


def empty_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], **kwargs: Any) -> Tensor:
    """How a tensor lies in memory is no part of its value, but as_strided on it, which `capture` makes sense of, needs
    the order of its entries."""
    if torch.empty_strided(size, stride, device="meta").is_contiguous():
        return x.new_empty(size)
    order = sorted(range(len(size)), key=lambda d: -stride[d])
    return x.new_empty([size[d] for d in order]).permute([order.index(d) for d in range(len(size))])


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    dims = list(range(x.dim() - len(shape), x.dim()))
    center = x.mean(dims, keepdim=True)
    shifted = x - center
    scale = torch.rsqrt((shifted * shifted).mean(dims, keepdim=True) + eps)
    return _affine(shifted * scale, weight, bias), center, scale


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    samples: int,
    channels: int,
    size: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """One mean and one scale for each sample and group; `weight` and `bias` [channels]."""
    parts = x.reshape(samples, groups, -1)
    normal, center, scale = layer_norm(parts, parts.shape[-1:], None, None, eps)
    affine = [None if part is None else part.view(_along_channels(x)) for part in (weight, bias)]
    return _affine(normal.view(x.shape), *affine), center.view(samples, groups), scale.view(samples, groups)


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Writes into the running statistics, as ATen's operator does; recording turns that into outputs."""
    dims = [0, *range(2, x.dim())]
    along = _along_channels(x)
    affine = [None if part is None else part.view(along) for part in (weight, bias)]
    if not training:
        assert running_mean is not None and running_var is not None
        scale = torch.rsqrt(running_var + eps)
        normal = (x - running_mean.view(along)) * scale.view(along)
        return _affine(normal, *affine), x.new_zeros(0), x.new_zeros(0)
    center = x.mean(dims)
    shifted = x - center.view(along)
    spread = (shifted * shifted).mean(dims)
    scale = torch.rsqrt(spread + eps)
    if running_mean is not None and running_var is not None:
        terms = x.numel() // x.shape[1]
        running_mean.copy_(running_mean * (1 - momentum) + center * momentum)
        running_var.copy_(running_var * (1 - momentum) + spread * (momentum * terms / (terms - 1)))
    return _affine(shifted * scale.view(along), *affine), center, scale


def mean(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    return x.mean(_dims(x, dim), keepdim=keepdim)


def variance(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = 1, keepdim: bool = False
) -> Tensor:
    """The mean of the squared differences from the mean, over terms - correction."""
    dims = _dims(x, dim)
    shifted = x - x.mean(dims, keepdim=True)
    terms = math.prod(x.shape[d] for d in dims)
    divisor = terms - (1 if correction is None else correction)
    return (shifted * shifted).sum(dims, keepdim=keepdim) / divisor


def addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = a @ b
    scaled = product if alpha == 1 else product * alpha
    return scaled + (bias if beta == 1 else bias * beta)


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    full = _by_axis(x, geometry)
    if bias is None and full == geometry:
        return cast(Tensor, NotImplemented)
    result: Tensor = aten.convolution.default(x, weight, None, *full)
    return result if bias is None else result + bias.view(-1, *[1] * (x.dim() - 2))


def convolution_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *geometry, wanted = rest
    full = _by_axis(x, geometry)
    if full == tuple(geometry):
        return cast(tuple[Tensor, Tensor, Tensor], NotImplemented)
    return cast(
        tuple[Tensor, Tensor, Tensor],
        aten.convolution_backward.default(gradient, x, weight, bias_sizes, *full, wanted),
    )


def _by_axis(x: Tensor, geometry: Sequence[Any]) -> tuple[Any, ...]:
    """ATen takes one number for all axes, too, and gives padding="valid" so."""
    axes = x.dim() - 2
    return tuple(list(part) * axes if isinstance(part, list) and len(part) == 1 else part for part in geometry)


def upsampling_gradient(gradient: Tensor, sizes: Sequence[int], shape: Sequence[int], *scales: float | None) -> Tensor:
    """Each entry of the input [N, C, ...] gets the sum over the outputs that torch's forward rule takes from it."""
    full = [*scales, *[None] * (len(sizes) - len(scales))]
    factors = [after // before for after, before in zip(sizes, shape[2:], strict=True)]
    if list(sizes) == [size * factor for size, factor in zip(shape[2:], factors, strict=True)] and all(
        factor.bit_count() == 1 and scale in {None, factor} for factor, scale in zip(factors, full, strict=True)
    ):  # that rule is exact, and windows are equal
        windows = [part for pair in zip(shape[2:], factors, strict=True) for part in pair]
        return gradient.reshape(*shape[:2], *windows).sum(list(range(3, 2 + len(windows), 2)))
    places = _nearest_places(gradient.new_empty(shape), sizes, full)
    return cast(Tensor, aten.index_put.default(gradient.new_zeros(shape), [None, None, *places], gradient, True))


def roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor:
    if not dims:
        return roll(x.reshape(-1), shifts, [0]).view(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        size = x.shape[dim]
        cut = size - shift % max(size, 1)
        x = torch.cat([x.narrow(dim, cut, size - cut), x.narrow(dim, 0, cut)], dim)
    return x


def dropout(noise: Noise, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """The output and the mask of what was kept."""
    if train is False or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    kept = noise.uniform(x.shape) >= p
    factor = 1 / (1 - p) if p < 1 else 0.0
    return x * kept.to(x.dtype) * factor, kept


def _along_channels(x: Tensor) -> list[int]:
    return [1, -1, *([1] * (x.dim() - 2))]


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = x if weight is None else x * weight
    return scaled if bias is None else scaled + bias


def _dims(x: Tensor, dim: Sequence[int] | None) -> list[int]:
    return list(dim) if dim else list(range(x.dim()))
