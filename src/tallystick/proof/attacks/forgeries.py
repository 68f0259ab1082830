"""What forgers of float32 records do: each row of the catalogue that has a counterpart there.

A forger's loop moves weights by hand, trains on other records or with other settings, and calls the recorder as an
honest loop would (`records.make_record`).
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import Tensor, nn

from tallystick.canon.sealed import open_sealed
from tallystick.program.optimizers import Tensors
from tallystick.proof.attacks import bench as b
from tallystick.proof.attacks.choices import INSTEAD, OMITTED, SEEDS, TOLERANCE_FILE
from tallystick.proof.attacks.records import (
    INTERVAL,
    PER_EPOCH,
    STEPS,
    FloatBench,
    Forgery,
    Loop,
    Q,
    honestly,
    make_record,
    setup_on,
)
from tallystick.proof.tolerant import record as r
from tallystick.proof.tolerant.run import Run
from tallystick.proof.tolerant.state import restore

LONG_EPOCHS: Final = 35
NEARLY_NOTHING: Final = 1e-12
EDIT: Final = 1e-4
WEIGHT, MEAN, COUNTER = "4.weight", "1.running_mean", "1.num_batches_tracked"


def infinitesimal(bench: FloatBench, path: Path) -> Forgery:
    steps, begun = LONG_EPOCHS * PER_EPOCH, _weights(setup_on(bench.data)(1))

    def loop(run: Run, step: int, due: list[int]) -> list[int]:
        run.optimizer.param_groups[0]["lr"] = NEARLY_NOTHING
        _put(run, {n: torch.lerp(w, bench.wanted[n], (step + 1) / steps) for n, w in begun.items()})
        run.model.get_buffer(COUNTER).add_(1)
        return due

    def slow(run: Run) -> None:
        run.optimizer.param_groups[0]["lr"] = NEARLY_NOTHING

    make_record(path, setup_on(bench.data), loop, epochs=LONG_EPOCHS, start=slow)
    return Forgery(path, LONG_EPOCHS)


def blindfold(bench: FloatBench, path: Path) -> Forgery:
    """Half of each epoch is real; the hops between are half as long as the shorter real segment of the epoch."""
    wanted = bench.wanted
    before: dict[str, Tensor] = {}
    lengths: list[float] = []

    def loop(run: Run, step: int, due: list[int]) -> list[int]:
        segment, place = divmod(step % PER_EPOCH, INTERVAL)
        if segment == 0 and place == 0:
            lengths.clear()
        if segment >= Q:
            now = _weights(run)
            way = _distance(now, wanted)
            share = min(1.0, min(lengths) / 2 / INTERVAL / way) if way else 0.0
            _put(run, {name: torch.lerp(value, wanted[name], share) for name, value in now.items()})
            run.model.get_buffer(COUNTER).add_(1)
            return due
        if place == 0:
            before.update(_weights(run))
        run.step(due)
        if place == INTERVAL - 1:
            lengths.append(_distance(before, _weights(run)))
        return due

    return Forgery(make_record(path, setup_on(bench.data), loop))


def optimized_data(bench: FloatBench, path: Path) -> Forgery:
    return Forgery(make_record(path, setup_on(bench.optimized)), data=bench.optimized)


def ranked_start(bench: FloatBench, path: Path) -> Forgery:
    def start(run: Run) -> None:
        ordered = {}
        for name, value in _weights(run).items():
            flat = torch.empty_like(value).reshape(-1)
            flat[bench.wanted[name].reshape(-1).argsort()] = value.reshape(-1).sort().values
            ordered[name] = flat.reshape(value.shape)
        _put(run, ordered)

    return Forgery(make_record(path, setup_on(bench.data), start=start))


def stolen_start(bench: FloatBench, path: Path) -> Forgery:
    def start(run: Run) -> None:
        run.model.load_state_dict(bench.wanted)

    return Forgery(make_record(path, setup_on(bench.data), start=start))


def stitched(bench: FloatBench, path: Path) -> Forgery:
    def loop(run: Run, step: int, due: list[int]) -> list[int]:
        if step == STEPS // 2:
            restore(run, bench.checkpoint("other-2", STEPS // 2))
        return honestly(run, step, due)

    return Forgery(make_record(path, setup_on(bench.data), loop))


def injected_momentum(bench: FloatBench, path: Path) -> Forgery:
    def loop(run: Run, step: int, due: list[int]) -> list[int]:
        run.step(due)
        if step == STEPS // 2 - 1:
            weight = run.model.get_parameter(WEIGHT)
            push = (weight.detach() - bench.wanted[WEIGHT]) / float(b.RATE)
            run.optimizer.state[weight]["momentum_buffer"] += push
        return due

    return Forgery(make_record(path, setup_on(bench.data), loop))


def edited_buffer(bench: FloatBench, path: Path) -> Forgery:
    return Forgery(make_record(path, setup_on(bench.data), _at_the_end(lambda run: run.model.get_buffer(MEAN).add_(1))))


def other_rate(bench: FloatBench, path: Path) -> Forgery:
    def slow(run: Run) -> None:
        run.optimizer.param_groups[0]["lr"] = 0.001

    return Forgery(make_record(path, setup_on(bench.data), start=slow))


def ground_order(bench: FloatBench, path: Path) -> Forgery:
    """Whichever of several runs ends with the lowest loss; the others are not shown."""
    losses = {}
    for seed in SEEDS:
        run: list[Run] = []
        make_record(path.with_name(f"{path.name}-{seed}"), setup_on(bench.data), seed=seed, start=run.append)
        losses[seed] = _loss(run[0], bench.data)
    best = min(SEEDS, key=losses.__getitem__)
    return Forgery(path.with_name(f"{path.name}-{best}"))


def relabeled(bench: FloatBench, path: Path) -> Forgery:
    labels = bench.data["y"].clone()
    labels[0] = (labels[0] + 1) % b.CLASSES
    forged = {**bench.data, "y": labels}
    return Forgery(make_record(path, setup_on(forged)), data=forged)


def omitted(bench: FloatBench, path: Path) -> Forgery:
    def loop(run: Run, step: int, due: list[int]) -> list[int]:
        return honestly(run, step, [INSTEAD if index == OMITTED else index for index in due])

    return Forgery(make_record(path, setup_on(bench.data), loop))


def no_dropout(bench: FloatBench, path: Path) -> Forgery:
    return Forgery(make_record(path, setup_on(bench.data, drop=0.0)))


def edited_end(bench: FloatBench, path: Path) -> Forgery:
    return Forgery(make_record(path, setup_on(bench.data), _at_the_end(lambda run: _nudge(run, EDIT))))


def taken_over(bench: FloatBench, path: Path) -> Forgery:
    shutil.copytree(bench.folder / "other-2", path)
    signed = (path / r.SIGNATURE).read_bytes()
    opened = open_sealed(signed, r.SIGNATURE_DOMAIN, limit=r.MAX_SEALED_BYTES, what=r.SIGNATURE)
    statement = msgspec.json.decode(opened.payload, type=r.Statement)
    (path / r.COMMITMENT).write_bytes(r.commit(b.CLIENT, statement.manifest))
    (path / r.SIGNATURE).write_bytes(r.sign(b.CLIENT, statement))
    return Forgery(path)


def bad_segment(bench: FloatBench, path: Path) -> Forgery:
    """In the second segment of the third epoch, one weight moves by three times the threshold."""

    def loop(run: Run, step: int, due: list[int]) -> list[int]:
        run.step(due)
        if step == 2 * PER_EPOCH + 2 * INTERVAL - 1:
            _nudge(run, 3 * bench.delta)
        return due

    return Forgery(make_record(path, setup_on(bench.data), loop))


def last_step_backdoor(bench: FloatBench, path: Path) -> Forgery:
    x = bench.data["x"].clone()
    x[:, 0] = 8.0
    zeros = torch.zeros_like(bench.data["y"])

    def loop(run: Run, step: int, due: list[int]) -> list[int]:
        if step < STEPS - 1:
            return honestly(run, step, due)
        run.optimizer.zero_grad()
        nn.functional.cross_entropy(run.model(x[due]), zeros[due]).backward()
        run.optimizer.step()
        return due

    return Forgery(make_record(path, setup_on(bench.data), loop))


def not_a_number(bench: FloatBench, path: Path) -> Forgery:
    return Forgery(make_record(path, setup_on(bench.data), _at_the_end(lambda run: _nudge(run, float("nan")))))


def own_tolerance(bench: FloatBench, path: Path) -> Forgery:
    make_record(path, setup_on(bench.data), _at_the_end(lambda run: _nudge(run, 3 * bench.delta)))
    (path / TOLERANCE_FILE).write_text('{"format":"tallystick-tolerance-v1","fraction":1e9}')
    return Forgery(path)


FORGERIES: Final[dict[int, Callable[[FloatBench, Path], Forgery]]] = {
    1: infinitesimal,
    2: blindfold,
    3: optimized_data,
    4: ranked_start,
    5: stolen_start,
    6: stitched,
    7: injected_momentum,
    8: edited_buffer,
    9: other_rate,
    10: ground_order,
    11: relabeled,
    12: omitted,
    13: no_dropout,
    14: edited_end,
    16: taken_over,
    17: ground_order,
    18: bad_segment,
    19: last_step_backdoor,
    20: not_a_number,
    23: own_tolerance,
}
"""Rows of the catalogue that have a counterpart in float32."""


# ---- what they do to a run


def _weights(run: Run) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in run.model.named_parameters()}


def _put(run: Run, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in run.model.named_parameters():
            value.copy_(weights[name])


def _nudge(run: Run, by: float) -> None:
    with torch.no_grad():
        run.model.get_parameter(WEIGHT)[0, 0] += by


def _at_the_end(change: Callable[[Run], object]) -> Loop:
    def loop(run: Run, step: int, due: list[int]) -> list[int]:
        run.step(due)
        if step == STEPS - 1:
            change(run)
        return due

    return loop


def _distance(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    return float(torch.stack([(left[name] - right[name]).square().sum() for name in left]).sum().sqrt())


def _loss(run: Run, data: Tensors) -> float:
    run.model.eval()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(run.model(data["x"]), data["y"]))
