"""What a step and a segment leave in a proof: the prover writes it, the verifier compares."""

import math
from dataclasses import dataclass
from typing import Final

import torch

from tallystick.canon.hashing import blob_name
from tallystick.errors import NonFiniteError
from tallystick.exact.rounding import canonical
from tallystick.exact.sums import exact_sum
from tallystick.program.optimizers import Tensors
from tallystick.program.tensors import to_blob
from tallystick.program.training import LOSS, Training, record_indices
from tallystick.proof.commitment import Commitment
from tallystick.proof.roots import contribution_root, state_root_of, tensor_digests
from tallystick.proof.segments import Segment
from tallystick.proof.transcript import Entry, batch_root, extend

PARAMETER: Final = "parameter/"


@dataclass(frozen=True)
class Closed:
    """A finished segment: its line, and the state at its end."""

    segment: Segment
    state: bytes
    tensors: dict[str, bytes]
    """Digests of the state's tensors, by their names."""


class Scribe:
    """Writes down the steps of one segment after another; holds the link and where the open segment began.

    Args:
        link: the link before `step`, at which a segment begins.
        state: the state there.
    """

    def __init__(self, training: Training, commitment: Commitment, link: bytes, state: Tensors, step: int) -> None:
        self.link = link
        self.step = step
        self._training = training
        self._commitment = commitment
        self._before = state
        self._losses: list[int] = []

    def pass_over(self, loss: int) -> bytes:
        """The link of a step after which nothing is rooted."""
        return self._take(Entry(self.step, self._batch(), loss))

    def write(self, state: Tensors, total: Tensors) -> tuple[bytes, Closed | None]:
        """The link of a step after which `state` is rooted, and the segment if it ends here."""
        step = self.step
        digests = tensor_digests(state)
        entry = Entry(step, self._batch(), int(total[LOSS]), state_root_of(digests, step + 1), contribution_root(total))
        link = self._take(entry)
        if not self._commitment.ends_segment(step):
            return link, None
        blob = to_blob(state)
        segment = Segment(
            step=step + 1,
            batch=entry.batch,
            loss=entry.loss,
            root=entry.root,
            total=entry.total,
            mean_loss=sum(self._losses) // len(self._losses),
            update=update_square(self._before, state),
            state=blob_name(blob),
        )
        self._before, self._losses = state, []
        return link, Closed(segment, blob, digests)

    def _take(self, entry: Entry) -> bytes:
        self._losses.append(entry.loss)
        self.link = extend(self.link, entry)
        self.step += 1
        return self.link

    def _batch(self) -> str:
        return step_batch(self._training, self.step)


def step_batch(training: Training, step: int) -> str:
    """Names the records of `step`."""
    count = training.spec.micro_batches
    indices = torch.cat([record_indices(training, step, index) for index in range(count)])
    return batch_root(training.spec.train.root, indices)


def update_square(before: Tensors, after: Tensors) -> str | None:
    """The squared length of the parameters' way, as decimal text; None if it does not fit into float32."""
    try:
        parts = [_square(before[name], after[name]) for name in sorted(after) if name.startswith(PARAMETER)]
    except NonFiniteError:
        return None
    return f"{math.fsum(parts):.8e}"


def _square(before: torch.Tensor, after: torch.Tensor) -> float:
    way = canonical(after - before)
    return float(exact_sum(canonical(way * way).reshape(-1), [0])) if way.numel() else 0.0
