"""All lines of one training step, in the order in which they follow from each other.

    the state before the step, the training records          bound to their roots
    for each micro-batch: its records, its key, the lines of the gradient graph, its fixed-point sums
    the totals, the means, the scalars of the step, the lines of the update graph, the exponents

What a line is follows from program, specification and step alone, so parties and referee number them alike. A program
of M micro-batches with n nodes has about 2 M n lines; only the section that is asked for is built.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import msgspec

from tallystick.canon.hashing import digest
from tallystick.program.schedule import Rate, rate_at
from tallystick.proof.dispute.referee.numbers import Number, float32, wide
from tallystick.proof.dispute.rules.lines import Json, Line, Lines, Operand
from tallystick.proof.dispute.rules.lowering import lower

STATE, CONTRIBUTION, RECORDS = "state", "contribution", "records"
INTEGER_BITS: Final = {"full": 20, "fast": 13}
SUM_BITS: Final = 30
TINY: Final = Fraction(1, 2**200)
"""1 less something this small is 1 in float64, and its powers would only grow longer."""


@dataclass(frozen=True)
class Section:
    """Lines that were built together."""

    first: int
    lines: Sequence[Line]
    named: Mapping[str, Operand]
    """What later sections use, by name."""
    nodes: Sequence[Operand] = ()
    """The values of the section's graph: inputs, then one for each node."""


class Step:
    """The lines of step `number` of a training run."""

    def __init__(self, program: Json, spec: Json, number: int) -> None:
        self.program, self.spec, self.number = program, spec, number
        self.batches: int = spec["micro_batches"]
        self.entry_bits = SUM_BITS - (self.batches - 1).bit_length()
        self.inputs = self._inputs()
        self.first = len(self.inputs.lines)
        self.width = len(self.batch(0).lines)
        self.tail = self._tail()
        self.count = self.tail.first + len(self.tail.lines)

    def line(self, number: int) -> Line:
        return self.section(number).lines[number - self.section(number).first]

    def section(self, number: int) -> Section:
        if number < self.first:
            return self.inputs
        return self.tail if number >= self.tail.first else self.batch((number - self.first) // self.width)

    def target(self, role: str, name: str) -> Operand:
        """The line that makes a tensor of the state after the step, or of the summed contribution."""
        return self.tail.named[f"{role}/{name}"]

    def tensors(self, role: str) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of the tensors under a root, sorted by name."""
        if role == RECORDS:
            found = [(t["name"], t["dtype"], tuple(t["shape"])) for t in self.spec["train"]["tensors"]]
        else:
            named = (item for item in self.tail.named.items() if item[0].startswith(f"{role}/"))
            found = [(name.partition("/")[2], op.dtype, op.shape) for name, op in named]
        return sorted(found)

    def _inputs(self) -> Section:
        lines, named = Lines(0), {}
        program = self.program
        specs = [(f"parameter/{t['name']}", t["dtype"], t["shape"]) for t in program["parameters"]]
        specs += [(f"buffer/{t['name']}", t["dtype"], t["shape"]) for t in program["buffers"]]
        specs += [(f"slot/{t['name']}", t["dtype"], t["shape"]) for t in program["slots"]]
        specs += [(f"exponent/{t['name']}", "int32", []) for t in self.accumulated]
        for name, dtype, shape in specs:
            named[name] = lines.add("input", dtype, shape, STATE, name)
        for t in self.spec["train"]["tensors"]:
            named[f"{RECORDS}/{t['name']}"] = lines.add("input", t["dtype"], t["shape"], RECORDS, t["name"])
        return Section(0, lines.lines, named)

    @functools.cached_property
    def moved(self) -> list[Json]:
        by_name = {t["name"]: t for t in self.program["buffers"]}
        return [by_name[name] for name in self.program["moved"]]

    @functools.cached_property
    def accumulated(self) -> list[Json]:
        return [*self.program["parameters"], *(t for t in self.moved if t["dtype"] == "float32")]

    @functools.lru_cache(maxsize=2)  # noqa: B019  # a step is dropped as a whole
    def batch(self, j: int) -> Section:
        """The lines of micro-batch j."""
        program, held = self.program, self.inputs.named
        lines, named = Lines(self.first + j * getattr(self, "width", 0)), {}
        size, records = program["batch"][0]["shape"][0], self.spec["train"]["tensors"]
        count = records[0]["shape"][0]
        epoch, place = divmod(self.number, count // (size * self.batches))
        start = (place * self.batches + j) * size
        chosen = named["order"] = lines.add("order", "int64", [size], self.spec["seed"], epoch, count, start)
        model = [held[f"parameter/{t['name']}"] for t in program["parameters"]]
        model += [held[f"buffer/{t['name']}"] for t in program["buffers"]]
        for t in program["batch"]:
            whole = held[f"{RECORDS}/{t['name']}"]
            model.append(lines.add("index_select", t["dtype"], t["shape"], whole, 0, chosen))
        model.append(lines.add("words", "int64", [2], *self._key(j)))
        bits = INTEGER_BITS[program["profile"]]
        values, outputs = lower(lines, program["gradient"], model, bits)
        parameters = program["parameters"]
        *results, loss = outputs
        names = [f"gradient/{t['name']}" for t in parameters] + [f"moved/{t['name']}" for t in self.moved]
        peaks = []
        for name, value in zip(names, results, strict=True):
            if value.dtype != "float32":
                named[name] = value
                continue
            exponent = held[f"exponent/{name.partition('/')[2]}"]
            named[name] = lines.add("fixed", "int32", value.shape, value, exponent, self.entry_bits)
            peaks.append(lines.peak((), "dims", value, list(range(len(value.shape))), False))
        named["peaks"] = lines.add("stack", "int32", [len(peaks)], *peaks)
        named["loss"] = lines.add("fixed_loss", "int64", [], loss)
        return Section(lines.first, lines.lines, named, values)

    def _key(self, j: int) -> tuple[int, int]:
        parts = b"".join(number.to_bytes(8, "big") for number in (self.spec["seed"], self.number, j))
        name = digest("tallystick/noise", parts)
        return int.from_bytes(name[:4], "big"), int.from_bytes(name[4:8], "big")

    def _tail(self) -> Section:
        program, held, first = self.program, self.inputs.named, self.batch(0).named
        lines, named = Lines(self.first + self.batches * self.width), {}
        for name, part in first.items():
            if name == "order":
                continue
            selection = ("batches", part, self.width, self.batches)
            largest = name == "peaks" or (name.startswith("moved/") and part.dtype == "int64")
            args = selection if largest else (None, *selection)
            total = lines.add("most" if largest else "sum", part.dtype, part.shape, *args)
            named[f"{CONTRIBUTION}/{name}"] = total
        parameters, slots = program["parameters"], program["slots"]
        inputs = [held[f"parameter/{t['name']}"] for t in parameters] + [held[f"slot/{t['name']}"] for t in slots]
        means = {name: self._mean(lines, named, name) for name in first if name.startswith(("gradient/", "moved/"))}
        inputs += [means[f"gradient/{t['name']}"] for t in parameters]
        inputs += [lines.add("fill", "float32", [], self._scalar(rule)) for rule in program["scalars"]]
        values, outputs = lower(lines, program["update"], inputs, INTEGER_BITS[program["profile"]])
        after = [f"parameter/{t['name']}" for t in parameters] + [f"slot/{t['name']}" for t in slots]
        named |= {f"{STATE}/{name}": value for name, value in zip(after, outputs, strict=True)}
        for t in program["buffers"]:
            name = t["name"]
            named[f"{STATE}/buffer/{name}"] = means.get(f"moved/{name}", held[f"buffer/{name}"])
        for i, t in enumerate(self.accumulated):
            name = f"exponent/{t['name']}"
            peak = lines.add("select", "int32", [], named[f"{CONTRIBUTION}/peaks"], 0, i)
            named[f"{STATE}/{name}"] = lines.add("next_exponent", "int32", [], held[name], peak)
        return Section(lines.first, lines.lines, named, values)

    def _mean(self, lines: Lines, named: Mapping[str, Operand], name: str) -> Operand:
        total = named[f"{CONTRIBUTION}/{name}"]
        if total.dtype == "int64":
            return total
        exponent = self.inputs.named[f"exponent/{name.partition('/')[2]}"]
        return lines.add("mean_of", "float32", total.shape, total, exponent, self.entry_bits, self.batches)

    def _scalar(self, rule: Json) -> Number:
        """The learning rate, or Adam's bias correction, at this step."""
        if rule["kind"] == "rate":
            schedule: Any = msgspec.convert(self.spec["learning_rate"], Rate)
            return float32(Fraction(rate_at(schedule, self.number)))
        power: Number = Fraction(1)
        base, exponent = wide(Fraction(rule["beta"])), self.number + 1
        while exponent:
            power = wide(power * base) if exponent & 1 else power
            base = wide(base * base) if base > TINY else Fraction(0)
            exponent >>= 1
        return float32(wide(1 - power))
