"""How a step becomes final, and who is paid for it."""

from collections.abc import Sequence

from msgspec.structs import replace

from tallystick.canon.quorum import quorum
from tallystick.errors import Refused
from tallystick.ledger.audits import require_validator
from tallystick.ledger.draft import Draft
from tallystick.ledger.events import Paid, RoundFinal
from tallystick.ledger.faults import slash_validator
from tallystick.ledger.rewards import per_attestation, per_contribution
from tallystick.ledger.rounds import by_worker, find_round, put_round
from tallystick.ledger.state import Attestation, Round, StepRecord
from tallystick.ledger.tasks import finish, release_leaving
from tallystick.ledger.transactions import Attest


def attest(draft: Draft, sender: str, body: Attest) -> None:
    """A quorum for one result makes the step final: no other result can reach a quorum then, because two quorums
    share an honest validator."""
    require_validator(draft, sender)
    task, round_ = find_round(draft, body.task, body.step)
    if not round_.settled:
        raise Refused("not_settled", f"task {task.id[:12]}: step {body.step} still has contributions to accept")
    if any(attestation.validator == sender for attestation in round_.attestations):
        raise Refused("already_attested", f"task {task.id[:12]}: {sender[:12]} has attested step {body.step}")
    own = Attestation(sender, body.root, body.total, body.loss)
    round_ = replace(round_, attestations=(*round_.attestations, own))
    put_round(draft, task.id, round_)
    finish_if_agreed(draft, task.id, round_, own)


def finish_if_agreed(draft: Draft, task: str, round_: Round, own: Attestation) -> None:
    """Makes the step final if a quorum of the validators there are now attested what `own` says."""
    agreeing = [other.validator for other in round_.attestations if other.result == own.result]
    if len(agreeing) >= quorum(len(draft.state.validators)):
        finish_step(draft, task, round_, own, agreeing)


def finish_step(draft: Draft, task: str, round_: Round, agreed: Attestation, agreeing: Sequence[str]) -> None:
    draft.emit(RoundFinal(task, round_.step, agreed.root, agreed.total, agreed.loss))
    pay_workers(draft, task, round_)
    pay_validators(draft, task, agreeing)
    for attestation in round_.attestations:
        if attestation.result != agreed.result:
            slash_validator(draft, task, None, attestation.validator, "false_attestation")
    entry = draft.task(task)
    record = StepRecord(agreed.root, agreed.total, agreed.loss)
    draft.put_task(replace(entry, root=agreed.root, step=entry.step + 1, history=(*entry.history, record), round=None))
    release_leaving(draft, task)
    if entry.step + 1 == entry.steps:
        finish(draft, task)


def pay_workers(draft: Draft, task: str, round_: Round) -> None:
    entry = draft.task(task)
    each = per_contribution(entry.reward, entry.policy.validator_permille, entry.steps, entry.micro_batches)
    done = [(index, a.worker) for index, a in enumerate(round_.assignments) if a.worker is not None]
    for worker, indices in by_worker(done):
        pay(draft, task, worker, each * len(indices), "contributions")


def pay_validators(draft: Draft, task: str, agreeing: Sequence[str]) -> None:
    entry = draft.task(task)
    validators = len(draft.state.validators)
    each = per_attestation(entry.reward, entry.policy.validator_permille, entry.steps, validators)
    for validator in agreeing:
        pay(draft, task, validator, each, "attestation")


def pay(draft: Draft, task: str, party: str, amount: int, what: str) -> None:
    if amount == 0:
        return
    draft.pay_from_escrow(task, party, amount)
    draft.emit(Paid(task, draft.task(task).step, party, amount, what))
