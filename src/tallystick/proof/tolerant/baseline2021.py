"""The verifier of 2021 (Jia et al., IEEE S&P 2021, arXiv 2103.05633), as its paper and its code have it.

It is here to measure against and decides nothing. What is known to be weak in it is kept on purpose:

1. The start is judged by its distribution alone: one Kolmogorov-Smirnov test per layer, so weights in any order pass.
   The smallest p-value is compared with 0.01 without correcting for the number of layers, so honest starts fail, too.
2. Only the Q largest updates of each epoch are run again, and the prover knows which these are.
3. Replays restore the prover's optimizer, settings included: the learning rate is whatever the checkpoint says.
4. Distances are of the trainable parameters: running statistics and optimizer slots are never compared.
5. `distance > delta` decides, and it is false for a NaN.
6. The data hash covers what NumPy prints of each array (108 of the 3,072 bytes of a CIFAR image), and no label.
7. Nothing ties segments to each other, the end to a model, or the record to a time.

What made the published code unusable is not kept: pickled checkpoints, evaluated names, `--delta` and a single metric
that crash, the printed result. Cosine distance divides by one norm twice in the code; it is as in the paper here, the
threshold being for l2 anyway. Randomness is recorded, as the paper asks for and its code does not do. Settings are
read from our checkpoints as Python literals.
"""

import ast
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from tallystick.errors import Refused
from tallystick.proof.tolerant.distances import Distances, Metric, distances
from tallystick.proof.tolerant.files import Read
from tallystick.proof.tolerant.record import Record, Segment
from tallystick.proof.tolerant.replay import load_checkpoint, trainable
from tallystick.proof.tolerant.run import Run, Setup, advance
from tallystick.proof.tolerant.seeding import seed_step
from tallystick.proof.tolerant.state import Checkpoint, capture, groups_of_tensors, restore

DEFAULT_Q: Final = 2
"""The published code's default; the attack code of Fang et al. uses 5."""
SMALLEST_P: Final = 0.01
FRACTION_OF_REFERENCE: Final = 0.008
"""delta as a share of d_ref for l2, from the follow-up code of the same group (k = 10)."""
MAX_SETTING_CHARACTERS: Final = 256


@dataclass(frozen=True)
class Verdict2021:
    """What the 2021 verifier finds. `valid` is its word, not ours."""

    valid: bool
    start_p: float | None
    """The smallest p-value over the layers; None if the model has no layer whose initializer is known."""
    data_agrees: bool
    replayed: tuple[int, ...]
    """Numbers of the segments that were run again."""
    largest: float
    """The largest distance among them, in the metric of delta."""
    steps_replayed: int


def verify_2021(
    record: Record,
    read: Read,
    setup: Setup,
    *,
    delta: float,
    epochs: int,
    q: int = DEFAULT_Q,
    metric: Metric = "l2",
    images: tuple[str, Iterable[np.ndarray[Any, Any]]] | None = None,
) -> Verdict2021:
    """Runs the three checks of the 2021 verifier on one of our records; only its decoding is ours.

    Args:
        delta: usually 0.008 times d_ref.
        epochs: how many, as the 2021 command line says it; checkpoints are split evenly among them.
        images: the prover's data hash and the verifier's arrays, if there are any to compare.

    Raises:
        Refused: a checkpoint cannot be read, or its settings are not literals.
    """
    run = setup(record.manifest.seed)
    names = trainable(run)
    weights = [_weights(_load(read, run, 0, record.manifest.initial), names)]
    weights += [_weights(_load(read, run, s.end, s.after), names) for s in record.segments]
    start_p = start_probability(run.model, weights[0])
    data_agrees = images is None or images[0] == abbreviated_hash(images[1])
    chosen, worst = [], 0.0
    valid = data_agrees and (start_p is None or not start_p < SMALLEST_P)
    for numbers in _by_epoch(len(record.segments), epochs):
        updates = [distances(weights[n], weights[n + 1]).of(metric) for n in numbers]
        for place in _largest(updates, q):
            segment = record.segments[numbers[place]]
            distance = _replay(setup, record, read, segment).of(metric)
            chosen.append(segment.number)
            worst = distance if math.isnan(distance) else max(worst, distance)
            if distance > delta:
                valid = False
    replayed = sum(record.segments[n].end - record.segments[n].start for n in chosen)
    return Verdict2021(valid, start_p, data_agrees, tuple(chosen), worst, replayed)


def _by_epoch(segments: int, epochs: int) -> list[range]:
    per_epoch = segments / epochs
    bounds = [round(per_epoch * epoch) for epoch in range(epochs + 1)]
    return [range(start, end) for start, end in itertools.pairwise(bounds) if end > start]


def _largest(updates: Sequence[float], q: int) -> list[int]:
    """The places of the `q` largest, as `numpy.argpartition` finds them: a NaN counts as the largest."""
    return [int(place) for place in np.argsort(np.array(updates), kind="stable")[-q:]]


def _replay(setup: Setup, record: Record, read: Read, segment: Segment) -> Distances:
    """Trains again with the prover's optimizer state and settings (weakness 3)."""
    run = setup(record.manifest.seed)
    before = _load(read, run, segment.start, segment.before)
    after = _load(read, run, segment.end, segment.after)
    advance(run, segment.start)
    restore(run, before)
    for group, recorded in zip(run.optimizer.param_groups, before.details.groups, strict=True):
        group.update({key: _literal(key, text) for key, text in recorded.items()})
    run.model.train()
    for entry in record.entries[segment.start : segment.end]:
        seed_step(record.manifest.seed, entry.step)
        run.step(entry.indices)
        if run.scheduler is not None and (entry.step + 1) % run.scheduler_every == 0:
            run.scheduler.step()
    names = trainable(run)
    reached = capture(run.model, run.optimizer, segment.end)
    return distances(_weights(after, names), _weights(reached, names))


def _literal(key: str, text: str) -> Any:
    try:
        if len(text) > MAX_SETTING_CHARACTERS:
            raise ValueError(text[:80])
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise Refused("malformed", f"checkpoint: setting {key[:80]!r} is not a literal") from None


def _load(read: Read, run: Run, step: int, name: str) -> Checkpoint:
    """Without our check for NaN (weakness 5)."""
    return load_checkpoint(read, run, step, name, finite=False)


def _weights(checkpoint: Checkpoint, names: set[str]) -> dict[str, Tensor]:
    return groups_of_tensors(checkpoint, names)["weights"]


def abbreviated_hash(images: Iterable[np.ndarray[Any, Any]]) -> str:
    """The data hash of the 2021 code: SHA-256 over `str(image)` for each image, in the order of the data set."""
    state = sha256()
    for image in images:
        state.update(str(image).encode())
    return state.hexdigest()


def start_probability(model: nn.Module, weights: dict[str, Tensor]) -> float | None:
    """The smallest p-value over linear and convolution layers, against PyTorch's default initializers.

    The published code knows layers by `fc`, `conv` or `linear` in their names; here it is their type.
    """
    found = []
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        bound = 1 / math.sqrt(layer.weight[0].numel())  # kaiming_uniform_ with a = sqrt(5) comes to this, too
        for part in ("weight", "bias"):
            tensor = weights.get(f"model/{name}.{part}" if name else f"model/{part}")
            if tensor is not None:
                found.append(uniform_probability(tensor, bound))
    return min(found) if found else None


def uniform_probability(values: Tensor, bound: float) -> float:
    """The p-value of a Kolmogorov-Smirnov test of `values` against the uniform distribution on [-bound, bound].

    The statistic is the published code's, which looks at one side of each step of the empirical distribution.
    """
    ordered = values.detach().reshape(-1).to(torch.float64).sort().values
    count = ordered.numel()
    expected = ((ordered + bound) / (2 * bound)).clamp(0, 1)
    statistic = float((expected - torch.arange(count, dtype=torch.float64) / count).abs().max())
    return kolmogorov(statistic, count)


def kolmogorov(statistic: float, count: int) -> float:
    """P(D > statistic) for `count` samples: Kolmogorov's series with the correction of Stephens (1970)."""
    root = math.sqrt(count)
    scaled = (root + 0.12 + 0.11 / root) * statistic
    if scaled < 0.2:
        return 1.0
    return min(1.0, max(0.0, 2 * sum((-1.0) ** (i - 1) * math.exp(-2 * (i * scaled) ** 2) for i in range(1, 101))))
