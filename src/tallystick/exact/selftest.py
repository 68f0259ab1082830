"""Known answers: does this machine's arithmetic give the bits that the specification says?

Each case runs one operator, through the same table as a program does, on inputs that follow from Philox, and hashes the
result. The answers below are the published test vectors of `exact-v1`; they were computed by the pure-PyTorch kernels
and agree with the independent reference in the tests. A machine with fast-math, emulated float64, saturating int8 units
or a miscompiled kernel gives another hash for at least one operator and must not work.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Final

import torch
from torch import Tensor

from tallystick.exact import accumulate
from tallystick.exact.kernels import table
from tallystick.exact.random import permutation, philox
from tallystick.exact.rounding import canonical

BITS: Final = {"full": 20, "fast": 13}
KEY: Final = 0x7A11_7571_C4B0_0B1E


@dataclass(frozen=True)
class Outcome:
    """One case on this machine."""

    case: str
    found: str
    """SHA-256 of the result's bytes, or what was raised."""
    expected: str

    @property
    def passed(self) -> bool:
        return self.found == self.expected


def numbers(stream: int, *shape: int, spread: int = 24) -> Tensor:
    """float32 of both signs whose exponents spread over `spread` powers of two around 1."""
    draws = philox(KEY, stream, max(1, torch.Size(shape).numel()))[: torch.Size(shape).numel()]
    exponent = draws[:, 1] % spread - spread // 2 + 127
    bits = (draws[:, 0] & 0x807F_FFFF) | (exponent << 23)
    signed = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32)
    return canonical(signed.view(torch.float32).reshape(shape))


def whole(stream: int, high: int, *shape: int) -> Tensor:
    """int64 in 0..high-1."""
    return (philox(KEY, stream, torch.Size(shape).numel())[:, 0] % high).reshape(shape)


def run_selftest() -> Iterator[Outcome]:
    """Runs every case, in a fixed order."""
    for name, compute in cases():
        try:
            result = compute()
            found = sha256(result.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        except Exception as error:  # a machine on which an operator fails is reported like one that is wrong
            found = f"{type(error).__name__}: {error}"
        yield Outcome(name, found, VECTORS.get(name, "no answer is published"))


def first_failure() -> Outcome | None:
    """The first case whose bits are wrong on this machine, or None."""
    return next((outcome for outcome in run_selftest() if not outcome.passed), None)


def cases() -> list[tuple[str, Callable[[], Tensor]]]:
    """Names and computations of all cases."""
    chosen: list[tuple[str, Callable[[], Tensor]]] = []
    for profile, bits in BITS.items():
        for name, op, arguments in _products():
            chosen.append((f"{profile} {name}", partial(_apply, op, bits, arguments)))
    for name, op, arguments in _others():
        chosen.append((name, partial(_apply, op, BITS["full"], arguments)))
    return chosen + _accumulators()


def _apply(op: str, bits: int, arguments: tuple[Any, ...]) -> Tensor:
    return table(bits)[op](*arguments)


def _products() -> list[tuple[str, str, tuple[Any, ...]]]:
    """Large inner sizes, extreme operands and odd shapes: what overflows or saturates where a unit is not exact."""
    a, b = numbers(1, 33, 71), numbers(2, 71, 29)
    ones = torch.full((3, 9000), 1.9999)
    x, w, g = numbers(3, 2, 4, 9, 9, spread=8), numbers(4, 6, 2, 3, 3, spread=8), numbers(5, 2, 6, 5, 5, spread=8)
    geometry = ([2, 2], [1, 1], [1, 1], False, [0, 0], 2)
    backward = (g, x, w, None, *geometry)
    return [
        ("product", "aten.mm.default", (a, b)),
        ("product of transposed operands", "aten.mm.default", (b.t(), a.t())),
        ("product with 9000 equal terms", "aten.mm.default", (ones, -ones.t())),
        ("product with 5000 terms", "aten.mm.default", (numbers(6, 5, 5000), numbers(7, 5000, 7))),
        ("product of stacks", "aten.bmm.default", (numbers(8, 3, 5, 40), numbers(9, 3, 40, 6))),
        ("convolution", "aten.convolution.default", (x, w, numbers(11, 6), *geometry)),
        ("convolution, gradient of input", "aten.convolution_backward.default/0", (*backward, [True, False, False])),
        ("convolution, gradient of weight", "aten.convolution_backward.default/1", (*backward, [False, True, False])),
    ]


def _others() -> list[tuple[str, str, tuple[Any, ...]]]:
    x, y = numbers(20, 4096, spread=40), numbers(21, 4096, spread=40)
    near = numbers(22, 4096, spread=12)
    edges = torch.tensor([0.0, 1.0, -1.0, 2.0**-126 * 1.5, 3.4e38, -3.4e38, 88.7, -87.3, 1e-20, 0.5])
    rows = numbers(23, 64, 50, spread=8)
    unary = ["exp", "log", "tanh", "sigmoid", "erf", "sin", "cos", "sqrt", "rsqrt", "reciprocal", "neg", "relu"]
    positive = torch.cat([near, edges]).abs()
    domains = {"log": positive, "sqrt": positive, "rsqrt": positive, "sin": near, "cos": near}
    functions = [(op, f"aten.{op}.default", (domains.get(op, torch.cat([near, edges])),)) for op in unary]
    image = numbers(24, 2, 3, 8, 8)
    return [
        *functions,
        ("add", "aten.add.Tensor", (x, y)),
        ("sub", "aten.sub.Tensor", (x, y)),
        ("mul", "aten.mul.Tensor", (numbers(25, 4096, spread=250), numbers(26, 4096, spread=250))),
        ("div", "aten.div.Tensor", (x, y)),
        ("sum", "aten.sum.dim_IntList", (rows, [0])),
        ("sum of 100000 terms", "aten.sum.default", (numbers(27, 100_000, spread=60),)),
        ("mean", "aten.mean.dim", (rows, [1], True)),
        ("softmax", "aten._softmax.default", (rows, 1, False)),
        ("log_softmax", "aten._log_softmax.default", (rows, 1, False)),
        ("maximum pool", "aten.max_pool2d_with_indices.default/0", (image, [3, 3], [2, 2], [1, 1])),
        ("average pool", "aten.avg_pool2d.default", (image, [3, 3], [2, 2], [1, 1])),
        (
            "embedding gradient",
            "aten.embedding_dense_backward.default",
            (numbers(28, 40, 6), whole(29, 5, 40), 5, -1, False),
        ),
        ("uniform noise", "tallystick.uniform.default", (torch.tensor([7, 9]), [50, 3], 2)),
    ]


def _accumulators() -> list[tuple[str, Callable[[], Tensor]]]:
    gradient, exponent = numbers(40, 1000), torch.tensor(9, dtype=torch.int32)
    total = (whole(41, 2**31, 1000) - 2**30).to(torch.int32)
    return [
        ("gradient in fixed point", lambda: accumulate.to_fixed(gradient, exponent, 8)),
        ("gradient's peak", lambda: accumulate.peak_of(gradient)),
        ("mean gradient", lambda: accumulate.mean_of(total, exponent, 7)),
        ("permutation", lambda: permutation(5, 6, 1000)),
    ]


VECTORS: Final[dict[str, str]] = {
    "full product": "c04160a4c6a66e4daf2cc6b34fac8e4e808d401fa806e01d2c327603f313bc92",
    "full product of transposed operands": "1f4b5211811371a4b6ff8a1beaf29b5c4b0ac8aa298ed41a68e52c7d8f4deffb",
    "full product with 9000 equal terms": "e6edd218de32dc1e3986737e0ebc945aca9fa5d0c1dc0a3b1b492c6c0280dccb",
    "full product with 5000 terms": "0c2dac41f04df031d9371b2801686e20537260d565634fefd5a996437010f511",
    "full product of stacks": "475875a5853fb83a3ce182e6638c1d6e7969f91bad46a2686ff848cd5d68123b",
    "full convolution": "f50da925e57a12611f657f23524a48f88ab2fa6e852f25b2fe1deeea519ded48",
    "full convolution, gradient of input": "2cfd162341c85f644479fe7503a27dab75809eb65d842e71039d76401c2cc441",
    "full convolution, gradient of weight": "8055490ce03bc965097338fe86a2f1daf5b98b0e22e2e7a7758e46e09c68471e",
    "fast product": "626a507bb96723d7cb5a112d95838376de3f1863ddca502e3862a4035e389b4b",
    "fast product of transposed operands": "1547c1cb89a322c612a37ed2d7819a0bc9e4ad5934e3bbc268e2d7a720a7101d",
    "fast product with 9000 equal terms": "93038a2aeba7d0d77a105aaa3a931ac54de534fe77559074e5184152ca70d6d5",
    "fast product with 5000 terms": "d7da980ef35cc7927303c1a463c0b37e1d8fdfba429290daa9ec2094bb97ff2a",
    "fast product of stacks": "343dc5dae90ce853144fbf5efe2cb369f8d768cba5572b25d1f1096255c15054",
    "fast convolution": "2fa8a287e66f13f1ba3aff253c936972335c3bcae083f61cdb14b0666827e7fb",
    "fast convolution, gradient of input": "9b4089ec395b992dac4ffd9278217d2fcd76fd0051daae520d9d52f7e83645a5",
    "fast convolution, gradient of weight": "e4cff9356add23c9b83868485e4411aa8d65a209d3eebcfb63fcfa62bda2c8c6",
    "exp": "dbffebc9e1712762ab68ecac9e5c2a76524990cfa5a93904cce42160a6030b9c",
    "log": "de167766053c2fe6150a32699adeac43153a9b046c7bcc8c184fe03ce1079f3b",
    "tanh": "ff089f17f983b9d596a200612b6a74e75926658d11245bc358530b499c68aba1",
    "sigmoid": "fb8906c0d70ceae91480def6f889fa630d646a0f5e081d886f604467459dd483",
    "erf": "8dbd2411f67028c7fbf8b831f33532c1ffdf3a26598bf8c345bd7f0f6fdb0208",
    "sin": "1ac02468175e72e7eb011abb48bbfb7ee57d2e56f9fa43d52d841f6d7920deb3",
    "cos": "69c1182a79077295545fee5cf5a6da042d103771b8e2ea5bc8a9ee55d9b9a4ac",
    "sqrt": "d0a09538d1de12300a866e8508ff4b5a9cf93988ddf99aa5dd298ffb5aa24038",
    "rsqrt": "07da2a8e88ed4184ca769b461953d7d68fae921560a0bd46ce5866d1dbae93c8",
    "reciprocal": "884608344e1b7e2b5058e0997cfdd3d0a01cdb887c7430c77b9aec3499a49ab2",
    "neg": "d4f073e19b974fd3fb4b5026b32fd0931d49bb81a06d923f03c1837191449406",
    "relu": "7bf1e89b0248637e25fbf2ff0a8ae75107c0a99f810cf9bab8502e2354c40622",
    "add": "6e4b18832500596688569950b221c1bd5c7e21b71f3be31f4d1d7b81854e43e9",
    "sub": "4863c9ca578b7fe35ca5420c005766f6ad7622e511f2ce90a3ab2175185c1e06",
    "mul": "8a5e94c232084516df485585dcb89855f47852b14b6447039f1c356662b6e4f6",
    "div": "d1e9d2d714419e21db709f340142b2bdecbe52d0536e8510505d99ed7f742ba2",
    "sum": "8ab112e2967059528d465c7a4f4dcbdcf0fa90971a35cd40ed89cc664c093e48",
    "sum of 100000 terms": "bc2b7a78e7565d0d8ec123738c40bd6f5b4fde9c1566eb0e474d14ba8151669a",
    "mean": "1a4b7a37e1c7df30432b86b95a34fd8fa8c7da54def9340e1ad7542061c8e942",
    "softmax": "14fbbb8c1531f7d92abbeff7ba5367db95247e55acebf0a303ac994d3b71ffa4",
    "log_softmax": "95c53a003bd031b3143dc18ae74a39739d31f12807c234f03c5c3eb496d1172c",
    "maximum pool": "8910cc0ea4f2e5cc4670b404bfb75939e852f8b69e5b2226066df476b449e765",
    "average pool": "48f728a54c10426241ce2a1796fac51e736e1490ef4a05b37b17cad1a8dc2db2",
    "embedding gradient": "a11cbcc47ecfb6f49c4a07509ef8dd804ecfb6c7bcb9035c45ed62815c110459",
    "uniform noise": "402159e8f1c637360c7533b94f4141453c477e6bb9c3496a1f94c0a89b9522f2",
    "gradient in fixed point": "eb01817cc95b1c6fdb7b37d13309b7855d66275f7ce6dce3c2da54e3490947fd",
    "gradient's peak": "42f4aeb81c1ef81f771f3de8abca9dcf66901c575530e7672e4b1146474ae650",
    "mean gradient": "7ac33d2c8f6926a6c622eb4f4093a4f4a4c546a198f141afa3519b0a82295fff",
    "permutation": "ed42d5fefa86b71b96a66f4c9882522c0ebc4c9ed045fb11a171801cef510d49",
}
"""Case to SHA-256 of the result's bytes, little-endian, in row-major order."""
