"""What the attacks work on: a small real training that a client asks for, its honest proof, and a forger's tools.

The model has everything that a proof must bind: weights, running statistics, momentum, dropout. The attacker has a key
of its own and does all that can be done with it: chain, manifest and signatures of a forged proof are in order, so that
only the check that is meant for the attack can stop it.
"""

import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import nn

from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.exact.rounding import canonical
from tallystick.program.graph import encode_program, program_name
from tallystick.program.optimizers import SGD, Tensors
from tallystick.program.schedule import ConstantRate
from tallystick.program.spec import DataSet, TrainingSpec, encode_spec
from tallystick.program.tensors import to_blob
from tallystick.program.trace import specs, trace
from tallystick.program.training import Training, initial_state, prepare_training, train_step
from tallystick.proof import manifest as m
from tallystick.proof.commitment import Commitment, Parent, commitment_of, sign_commitment
from tallystick.proof.directory import Places, Proof, open_proof
from tallystick.proof.manifest import FileName, Statement
from tallystick.proof.policy import FULL, Policy
from tallystick.proof.recorder import Recorder, Run, train
from tallystick.proof.recording import Scribe
from tallystick.proof.roots import model_root, records_root, state_root, tensor_digests
from tallystick.proof.transcript import start
from tallystick.proof.verify import How
from tallystick.proof.writer import Writer, create

CLIENT: Final = Key.from_seed(b"c" * 32)
ATTACKER: Final = Key.from_seed(b"a" * 32)
INPUTS, HIDDEN, CLASSES, RECORDS = 16, 12, 4, 160
MICRO_BATCHES, MICRO_BATCH_SIZE = 2, 4
BATCH: Final = MICRO_BATCHES * MICRO_BATCH_SIZE
STEPS, SEGMENT = 40, 5
SEGMENTS: Final = STEPS // SEGMENT
RATE: Final = "0.1"
SEED: Final = 5

Stepper = Callable[[int, Tensors], tuple[Tensors, Tensors]]
"""From a step and the state before it to the state after it and the sum that is said to have led there."""


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(0.1), nn.Linear(HIDDEN, CLASSES)
    )


def records() -> Tensors:
    """Four overlapping clusters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        labels = torch.arange(RECORDS) % CLASSES
        return {"x": torch.randn(CLASSES, INPUTS)[labels] + torch.randn(RECORDS, INPUTS), "y": labels}


@dataclass(frozen=True)
class Bench:
    """The client's task and its honest execution; `others` differ from it in start or seed and are honest, too."""

    run: Run
    folder: Path
    """Holds the honest proof and is scratch space for attacks."""

    @property
    def training(self) -> Training:
        return self.run.training

    @property
    def spec(self) -> TrainingSpec:
        return self.run.training.spec

    @property
    def initial(self) -> Tensors:
        return self.run.initial

    @property
    def honest(self) -> Path:
        return self.folder / "honest"

    @functools.cached_property
    def spec_name(self) -> str:
        return blob_name(encode_spec(self.spec))

    @functools.cached_property
    def states(self) -> list[Tensors]:
        """The honest states, before each step and after the last."""
        return trajectory(self.training, self.initial)

    @functools.cached_property
    def other_run(self) -> list[Tensors]:
        """The states of a training from another start on the same records: the model that forgers want a proof of."""
        return trajectory(self.training, start_from(self.training, 2))

    @property
    def wanted(self) -> Tensors:
        return self.other_run[-1]

    def commitment(self, segment: int = SEGMENT) -> Commitment:
        return commitment_of(self.spec, self.spec_name, self.training.program, segment=segment)

    def how(self, policy: Policy = FULL) -> How:
        """What the client asks its verifier: the client knows which training it wanted."""
        return How(policy, spec=self.spec_name)


def make_bench(folder: Path) -> Bench:
    """Trains the honest model and writes its proof into `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model, train = network(), records()
        example = {name: value[:MICRO_BATCH_SIZE] for name, value in train.items()}
        traced = trace(model, nn.functional.cross_entropy, SGD(momentum=0.9), example)
    encoded = encode_program(traced.program)
    spec = TrainingSpec(
        format="tallystick-training-v1",
        program=program_name(encoded),
        initial_state="0" * 64,
        initial_root="0" * 64,
        train=DataSet(blob_name(to_blob(train)), records_root(train), specs(train)),
        test=None,
        steps=STEPS,
        micro_batches=MICRO_BATCHES,
        seed=SEED,
        learning_rate=ConstantRate(RATE),
    )
    unstarted = prepare_training(spec, traced.program, train)
    initial = initial_state(unstarted, traced.parameters, traced.slots, traced.buffers)
    bench = Bench(specified(unstarted, encoded, initial), folder)
    record(bench.honest, bench.run, CLIENT)
    return bench


def specified(training: Training, program: bytes, initial: Tensors) -> Run:
    """A run whose specification names `initial` as its start."""
    spec = msgspec.structs.replace(
        training.spec, initial_state=blob_name(to_blob(initial)), initial_root=state_root(initial, 0)
    )
    return Run(replace(training, spec=spec), program, initial, None)


def start_from(training: Training, seed: int) -> Tensors:
    """A start with weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network()
    parameters = {f"parameter/{name}": value.detach() for name, value in model.named_parameters()}
    return begun(training, parameters | {f"buffer/{name}": value for name, value in model.named_buffers()})


def begun(training: Training, model: Tensors) -> Tensors:
    """The state before step 0 with the parameters and buffers of `model`: no momentum, and the exponents that fit."""
    return initial_state(
        training,
        {name: model[f"parameter/{name}"] for name in training.parameters},
        {spec.name: torch.zeros(spec.shape) for spec in training.program.slots},
        {name: model[f"buffer/{name}"] for name in training.buffers},
    )


def trajectory(training: Training, initial: Tensors) -> list[Tensors]:
    states = [initial]
    for step in range(training.spec.steps):
        states.append(train_step(training, states[-1], step)[0])
    return states


def record(path: Path, run: Run, key: Key, parent: Parent | None = None) -> Proof:
    """An honest proof of any specification; that it starts from `parent` is what it says."""
    spec = run.training.spec
    name = blob_name(encode_spec(spec))
    commitment = commitment_of(spec, name, run.training.program, segment=SEGMENT, parent=parent)
    with Recorder(path, key, run, commitment) as recorder:
        train(recorder)
    return open_proof(Places(path))


def forge(
    bench: Bench,
    path: Path,
    stepper: Stepper,
    *,
    claimed: Training | None = None,
    initial: Tensors | None = None,
    train: Tensors | None = None,
    segment: int = SEGMENT,
    leaps: Mapping[int, Tensors] | None = None,
) -> Path:
    """A proof of the client's specification by a prover who steps as it likes and writes that down faultlessly.

    Args:
        claimed: what the batches in the transcript are computed from; the client's training if not given.
        initial, train: what lies in the proof in place of the specified start and records.
        leaps: steps at which a segment starts from another state than the one before ended in.
    """
    commitment = bench.commitment(segment)
    state = initial or bench.initial
    sealed = sign_commitment(ATTACKER, commitment)
    create(
        path,
        {
            m.SPEC: encode_spec(bench.spec),
            m.PROGRAM: bench.run.program,
            m.COMMITMENT: sealed,
            m.INITIAL: to_blob(state),
            m.TRAIN: to_blob(train or bench.training.records),
        },
    )
    scribe = Scribe(claimed or bench.training, commitment, start(sealed), state, 0)
    links = b""
    with Writer(path) as writer:
        for step in range(commitment.steps):
            if leaps and step in leaps:
                state = leaps[step]
                scribe = Scribe(claimed or bench.training, commitment, scribe.link, state, step)
            state, total = stepper(step, state)
            if not commitment.rooted(step):
                links += scribe.pass_over(int(total["loss"]))
                continue
            link, closed = scribe.write(state, total)
            links += link
            if closed is not None:
                writer.append(commitment, closed, links)
                links = b""
        digests = tensor_digests(state)
        writer.finish(ATTACKER, scribe.link, state_root(state, commitment.steps), model_root(digests))
    return path


def honestly(bench: Bench) -> Stepper:
    return lambda step, state: train_step(bench.training, state, step)


def tampering(bench: Bench, at: int, change: Callable[[Tensors], Tensors]) -> Stepper:
    """Honest but for what one step leads to."""

    def stepper(step: int, state: Tensors) -> tuple[Tensors, Tensors]:
        after, total = train_step(bench.training, state, step)
        return (change(after) if step == at else after), total

    return stepper


def idle_total(bench: Bench) -> Tensors:
    """A sum of contributions that costs nothing: the first step's, again and again."""
    return train_step(bench.training, bench.initial, 0)[1]


def between(left: Tensors, right: Tensors, share: float) -> Tensors:
    """The state on the straight line; integers are those of `left`."""
    return {
        name: canonical(torch.lerp(value, right[name], share)) if value.is_floating_point() else value
        for name, value in left.items()
    }


def resign(path: Path, changes: Mapping[FileName, bytes]) -> Path:
    """Replaces files of a proof, lists them as they are and signs that as the attacker; links and roots stay."""
    _, before = m.open_statement((path / m.SIGNATURE).read_bytes())
    for name, data in changes.items():
        (path / name).unlink()
        (path / name).write_bytes(data)
    names: list[FileName] = [name for name in sorted({*m.REQUIRED, m.TEST}) if (path / name).exists()]
    listed = m.encode_manifest(
        m.manifest_of({name: (blob_name((path / name).read_bytes()), (path / name).stat().st_size) for name in names})
    )
    statement = Statement(
        manifest=blob_name(listed),
        commitment=blob_name((path / m.COMMITMENT).read_bytes()),
        link=before.link,
        root=before.root,
        model=before.model,
    )
    (path / m.MANIFEST).write_bytes(listed)
    (path / m.SIGNATURE).write_bytes(m.sign_statement(ATTACKER, statement))
    return path


def forged_copy(bench: Bench, path: Path) -> Path:
    """An honest training under the attacker's key, to be changed afterwards."""
    if not (bench.folder / "of-attacker").exists():
        record(bench.folder / "of-attacker", bench.run, ATTACKER)
    return Path(shutil.copytree(bench.folder / "of-attacker", path))
