"""Attacks that need a tolerance, a foreseeable verifier or a start of one's own: rows 1 to 5."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tallystick.exact.rounding import canonical
from tallystick.program.optimizers import Tensors
from tallystick.program.training import record_indices, train_step
from tallystick.proof.attacks import bench as b
from tallystick.proof.attacks.attempt import Attack, Finding
from tallystick.proof.attacks.bench import Bench, between, forge, honestly, idle_total
from tallystick.proof.directory import Places, open_proof
from tallystick.proof.lineage import parent_of, verify_lineage
from tallystick.proof.recorder import Run
from tallystick.proof.verify import How, verify

REAL: Final = frozenset({0, 4, b.SEGMENTS - 1})
"""Segments in which the blindfolder works: the ends, which are always looked at, and one that looks large."""
SHORT_OF_REAL: Final = 0.5
ROUNDS: Final = 12
Aim = Literal["every batch", "no movement", "one batch per segment"]


def infinitesimal(bench: Bench, path: Path) -> Path:
    """Row 1: a straight line from the start to somebody else's model, without training."""
    total = idle_total(bench)
    return forge(bench, path, lambda step, _: (between(bench.initial, bench.wanted, (step + 1) / b.STEPS), total))


def blindfold(bench: Bench, path: Path) -> Path:
    """Row 2: real work where updates are largest, and between it short hops toward the wanted model."""
    total, hop = idle_total(bench), _hop(bench)

    def stepper(step: int, state: Tensors) -> tuple[Tensors, Tensors]:
        if step // b.SEGMENT in REAL:
            return train_step(bench.training, state, step)
        way = _distance(state, bench.wanted)
        return between(state, bench.wanted, min(1.0, hop / way) if way else 0.0), total

    return forge(bench, path, stepper)


def _hop(bench: Bench) -> float:
    """Per step: a segment of hops is half as long as the shortest honest one, and the sum of real ones is longer."""
    starts = range(0, b.STEPS, b.SEGMENT)
    shortest = min(_distance(bench.states[at], bench.states[at + b.SEGMENT]) for at in starts)
    return SHORT_OF_REAL * shortest / b.SEGMENT


def _distance(left: Tensors, right: Tensors) -> float:
    names = [name for name in left if name.startswith("parameter/")]
    return float(torch.stack([(left[name] - right[name]).square().sum() for name in names]).sum().sqrt())


def optimized_data(aim: Aim) -> Callable[[Bench, Path], Path]:
    """Row 3: records moved until their gradients are the wanted ones; then training on them is honest."""

    def make(bench: Bench, path: Path) -> Path:
        forged = optimized_records(bench, aim)
        training = replace(bench.training, records=forged)
        return forge(bench, path, lambda step, state: train_step(training, state, step), train=forged)

    return make


def optimized_records(bench: Bench, aim: Aim) -> Tensors:
    """Zhang et al.: the squared distance of a batch's gradient from the wanted one, minimized over the batch."""
    x, y = bench.training.records["x"].clone(), bench.training.records["y"]
    steps = range(1, b.RECORDS // b.BATCH)  # from the first batch come the exponents of the committed start
    chosen = [step for step in steps if aim != "one batch per segment" or (step + 1) % b.SEGMENT == 0]
    model = _without_noise(b.network())
    for step in chosen:
        indices = torch.cat([record_indices(bench.training, step, part) for part in range(b.MICRO_BATCHES)])
        x[indices] = _optimized(model, bench.states[step], bench.wanted, x[indices], y[indices], aim)
    return {"x": canonical(x), "y": y}


def _optimized(model: nn.Module, state: Tensors, wanted: Tensors, x: Tensor, y: Tensor, aim: Aim) -> Tensor:
    weights = {
        name.removeprefix("parameter/"): value.clone().requires_grad_()
        for name, value in state.items()
        if name.startswith("parameter/")
    }
    still = aim == "no movement"
    target = [torch.zeros_like(w) if still else (w - wanted[f"parameter/{n}"]).detach() for n, w in weights.items()]
    moved = x.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([moved], max_iter=ROUNDS)

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(functional_call(model, weights, (moved,)), y)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        gap = torch.stack([(g - t).square().sum() for g, t in zip(gradients, target, strict=True)]).sum()
        total = gap + (moved - x).square().mean()
        total.backward()
        return total

    optimizer.step(objective)
    return torch.nan_to_num(moved.detach())


def _without_noise(model: nn.Module) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    return model


def ranked_start(bench: Bench, path: Path) -> Path:
    """Row 4: random weights, put in the order of the wanted model's; then honest training."""
    start = b.begun(bench.training, ranked(bench.initial, bench.wanted))
    return forge(bench, path, honestly(bench), initial=start)


def ranked(random: Tensors, wanted: Tensors) -> Tensors:
    """The same numbers as in `random`, in each tensor in the rank order of `wanted`."""
    result = dict(random)
    for name, value in random.items():
        if value.is_floating_point():
            flat = torch.empty_like(value).reshape(-1)
            flat[wanted[name].reshape(-1).argsort()] = value.reshape(-1).sort().values
            result[name] = flat.reshape(value.shape)
    return result


def stolen_start(bench: Bench, path: Path) -> object:
    """Row 5: an honest proof of a short way from somebody else's finished model, under a specification of one's own."""
    return b.record(path, stolen_run(bench), b.ATTACKER)


def stolen_run(bench: Bench) -> Run:
    return b.specified(bench.training, bench.run.program, b.begun(bench.training, bench.wanted))


def false_parent(bench: Bench, path: Path) -> object:
    """Row 5: the same, and a commitment that says it starts from a verified proof, which ends in another model."""
    return b.record(path, stolen_run(bench), b.ATTACKER, parent_of(open_proof(Places(bench.honest))))


def with_parent(bench: Bench, path: Path) -> Finding:
    """What a verifier says who takes another start if a verified proof ends in it."""
    verdict = verify_lineage(Places(path), [Places(bench.honest)], "full", lambda places: verify(places, How()))
    return Finding("accepted" if verdict.outcome == "verified" else "caught", verdict.code)


ATTACKS: Final = (
    Attack(1, "infinitesimal update", infinitesimal, "wrong_tensor"),
    Attack(2, "blindfold top-Q", blindfold, "wrong_tensor"),
    Attack(3, "optimized data I: every batch", optimized_data("every batch"), "wrong_train_data"),
    Attack(3, "optimized data II: batches that move nothing", optimized_data("no movement"), "wrong_train_data"),
    Attack(3, "optimized data III: one batch per segment", optimized_data("one batch per segment"), "wrong_train_data"),
    Attack(4, "rank-matched start", ranked_start, "wrong_initial_state"),
    Attack(5, "stolen start", stolen_start, "unwanted_spec"),
    Attack(5, "stolen start with a false parent", false_parent, "wrong_parent", judge=with_parent),
)
