"""What a worker does in a round: commit, then reveal."""

from collections.abc import Sequence

from msgspec.structs import replace

from tallystick.errors import Refused
from tallystick.ledger.draft import Draft
from tallystick.ledger.events import Committed, Revealed
from tallystick.ledger.faults import slash_worker, unaudited
from tallystick.ledger.rounds import (
    current_round,
    find_round,
    put_round,
    require_distinct,
    take_away,
    with_assignments,
)
from tallystick.ledger.state import Phase, Round
from tallystick.ledger.transactions import Commit, Opening, Reveal, commitment_to


def commit(draft: Draft, sender: str, body: Commit) -> None:
    """Two equal commitments are both taken: whoever copies one from the air could otherwise frame its author. A
    copy is useless, because the author's identity is inside and it opens for nobody else."""
    task, round_ = find_round(draft, body.task, body.step)
    indices = [entry.micro_batch for entry in body.entries]
    require_own(round_, sender, indices, "assigned")
    deadline_ms = draft.now_ms + task.policy.reveal_ms
    changes = {
        entry.micro_batch: replace(
            round_.assignments[entry.micro_batch],
            phase="committed",
            deadline_ms=deadline_ms,
            commitment=entry.commitment,
        )
        for entry in body.entries
    }
    put_round(draft, task.id, with_assignments(round_, changes))
    draft.emit(Committed(task.id, body.step, sender, tuple(sorted(indices))))


def reveal(draft: Draft, sender: str, body: Reveal) -> None:
    """Commitment and opening are both signed by the sender: that they do not fit is a complete proof of fault, so
    nobody found it, and all of the stake is burned. Such a transaction is executed, not refused."""
    task, round_ = find_round(draft, body.task, body.step)
    indices = [entry.micro_batch for entry in body.entries]
    require_own(round_, sender, indices, "committed")
    for entry in body.entries:
        if not opens(round_, task.id, sender, entry):
            slash_worker(draft, task.id, entry.micro_batch, sender, "commitment_does_not_open")
            take_away(draft, task.id, unaudited(current_round(draft, task.id), sender))
            return
    changes = {
        entry.micro_batch: replace(
            round_.assignments[entry.micro_batch],
            phase="revealed",
            deadline_ms=None,
            root=entry.root,
            blob=entry.blob,
        )
        for entry in body.entries
    }
    put_round(draft, task.id, with_assignments(round_, changes))
    draft.emit(Revealed(task.id, body.step, sender, tuple(sorted(indices))))


def opens(round_: Round, task: str, sender: str, entry: Opening) -> bool:
    expected = commitment_to(task, round_.step, entry.micro_batch, sender, entry.root, entry.salt)
    return expected == round_.assignments[entry.micro_batch].commitment


def require_own(round_: Round, sender: str, indices: Sequence[int], phase: Phase) -> None:
    """The sender's own assignments, each in the phase from which it may move."""
    require_distinct(round_, indices)
    for index in indices:
        entry = round_.assignments[index]
        if entry.worker != sender:
            raise Refused("not_assigned", f"micro-batch {index}: not assigned to {sender[:12]}, or no longer")
        if entry.phase != phase:
            raise Refused("wrong_phase", f"micro-batch {index}: is {entry.phase}, must be {phase}")
