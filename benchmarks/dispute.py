"""Disputes: rounds, bytes and the referee's time, for a model of 100,000 parameters and 10,000 steps, and others.

    python -m benchmarks.dispute [--quick] [--json FILE]

Each model is trained twice, by an honest party and by one that lies about one step; then the game is played, once for
each kind of lie, and judged again from its bytes. The first model is the one with limits; the others are
other models that come with the project, made small: what a dispute costs depends on the program and tensors of a step.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import nn

from benchmarks.models import MLP, SmallCNN, SmallResNet, Transformer
from benchmarks.report import Row, progress, publish
from tallystick.canon.hashing import blob_name
from tallystick.demo.disputes import FAULTS, Insisting, Result, agreed_by, lies_of, play
from tallystick.program.graph import encode_program
from tallystick.program.optimizers import SGD, Adam, Optimizer, Tensors
from tallystick.program.schedule import ConstantRate
from tallystick.program.spec import DataSet, TrainingSpec, encode_spec
from tallystick.program.trace import specs, trace
from tallystick.program.training import Training, initial_state, prepare_training
from tallystick.proof.dispute.party import Party
from tallystick.proof.dispute.replay import Replay
from tallystick.proof.dispute.rules.step import Step
from tallystick.proof.roots import records_root, state_root

BARS: Final = {"rounds": 40.0, "kB": 200.0, "ms": 50.0}
NOBODY: Final = "0" * 64


@dataclass(frozen=True)
class Case:
    what: str
    model: Callable[[], nn.Module]
    records: Callable[[], Tensors]
    batch: int
    steps: int
    optimizer: Optimizer
    barred: bool = False


def _images(shape: tuple[int, ...], count: int) -> Tensors:
    generator = torch.Generator().manual_seed(7)
    x = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    return {"x": x, "y": torch.randint(0, 10, (count,), generator=generator)}


def _floats(shape: tuple[int, ...], count: int) -> Tensors:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(count, *shape, generator=generator)
    return {"x": x, "y": torch.randint(0, 10, (count,), generator=generator)}


def _text(length: int, count: int) -> Tensors:
    tokens = torch.randint(0, 96, (count, length + 1), generator=torch.Generator().manual_seed(7))
    return {"x": tokens[:, :-1].contiguous(), "y": tokens[:, 1:].contiguous()}


CASES: Final = (
    Case(
        "MLP of 100,180 parameters, 10,000 steps",
        lambda: MLP(784, 126, 10),
        lambda: _images((1, 28, 28), 200),
        4,
        10_000,
        SGD(0.9),
        True,
    ),
    Case("MLP 64-64-10, 80 steps", lambda: MLP(64, 64, 10), lambda: _images((64,), 200), 16, 80, SGD(0.9)),
    Case("small CNN, 50 steps", SmallCNN, lambda: _images((1, 28, 28), 200), 8, 50, SGD(0.9)),
    Case("ResNet on 32x32, 4 steps", SmallResNet, lambda: _floats((3, 32, 32), 40), 4, 4, SGD(0.9)),
    Case(
        "transformer 4x256, 4 steps, Adam",
        lambda: Transformer(length=32),
        lambda: _text(32, 40),
        2,
        4,
        Adam(),
    ),
)


def prepared(case: Case) -> tuple[Training, Tensors, bytes, bytes]:
    """The run, its state before step 0, and the bytes of program and specification."""
    torch.manual_seed(7)
    records = case.records()
    example = {name: value[: case.batch] for name, value in records.items()}
    traced = trace(case.model(), _loss, case.optimizer, example)
    program = encode_program(traced.program)
    spec = TrainingSpec(
        format="tallystick-training-v1",
        program=blob_name(program),
        initial_state=NOBODY,
        initial_root=NOBODY,
        train=DataSet(NOBODY, records_root(records), specs(records)),
        test=None,
        steps=case.steps,
        micro_batches=2,
        seed=11,
        learning_rate=ConstantRate("0.001"),
    )
    initial = initial_state(
        prepare_training(spec, traced.program, records), traced.parameters, traced.slots, traced.buffers
    )
    spec = msgspec.structs.replace(spec, initial_root=state_root(initial, 0))
    return prepare_training(spec, traced.program, records), initial, program, encode_spec(spec)


def _loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output.reshape(-1, output.shape[-1]), target.reshape(-1))


def games(case: Case, faults: tuple[str, ...]) -> Iterator[tuple[str, Result]]:
    training, initial, program, spec = prepared(case)
    decoded = (json.loads(program), json.loads(spec), bytes.fromhex(blob_name(spec)))
    progress(f"{case.what}: the honest run")
    honest = Replay(training, *decoded, initial, case.steps)
    step = Step(decoded[0], decoded[1], case.steps * 3 // 4)
    for fault in faults:
        progress(f"{case.what}: a lie about {fault}")
        liar = honest.departing(lies_of(fault, step))
        parties = [Insisting(liar, 0), Party(honest, 1)]
        result = play(agreed_by(parties, spec), program, spec, parties)
        assert result.outcome.losers == (0,), result.outcome
        yield fault, result


def rows(cases: tuple[Case, ...], faults: tuple[str, ...]) -> Iterator[Row]:
    for case in cases:
        found = dict(games(case, faults))
        for unit, value in (
            ("rounds", lambda r: float(r.rounds)),
            ("kB", lambda r: r.nbytes / 1000),
            ("ms", lambda r: r.seconds * 1000),
        ):
            worst = max(found, key=lambda fault: value(found[fault]))
            measured, bar = value(found[worst]), BARS[unit] if case.barred else None
            note = ", ".join(f"{fault} {value(result):.4g}" for fault, result in found.items())
            met = None if bar is None else measured <= bar
            yield Row(f"dispute: {case.what}", unit, measured, bar, "limit", None, None, met, note)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rounds, bytes and referee time of disputes.")
    parser.add_argument("--quick", action="store_true", help="The small MLP alone.")
    parser.add_argument("--json", type=Path, help="Also write the report here.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    publish(rows(CASES[1:2] if options.quick else CASES, FAULTS), 1, options.json)


if __name__ == "__main__":
    main()
