"""Whole training steps from the canonical JSON of program and specification, and the roots of the states.

A state maps names to arrays, as in docs/exact-v1.md ("A step") and docs/proof-format.md ("Roots").
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np

from .accumulate import loss_to_fixed, mean_of, next_exponent, peak_of, to_fixed
from .operators import OPERATORS, PRODUCTS
from .philox import permutation
from .values import F32, I64, Array, f32

State = dict[str, Array]
BITS: Final = {"full": 20, "fast": 13}
PI: Final = 0x3243F6A8885A308D313198A2E03707344A4093822299F31D008  # floor(pi * 2**200)


@dataclass(frozen=True)
class Run:
    program: Any
    spec: Any
    records: Mapping[str, Array]


def read(program: bytes, spec: bytes, records: Mapping[str, Array]) -> Run:
    return Run(json.loads(program), json.loads(spec), records)


def train_step(run: Run, state: State, t: int) -> State:
    """The state after step t."""
    parts = [contribution(run, state, t, j) for j in range(run.spec["micro_batches"])]
    return advance(run, state, t, parts)


def contribution(run: Run, state: State, t: int, j: int) -> tuple[dict[str, Array], dict[str, int], int]:
    """Fixed-point sums by name, the peak of each, and the loss, of one micro-batch."""
    program = run.program
    chosen = records_of(run, t, j)
    inputs = [*held(run, state), *(run.records[spec["name"]][chosen] for spec in program["batch"])]
    *values, loss = run_graph(program["gradient"], BITS[program["profile"]], [*inputs, noise_key(run, t, j)])
    names = [*names_of(program["parameters"]), *program["moved"]]
    fixed, peaks = {}, {}
    for name, value in zip(names, values, strict=True):
        fixed[name] = value
        if value.dtype == F32:
            peaks[name] = peak_of(value)
            fixed[name] = to_fixed(value, int(state[f"exponent/{name}"]), run.spec["micro_batches"])
    return fixed, peaks, loss_to_fixed(loss)


def advance(run: Run, state: State, t: int, parts: Iterable[tuple[dict[str, Array], dict[str, int], int]]) -> State:
    program, count = run.program, run.spec["micro_batches"]
    fixed, peaks, _ = zip(*parts, strict=True)
    exponents = {name: int(state[f"exponent/{name}"]) for name in peaks[0]}
    means: State = {}
    for name in fixed[0]:
        column = [part[name] for part in fixed]
        if name in exponents:
            means[name] = mean_of(np.sum(column, 0, dtype=I64), exponents[name], count)
        else:
            means[name] = np.asarray(np.max(column, 0))
    parameters, slots = names_of(program["parameters"]), names_of(program["slots"])
    inputs = [
        *(state[f"parameter/{name}"] for name in parameters),
        *(state[f"slot/{name}"] for name in slots),
        *(means[name] for name in parameters),
        *(f32(np.array(scalar_at(scalar, run.spec["learning_rate"], t))) for scalar in program["scalars"]),
    ]
    outputs = run_graph(program["update"], BITS[program["profile"]], inputs)
    after = dict(zip([f"parameter/{p}" for p in parameters] + [f"slot/{s}" for s in slots], outputs, strict=True))
    for name in names_of(program["buffers"]):
        after[f"buffer/{name}"] = means[name] if name in program["moved"] else state[f"buffer/{name}"]
    for name, exponent in exponents.items():
        after[f"exponent/{name}"] = np.array(next_exponent(exponent, max(p[name] for p in peaks)), np.int32)
    return after


def first_exponents(run: Run, state: State) -> State:
    """What the exponents of a state before step 0 are."""
    parts = run_graph(
        run.program["gradient"],
        BITS[run.program["profile"]],
        [
            *held(run, state),
            *(run.records[spec["name"]][records_of(run, 0, 0)] for spec in run.program["batch"]),
            noise_key(run, 0, 0),
        ],
    )
    names = [*names_of(run.program["parameters"]), *run.program["moved"]]
    return {
        f"exponent/{name}": np.array(peak_of(value) + 4, np.int32)
        for name, value in zip(names, parts[:-1], strict=True)
        if value.dtype == F32
    }


def held(run: Run, state: State) -> list[Array]:
    parameters, buffers = names_of(run.program["parameters"]), names_of(run.program["buffers"])
    return [*(state[f"parameter/{p}"] for p in parameters), *(state[f"buffer/{b}"] for b in buffers)]


def names_of(specs: list[Any]) -> list[str]:
    return [spec["name"] for spec in specs]


def records_of(run: Run, t: int, j: int) -> list[int]:
    size, m = run.program["batch"][0]["shape"][0], run.spec["micro_batches"]
    n = run.spec["train"]["tensors"][0]["shape"][0]
    epoch, p = divmod(t, n // (m * size))
    start = (p * m + j) * size
    return permutation(run.spec["seed"], epoch, n)[start : start + size]


def noise_key(run: Run, t: int, j: int) -> Array:
    place = b"".join(number.to_bytes(8, "big") for number in (run.spec["seed"], t, j))
    name = digest("tallystick/noise", place)
    return np.array([int.from_bytes(name[:4], "big"), int.from_bytes(name[4:8], "big")], I64)


def run_graph(graph: Any, bits: int, inputs: list[Array]) -> list[Array]:
    values = list(inputs)
    for node in graph["nodes"]:
        args = [_argument(arg, values) for arg in node["args"]]
        kwargs = {name: _argument(arg, values) for name, arg in node["kwargs"].items()}
        profile = {"bits": bits} if node["op"] in PRODUCTS else {}
        value = OPERATORS[node["op"]](*args, **kwargs, **profile)
        declared = (node["result"]["dtype"], tuple(node["result"]["shape"]))
        assert (value.dtype.name, value.shape) == declared, (node["op"], value.dtype, value.shape, declared)
        values.append(value)
    return [values[ref["index"]] for ref in graph["outputs"]]


def _argument(arg: Any, values: list[Array]) -> Any:
    if isinstance(arg, list):
        return [_argument(item, values) for item in arg]
    if not isinstance(arg, dict):
        return arg
    match arg["kind"]:
        case "value":
            return values[arg["index"]]
        case "float":
            return float.fromhex(arg["hex"])
        case _:
            return np.dtype(arg["name"])


def scalar_at(scalar: Any, rate: Any, t: int) -> float:
    if scalar["kind"] == "rate":
        return float(rate_at(rate, t))
    r, b, exponent = 1.0, float(Fraction(scalar["beta"])), t + 1
    while exponent:
        r = r * b if exponent % 2 else r
        b, exponent = b * b, exponent // 2
    return 1.0 - r


def rate_at(rate: Any, t: int) -> Fraction:
    first = Fraction(rate["rate"])
    match rate["kind"]:
        case "constant":
            return first
        case "step":
            for _ in range(t // rate["every"]):
                first = Fraction(first * Fraction(rate["factor"]) * 2**256 // 1, 2**256)
            return first
    if t < rate["warm_up"]:
        return first * Fraction(t + 1, rate["warm_up"])
    span = max(rate["steps"] - rate["warm_up"], 1)
    g = Fraction(min(t - rate["warm_up"], span), span)
    last = Fraction(rate["last"])
    return last + (first - last) * (1 - g if rate["kind"] == "linear" else (1 + cosine(g)) / 2)


def cosine(g: Fraction) -> Fraction:
    """cos(pi * g)."""
    if g > Fraction(1, 2):
        return -cosine(1 - g)
    a = PI * g.numerator // g.denominator // 2**72
    s = a * a // 2**128
    total = term = 2**128
    n = 0
    while term:
        n += 2
        term = term * s // 2**128 // (n * (n - 1))
        total += term if n % 4 == 0 else -term
    return Fraction(total, 2**128)


def state_root(state: State, steps: int) -> str:
    """The root of the state after so many steps."""
    leaves = [leaf(tensor_digest(name, state[name])) for name in sorted(state)]
    return digest("tallystick/state", steps.to_bytes(8, "big"), len(state).to_bytes(8, "big"), merkle(leaves)).hex()


def tensor_digest(name: str, value: Array) -> bytes:
    data = np.ascontiguousarray(value).tobytes()
    chunks = [leaf(data[at : at + 4096]) for at in range(0, len(data), 4096)]
    sizes = b"".join(size.to_bytes(8, "big") for size in value.shape)
    return digest("tallystick/tensor", name.encode(), value.dtype.name.encode(), sizes, merkle(chunks))


def digest(domain: str, *parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in (domain.encode(), *parts))).digest()


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def merkle(leaves: list[bytes]) -> bytes:
    """RFC 6962: split at the largest power of two below the number of leaves."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    half = 2 ** ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\1" + merkle(leaves[:half]) + merkle(leaves[half:])).digest()
