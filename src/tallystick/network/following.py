"""A machine's own copy of a task: fetched by hash, checked, and moved forward step by step.

Worker, validator and client all need it. The program stays prepared and the state stays in memory from round to round;
what travels each step is the summed gradient, a blob as large as the parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tallystick.errors import Refused
from tallystick.network.blobs import BlobStore
from tallystick.program.graph import MAX_PROGRAM_BYTES, decode_program, program_name
from tallystick.program.optimizers import Tensors
from tallystick.program.spec import MAX_SPEC_BYTES, DataSet, decode_spec
from tallystick.program.tensors import blob_limit, entries_size, from_blob, from_entries
from tallystick.program.training import (
    Training,
    advance,
    contribution_specs,
    initial_state,
    prepare_training,
    state_specs,
)
from tallystick.proof.roots import contribution_root, records_root, state_root


@dataclass(frozen=True)
class StepRecord:
    """What the ledger keeps of a finished step."""

    step: int
    root: str
    total: str
    loss: int


@dataclass(frozen=True)
class Terms:
    """What the ledger says of a task, which its specification must agree with."""

    spec: str
    initial_root: str
    steps: int
    micro_batches: int


def fetch_records(blobs: BlobStore, data: DataSet, what: str) -> Tensors:
    """A data set, checked against its root.

    Raises:
        BlobMissingError, Refused
    """
    records = from_blob(blobs.get(data.blob, blob_limit(data.tensors)), data.tensors, what)
    if records_root(records) != data.root:
        raise Refused("wrong_root", f"{what}: the records do not have the root that the specification names")
    return records


def fetch_training(blobs: BlobStore, terms: Terms) -> tuple[Training, Tensors]:
    """The training that a task asks for, ready to run, and its initial state.

    Raises:
        BlobMissingError: something is not in the store.
        Refused: something is not what its hash, its root or the ledger says.
    """
    spec = decode_spec(blobs.get(terms.spec, MAX_SPEC_BYTES))
    agreed = (spec.initial_root, spec.steps, spec.micro_batches)
    if agreed != (terms.initial_root, terms.steps, terms.micro_batches):
        raise Refused(
            "bad_spec", "task: the specification and the ledger differ in initial root, steps or micro-batches"
        )
    encoded = blobs.get(spec.program, MAX_PROGRAM_BYTES)
    assert program_name(encoded) == spec.program
    program = decode_program(encoded)
    training = prepare_training(spec, program, fetch_records(blobs, spec.train, "training data"))
    expected = state_specs(program)
    state = from_blob(blobs.get(spec.initial_state, blob_limit(expected)), expected, "initial state")
    if state_root(state, 0) != spec.initial_root:
        raise Refused("wrong_root", "initial state: it does not have the root that the specification names")
    own = initial_state(
        training,
        {name: state[f"parameter/{name}"] for name in training.parameters},
        {name: state[f"slot/{name}"] for name in training.slots},
        {name: state[f"buffer/{name}"] for name in training.buffers},
    )
    if any(not torch.equal(own[name], state[name]) for name in own):
        raise Refused("wrong_exponent", "initial state: its exponents are not those of its first gradient")
    return training, state


class Follower:
    """Holds a task's training and its state before `step`."""

    def __init__(self, blobs: BlobStore, terms: Terms) -> None:
        self.training, self.state = fetch_training(blobs, terms)
        self.step = 0
        self._blobs = blobs

    def follow(self, records: Sequence[StepRecord]) -> None:
        """Moves the state through finished steps; those already behind are passed over.

        Raises:
            BlobMissingError: a sum is not in the store.
            Refused: a sum does not lead to the root that the ledger has.
        """
        for record in records:
            if record.step == self.step:
                total = fetch_contribution(self._blobs, self.training, record.total)
                self.accept(total, record.root)

    def accept(self, total: Tensors, root: str) -> None:
        """Takes one step with `total`, if that leads to `root`."""
        after = advance(self.training, self.state, self.step, total)
        reached = state_root(after, self.step + 1)
        if reached != root:
            raise Refused("wrong_total", f"step {self.step}: the sum leads to state {reached}, the ledger has {root}")
        self.state, self.step = after, self.step + 1


def fetch_contribution(blobs: BlobStore, training: Training, blob: str, root: str | None = None) -> Tensors:
    """A contribution, or a sum of them, from the store; checked against `root` if there is one.

    Raises:
        BlobMissingError, Refused
    """
    specs = contribution_specs(training.program)
    found = from_entries(blobs.get(blob, entries_size(specs)), specs, "contribution")
    if root is not None and contribution_root(found) != root:
        raise Refused("wrong_root", f"contribution {blob}: it does not have root {root}")
    return found
