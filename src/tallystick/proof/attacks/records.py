"""The same attacks on records of float32 training, for the verifiers that compare within a tolerance.

A recorder notes what the loop says, so a forger's loop just says something else (`forgeries`). Here are the training
that they forge, how a record of any loop is made, and the two verifiers that are asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tallystick.errors import Refused
from tallystick.program.optimizers import Tensors
from tallystick.proof.attacks import bench as b
from tallystick.proof.attacks.attempt import Finding
from tallystick.proof.attacks.bench import Bench
from tallystick.proof.attacks.steering import optimized_records
from tallystick.proof.tolerant.baseline2021 import FRACTION_OF_REFERENCE, verify_2021
from tallystick.proof.tolerant.calibrate import calibrate
from tallystick.proof.tolerant.files import reader
from tallystick.proof.tolerant.record import checkpoint_name, read_record
from tallystick.proof.tolerant.recorder import Recorder
from tallystick.proof.tolerant.run import Run, Setup
from tallystick.proof.tolerant.state import Checkpoint, decode_checkpoint
from tallystick.proof.tolerant.tolerance import Tolerance
from tallystick.proof.tolerant.verify import Policy, check_record

EPOCHS, INTERVAL = 5, 5
PER_EPOCH: Final = b.RECORDS // b.BATCH
STEPS: Final = EPOCHS * PER_EPOCH
SEGMENTS_PER_EPOCH: Final = PER_EPOCH // INTERVAL
OTHERS: Final = (2, 3)
"""Seeds of the verifier's own runs, which it calibrates with; the first ends in the model that forgers want."""
Q: Final = 2
NONCE: Final = b"chosen after the record was handed over"

Loop = Callable[[Run, int, list[int]], list[int]]
"""From the run, the number of the step and the records that are due to the records that it says to have used."""


@dataclass(frozen=True)
class Forgery:
    """A record, and how many epochs it says to have."""

    path: Path
    epochs: int = EPOCHS
    data: Tensors | None = None
    """The records that the prover used and hands over, where they are not the client's."""


@dataclass(frozen=True)
class FloatBench:
    """The client's training in float32, and a verifier's thresholds for it."""

    folder: Path
    data: Tensors
    tolerance: Tolerance
    optimized: Tensors
    """Records of row 3."""

    @property
    def delta(self) -> float:
        """The threshold of the 2021 verifier."""
        return FRACTION_OF_REFERENCE * self.tolerance.reference.l2

    def checkpoint(self, name: str, step: int) -> Checkpoint:
        return decode_checkpoint((self.folder / name / checkpoint_name(step)).read_bytes(), "checkpoint")

    @property
    def wanted(self) -> dict[str, Tensor]:
        return self.checkpoint("other-2", STEPS).part("model/")


def setup_on(data: Tensors, *, drop: float = 0.1) -> Setup:
    """A training file: builds the run on these records from the seed alone."""

    def setup(seed: int) -> Run:
        torch.manual_seed(seed)
        model = b.network()
        optimizer = torch.optim.SGD(model.parameters(), lr=float(b.RATE), momentum=0.9)

        def step(indices: Sequence[int]) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(data["x"][indices]), data["y"][indices])
            loss.backward()
            optimizer.step()
            return loss

        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = drop
        return Run(model, optimizer, TensorDataset(data["x"], data["y"]), step)

    return setup


def honestly(run: Run, step: int, due: list[int]) -> list[int]:
    run.step(due)
    return due


def make_record(
    path: Path,
    setup: Setup,
    loop: Loop = honestly,
    *,
    seed: int = 1,
    epochs: int = EPOCHS,
    start: Callable[[Run], object] = lambda run: None,
) -> Path:
    """A record of whatever `loop` does to a run that `start` may have changed before."""
    run = setup(seed)
    start(run)
    recorder = Recorder(
        path, run.model, run.optimizer, run.data, seed=seed, interval=INTERVAL, batch_size=b.BATCH, key=b.ATTACKER
    )
    with recorder:
        for due in recorder.batches(epochs=epochs):
            recorder.step(loop(run, recorder.done, due))
    return path


def make_float_bench(bench: Bench, folder: Path) -> FloatBench:
    """Records of the verifier's own, its thresholds, and the attacker's optimized data."""
    data = dict(bench.training.records)
    for seed in OTHERS:
        make_record(folder / f"other-{seed}", setup_on(data), seed=seed)
    paths = [folder / f"other-{seed}" for seed in OTHERS]
    tolerance = calibrate(paths, setup_on(data), replays=4)
    return FloatBench(folder, data, tolerance, optimized_records(bench, "every batch"))


def ask_tolerant(bench: FloatBench, forgery: Forgery) -> Finding:
    """The tolerant verifier, which has its own copy of records and code and replays as many segments as there are."""
    policy = Policy(bench.tolerance, NONCE, Q, forgery.epochs * SEGMENTS_PER_EPOCH)
    report = check_record(forgery.path, setup_on(bench.data), policy)
    return Finding("accepted" if report.outcome == "consistent_within_tolerance" else "caught", report.code)


def ask_2021(bench: FloatBench, forgery: Forgery) -> Finding:
    """The verifier of 2021, which has its own code and takes the records from the prover."""
    read = reader(forgery.path)
    try:
        record = read_record(read)
        verdict = verify_2021(
            record, read, setup_on(forgery.data or bench.data), delta=bench.delta, epochs=forgery.epochs, q=Q
        )
    except Refused as refused:
        return Finding("caught", refused.code)
    if verdict.valid:
        return Finding("accepted", "valid")
    unlikely = verdict.start_p is not None and verdict.start_p < 0.01
    return Finding("caught", "unlikely_start" if unlikely else "distance")
