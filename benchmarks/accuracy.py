"""Does exact training end where plain float32 training ends? Test accuracy of both, on real data.

    python -m benchmarks.accuracy [--json FILE] [--seeds N] [--only PATTERN] [--data DIR]

Both sides start from the same weights and see the same records in the same order; a seed decides both. Data sets are
fetched, once, into --data (see docs/data.md).
"""

import argparse
import copy
import fnmatch
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from torch import nn

from benchmarks import cases
from benchmarks.measuring import PLAIN
from benchmarks.models import MLP, SmallCNN
from benchmarks.report import SHARE, Row, difference_row, missing_row, progress, publish
from tallystick.errors import TallystickError
from tallystick.network.datasets.fetch import fetch
from tallystick.program.graph import Profile
from tallystick.program.optimizers import Tensors
from tallystick.program.schedule import LinearRate, Rate, rate_at
from tallystick.program.training import Training, accuracy, record_indices, train_step

PROFILES: Final[tuple[Profile, ...]] = ("full", "fast")
BARS: Final[dict[Profile, float]] = {"full": 0.2, "fast": 0.3}
"""Most that the mean test accuracy over all seeds may differ by, percentage points."""


@dataclass(frozen=True)
class Trial:
    """A model, a data set and a budget."""

    data: str
    kind: str
    model: Callable[[], nn.Module]
    batch: int
    rate: str
    steps: int

    @property
    def schedule(self) -> Rate:
        """Falls to 0: at a constant rate the last few steps decide the accuracy, and two equally good runs differ."""
        return LinearRate(self.rate, "0", self.steps)

    @property
    def name(self) -> str:
        return f"{self.data}, {self.kind}, {self.steps} steps of {self.batch}"


TRIALS: Final = (
    Trial("digits", "MLP 64-128-10", lambda: MLP(64, 128, 10, white=16.0), 32, "0.05", 600),
    Trial("mnist", "MLP 784-256-10", lambda: MLP(784, 256, 10), 128, "0.05", 1000),
    Trial("fashion-mnist", "MLP 784-256-10", lambda: MLP(784, 256, 10), 128, "0.05", 1000),
    Trial("fashion-mnist", "small CNN", SmallCNN, 128, "0.05", 1000),
)


def compare(trial: Trial, profile: Profile, seed: int, train: Tensors, test: Tensors) -> tuple[float, float]:
    """Test accuracy in percent of one pair of runs: ours and plain PyTorch's."""
    torch.manual_seed(seed)
    model = trial.model()
    example = {name: value[: trial.batch] for name, value in train.items()}
    program = cases.traced(model, cases.loss, example, profile)
    training, state = cases.started(copy.deepcopy(model), program, train, trial.schedule, seed)
    for step in range(trial.steps):
        state, _ = train_step(training, state, step)
    train_plain(trial, model, training)
    with torch.no_grad():
        theirs = float((model.eval()(test["x"]).argmax(-1) == test["y"]).to(torch.float64).mean())
    return 100 * accuracy(training, state, test), 100 * theirs


def train_plain(trial: Trial, model: nn.Module, training: Training) -> None:
    """Trains `model` with PyTorch alone, on the records that `training` says."""
    optimizer = torch.optim.SGD(model.parameters(), lr=float(trial.rate), momentum=cases.MOMENTUM)
    for step in range(trial.steps):
        chosen = record_indices(training, step, 0)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(trial.schedule, step)
        optimizer.zero_grad()
        cases.loss(model(training.records["x"][chosen]), training.records["y"][chosen]).backward()
        optimizer.step()


def rows_of(trial: Trial, profile: Profile, seeds: int, folder: Path) -> Iterator[Row]:
    """One row for each seed, and one for their means, which has the bar."""
    label = f"{trial.name}, {profile}"
    found = safetensors.torch.load_file(fetch(trial.data, folder, progress).path)
    train, test = ({part: found[f"{use}.{part}"] for part in ("x", "y")} for use in ("train", "test"))
    pairs = []
    for seed in range(seeds):
        progress(f"training {label}, seed {seed}")
        try:
            pairs.append(compare(trial, profile, seed, train, test))
        except TallystickError as error:
            yield missing_row(f"{label}: mean", SHARE, PLAIN, BARS[profile], f"not supported: {error}")
            return
        yield difference_row(f"{label}: seed {seed}", *pairs[-1], PLAIN, None)
    ours, theirs = (statistics.fmean(column) for column in zip(*pairs, strict=True))
    yield difference_row(f"{label}: mean", ours, theirs, PLAIN, BARS[profile])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for both sides")
    parser.add_argument("--only", default="", help='trials, such as "digits" or "mnist*fast"')
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder for the data sets")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for trial in TRIALS:
        for profile in PROFILES:
            if fnmatch.fnmatch(f"{trial.name}, {profile}", f"*{options.only}*"):
                rows += list(rows_of(trial, profile, options.seeds, options.data))
    if not rows:
        parser.error(f"--only {options.only!r} matches no trial; there are: {'; '.join(t.name for t in TRIALS)}")
    publish(rows, options.threads, options.json)


if __name__ == "__main__":
    main()
