"""Small real proofs, and what an attacker who holds the key can do to them.

Other tests borrow `sample()`: a perceptron 6-8-3 with momentum, eight steps of two micro-batches of four records, in
segments of three steps: 0-2, 3-5 and 6-7. `sample().write(path)` makes its proof.

    sample().write(path, tamper=lambda step, state, total: ...)   a prover who changes what a step leads to
    resign(path, {name: bytes})                                   one who replaces files and signs the result
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.program.graph import encode_program, program_name
from tallystick.program.optimizers import SGD, Tensors
from tallystick.program.schedule import ConstantRate
from tallystick.program.spec import DataSet, TrainingSpec, encode_spec
from tallystick.program.tensors import to_blob
from tallystick.program.trace import specs, trace
from tallystick.program.training import Training, initial_state, prepare_training, train_step
from tallystick.proof import manifest as m
from tallystick.proof.commitment import Commitment, Parent, commitment_of
from tallystick.proof.directory import Places, Proof, open_proof
from tallystick.proof.manifest import FileName, Statement, open_statement
from tallystick.proof.recorder import Recorder, Run
from tallystick.proof.roots import model_root, records_root, state_root, tensor_digests
from tallystick.proof.segments import Segment, decode_segment
from tallystick.proof.transcript import LINK_BYTES

PROVER = Key.from_seed(b"p" * 32)
ATTACKER = Key.from_seed(b"a" * 32)
STEPS, SEGMENT, MICRO_BATCHES, MICRO_BATCH_SIZE = 8, 3, 2, 4
SEGMENTS = 3
Tamper = Callable[[int, Tensors, Tensors], tuple[Tensors, Tensors]]
"""From a step, and the state and the sum that it leads to, to what is recorded and continued from."""


def honest(step: int, state: Tensors, total: Tensors) -> tuple[Tensors, Tensors]:
    return state, total


@dataclass(frozen=True)
class Sample:
    """A run that is ready to be recorded, and its honest end."""

    run: Run
    final: Tensors

    @property
    def training(self) -> Training:
        return self.run.training

    @property
    def initial(self) -> Tensors:
        return self.run.initial

    def commitment(
        self, segment: int = SEGMENT, roots_every: int | None = None, attempt: int = 1, parent: Parent | None = None
    ) -> Commitment:
        return commitment_of(
            self.training.spec,
            blob_name(encode_spec(self.training.spec)),
            self.training.program,
            segment=segment,
            roots_every=roots_every,
            parent=parent,
            attempt=attempt,
            network="testnet",
            task="0" * 64,
        )

    def write(
        self, path: Path, commitment: Commitment | None = None, *, key: Key = PROVER, tamper: Tamper = honest
    ) -> Proof:
        with Recorder(path, key, self.run, commitment or self.commitment()) as recorder:
            while recorder.step < recorder.commitment.steps:
                step = recorder.step
                recorder.add(*tamper(step, *train_step(self.training, recorder.state, step)))
            recorder.finish()
        return open_proof(Places(path))


@functools.cache
def sample() -> Sample:
    return sample_of(seed=1)


def sample_of(seed: int) -> Sample:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    train, test = _records(40), _records(9)
    return run_sample(model, train, test)


def run_sample(model: nn.Module, train: Tensors, test: Tensors | None, rate: str = "0.1", steps: int = STEPS) -> Sample:
    optimizer = SGD(momentum=0.9)
    example = {name: value[:MICRO_BATCH_SIZE] for name, value in train.items()}
    loss = _squares if train["y"].is_floating_point() else nn.functional.cross_entropy
    traced = trace(model, loss, optimizer, example)
    encoded = encode_program(traced.program)
    spec = TrainingSpec(
        format="tallystick-training-v1",
        program=program_name(encoded),
        initial_state="0" * 64,
        initial_root="0" * 64,
        train=_data_set(train),
        test=_data_set(test) if test else None,
        steps=steps,
        micro_batches=MICRO_BATCHES,
        seed=5,
        learning_rate=ConstantRate(rate),
    )
    unstarted = prepare_training(spec, traced.program, train)
    initial = initial_state(unstarted, traced.parameters, traced.slots, traced.buffers)
    root = state_root(initial, 0)
    spec = msgspec.structs.replace(spec, initial_state=blob_name(to_blob(initial)), initial_root=root)
    training, state = prepare_training(spec, traced.program, train), initial
    for step in range(steps):
        state, _ = train_step(training, state, step)
    return Sample(Run(training, encoded, initial, test), state)


def _squares(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) * (output - target)).mean()


def _records(count: int) -> Tensors:
    x = torch.randn(count, 6)
    return {"x": x, "y": x[:, :3].argmax(1)}


def _data_set(records: Tensors) -> DataSet:
    return DataSet(blob_name(to_blob(records)), records_root(records), specs(records))


def segments_of(path: Path) -> list[Segment]:
    return [decode_segment(line + b"\n") for line in (path / m.SEGMENTS).read_bytes().splitlines()]


def resign(
    path: Path,
    changes: Mapping[FileName, bytes] | None = None,
    *,
    key: Key = PROVER,
    statement: Mapping[str, str] | None = None,
) -> None:
    """Replaces files of the proof at `path`, lists them as they are, and signs.

    Args:
        statement: fields of the statement, where they should not be what the proof's files say.
    """
    for name, data in (changes or {}).items():
        (path / name).write_bytes(data)
    names: list[FileName] = [name for name in sorted({*m.REQUIRED, m.TEST}) if (path / name).exists()]
    listed = m.encode_manifest(
        m.manifest_of({name: (blob_name((path / name).read_bytes()), (path / name).stat().st_size) for name in names})
    )
    (path / m.MANIFEST).write_bytes(listed)
    fields = {
        "manifest": blob_name(listed),
        "commitment": blob_name((path / m.COMMITMENT).read_bytes()),
        "link": (path / m.TRANSCRIPT).read_bytes()[-LINK_BYTES:].hex().zfill(2 * LINK_BYTES),
        **_end(path),
        **(statement or {}),
    }
    (path / m.SIGNATURE).write_bytes(m.sign_statement(key, Statement(**fields)))


def _end(path: Path) -> dict[str, str]:
    """Root as the last segment has it and model as the final state does, or else as the last statement did."""
    try:
        final = load_file(path / m.FINAL)
        return {"root": segments_of(path)[-1].root, "model": model_root(tensor_digests(final))}
    except Exception:
        _, before = open_statement((path / m.SIGNATURE).read_bytes())
        return {"root": before.root, "model": before.model}


def nudged(tensors: Tensors, name: str) -> Tensors:
    """`tensors` with the first entry of one of them moved to the next float32."""
    value = tensors[name].clone()
    flat = value.view(-1)
    flat[0] = torch.nextafter(flat[0], torch.tensor(float("inf")))
    return {**tensors, name: value}
