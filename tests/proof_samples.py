"""A small proof, and what an attacker with a key of their own can do to it.

Other tests borrow `sample()`: a perceptron 6-8-3 with momentum, three steps of two micro-batches of four records.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.program.graph import encode_program, program_name
from tallystick.program.optimizers import SGD, Tensors
from tallystick.program.schedule import ConstantRate
from tallystick.program.spec import DataSet, TrainingSpec
from tallystick.program.tensors import to_blob
from tallystick.program.trace import specs, trace
from tallystick.program.training import Training, initial_state, prepare_training
from tallystick.proof import manifest as m
from tallystick.proof.directory import Proof, write_proof
from tallystick.proof.manifest import FileName, Statement
from tallystick.proof.recording import record
from tallystick.proof.roots import records_root, state_root
from tallystick.proof.transcript import Entry, Link, chained, encode_transcript, start

PROVER = Key.from_seed(b"p" * 32)
ATTACKER = Key.from_seed(b"a" * 32)
STEPS, MICRO_BATCHES, MICRO_BATCH_SIZE = 3, 2, 4


@dataclass(frozen=True)
class Sample:
    """An honest run."""

    training: Training
    program: bytes
    initial: Tensors
    final: Tensors
    test: Tensors | None
    entries: tuple[Entry, ...]

    def write(self, path: Path) -> Proof:
        return write_proof(
            path,
            key=PROVER,
            spec=self.training.spec,
            program=self.program,
            initial=self.initial,
            final=self.final,
            train=self.training.records,
            test=self.test,
            entries=self.entries,
            network="testnet",
            task="0" * 64,
        )


@functools.cache
def sample() -> Sample:
    return sample_of(seed=1)


def sample_of(seed: int) -> Sample:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    train, test = _records(24), _records(9)
    return run_sample(model, train, test)


def run_sample(model: nn.Module, train: Tensors, test: Tensors | None, rate: str = "0.1") -> Sample:
    optimizer = SGD(momentum=0.9)
    example = {name: value[:MICRO_BATCH_SIZE] for name, value in train.items()}
    loss = _squares if train["y"].is_floating_point() else nn.functional.cross_entropy
    program = trace(model, loss, optimizer, example).program
    encoded = encode_program(program)
    spec = TrainingSpec(
        format="tallystick-training-v1",
        program=program_name(encoded),
        initial_state="0" * 64,
        initial_root="0" * 64,
        train=_data_set(train),
        test=_data_set(test) if test else None,
        steps=STEPS,
        micro_batches=MICRO_BATCHES,
        seed=5,
        learning_rate=ConstantRate(rate),
    )
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    initial = initial_state(prepare_training(spec, program, train), parameters, optimizer.slots(parameters))
    spec = msgspec.structs.replace(spec, initial_state=blob_name(to_blob(initial)), initial_root=state_root(initial, 0))
    training = prepare_training(spec, program, train)
    final, entries = record(training, initial)
    return Sample(training, encoded, initial, final, test, entries)


def _squares(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) * (output - target)).mean()


def _records(count: int) -> Tensors:
    x = torch.randn(count, 6)
    return {"x": x, "y": x[:, :3].argmax(1)}


def _data_set(records: Tensors) -> DataSet:
    return DataSet(blob_name(to_blob(records)), records_root(records), specs(records))


def rechained(proof: Proof, entries: Iterable[Entry]) -> bytes:
    """A transcript whose chain holds, whatever its entries say."""
    return encode_transcript(chained(start(proof.spec_name, proof.spec.initial_root), entries))


def forge(path: Path, changes: dict[FileName, bytes], spec: str | None = None, root: str | None = None) -> None:
    """Replaces files of the proof at `path` and signs the result as the attacker, who makes everything fit."""
    for name, data in changes.items():
        (path / name).write_bytes(data)
    present: dict[FileName, bytes] = {
        name: (path / name).read_bytes() for name in sorted({*m.REQUIRED, m.TEST}) if (path / name).exists()
    }
    manifest = m.manifest_of(present, "testnet", "0" * 64)
    if spec is not None:
        manifest = msgspec.structs.replace(manifest, spec=spec)
    listed = to_json(manifest)
    (path / m.MANIFEST).write_bytes(listed)
    last = _last_link(present[m.TRANSCRIPT])
    statement = Statement(blob_name(listed), last.chain, root or last.entry.root)
    (path / m.SIGNATURE).write_bytes(m.sign_statement(ATTACKER, statement))


def _last_link(transcript: bytes) -> Link:
    """The last link, or a made-up one when the transcript is too broken to have one."""
    try:
        return from_json(transcript.splitlines()[-1], Link, limit=len(transcript), what="transcript")
    except Exception:
        return Link(Entry(0, "0" * 64, [], "0" * 64, 0), "0" * 64)


def nudged(tensors: Tensors, name: str) -> Tensors:
    """`tensors` with the first entry of one of them moved to the next float32."""
    value = tensors[name].clone()
    flat = value.view(-1)
    flat[0] = torch.nextafter(flat[0], torch.tensor(float("inf")))
    return {**tensors, name: value}
