"""Small float32 runs on the real digits, their records, and an attacker who can write any record and sign it."""

import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tallystick.canon.encoding import to_json
from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.proof.tolerant import Recorder, Run
from tallystick.proof.tolerant import record as r
from tallystick.proof.tolerant.calibrate import calibrate
from tallystick.proof.tolerant.files import reader
from tallystick.proof.tolerant.record import Entry, Link, Manifest, Record, checkpoint_name, read_record
from tallystick.proof.tolerant.run import Setup
from tallystick.proof.tolerant.state import Checkpoint, decode_checkpoint, encode_checkpoint
from tallystick.proof.tolerant.tolerance import Tolerance
from tallystick.proof.tolerant.verdict import Report
from tallystick.proof.tolerant.verify import Policy, check_record

torch.set_num_threads(1)  # the sizes here gain nothing from more, and a busy machine loses a lot

PROVER = Key.from_seed(b"p" * 32)
ATTACKER = Key.from_seed(b"a" * 32)
RECORDS, BATCH, INTERVAL, EPOCHS = 640, 32, 5, 3
STEPS = RECORDS // BATCH * EPOCHS
NONCE = b"chosen after the record was handed over"


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels[:RECORDS], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(labels[:RECORDS])


def network() -> nn.Module:
    """Everything that a record must bind: weights, running statistics, a counter, dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 10),
    )  # fmt: skip


def run_on(x: Tensor, y: Tensor, seed: int, *, lr: float = 0.05, adam: bool = False, decay: float = 1.0) -> Run:
    torch.manual_seed(seed)
    model = network()
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(model.parameters(), lr=lr)
        if adam
        else torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, decay) if decay != 1.0 else None

    def step(indices: Sequence[int]) -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[indices]), y[indices])
        loss.backward()
        optimizer.step()
        return loss

    return Run(model, optimizer, TensorDataset(x, y), step, scheduler, RECORDS // BATCH)


def setup(seed: int) -> Run:
    return run_on(*digits(), seed)


def adam_setup(seed: int) -> Run:
    return run_on(*digits(), seed, lr=0.003, adam=True, decay=0.5)


def recorder_of(path: Path, run: Run, seed: int, key: Key | None = PROVER) -> Recorder:
    return Recorder(
        path,
        run.model,
        run.optimizer,
        run.data,
        seed=seed,
        interval=INTERVAL,
        batch_size=BATCH,
        scheduler=run.scheduler,
        scheduler_every=run.scheduler_every,
        key=key,
    )


def train(path: Path, seed: int, setup: Setup = setup, *, until: int = STEPS, key: Key | None = PROVER) -> Run:
    """Trains and records; stops without finishing, as if killed, after step `until`."""
    run = setup(seed)
    recorder = recorder_of(path, run, seed, key).__enter__()
    for indices in recorder.batches(epochs=EPOCHS):
        if recorder.done == until:
            return run
        loss = run.step(indices)
        if run.scheduler is not None and (recorder.done + 1) % run.scheduler_every == 0:
            run.scheduler.step()
        recorder.step(indices, loss)
    recorder.finish()
    return run


def check(
    path: Path, tolerance: Tolerance, *, setup: Setup = setup, q: int = 1, samples: int = 3, nonce: bytes = NONCE
) -> Report:
    return check_record(path, setup, Policy(tolerance, nonce, q, samples))


def tolerance_of(paths: Sequence[Path], setup: Setup = setup) -> Tolerance:
    return calibrate(paths, setup, replays=4)


def read(path: Path) -> Record:
    return read_record(reader(path))


def checkpoint(path: Path, step: int) -> Checkpoint:
    return decode_checkpoint((path / checkpoint_name(step)).read_bytes(), "checkpoint")


def forge(
    source: Path,
    target: Path,
    *,
    checkpoints: dict[int, Checkpoint] | None = None,
    entry: Callable[[Entry], Entry] = lambda entry: entry,
    manifest: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    key: Key = ATTACKER,
) -> Path:
    """A copy of a record with other content, whose hashes, chain and signatures are all in order."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    for step, state in (checkpoints or {}).items():
        (target / checkpoint_name(step)).write_bytes(encode_checkpoint(state))

    def name_of(step: int) -> str:
        return blob_name((target / checkpoint_name(step)).read_bytes())

    forged = manifest(read(source).manifest)
    forged = msgspec.structs.replace(forged, initial=name_of(0))
    encoded = to_json(forged)
    name = blob_name(encoded)
    links, chain = [], r.start(name)
    for original in read(source).entries:
        checked = None if original.checkpoint is None else name_of(original.step + 1)
        changed = entry(msgspec.structs.replace(original, checkpoint=checked))
        chain = r.extend(chain, changed)
        links.append(Link(changed, chain))
    last = links[-1].entry
    assert last.checkpoint is not None
    (target / r.MANIFEST).write_bytes(encoded)
    (target / r.TRANSCRIPT).write_bytes(r.encode_links(links))
    (target / r.COMMITMENT).write_bytes(r.commit(key, name))
    (target / r.SIGNATURE).write_bytes(r.sign(key, r.Statement(name, chain, len(links), last.checkpoint)))
    return target


def edited(state: Checkpoint, **tensors: Tensor) -> Checkpoint:
    """`state` with other tensors: `edited(state, **{"model/0.weight": t})`."""
    return Checkpoint(state.details, {**state.tensors, **tensors})


def interpolated(path: Path, steps: Sequence[int], start: int, end: int) -> dict[int, Checkpoint]:
    """States on the straight line between two checkpoints: what a forger writes instead of training."""
    left, right = checkpoint(path, start), checkpoint(path, end)
    found = {}
    for step in steps:
        share = (step - start) / (end - start)
        own = checkpoint(path, step)
        blend = {
            name: torch.lerp(left.tensors[name], value, share)
            for name, value in right.tensors.items()
            if value.is_floating_point() and name in left.tensors
        }
        found[step] = edited(own, **blend)
    return found
