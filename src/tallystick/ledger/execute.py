"""The ledger as one pure function: a state and a block give the next state, and what happened.

Nothing here or below it reads a clock, draws a random number or does I/O, and the state that goes in is never changed:
every validator that executes the same blocks holds the same bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from tallystick.canon.hashing import blob_name
from tallystick.errors import Refused
from tallystick.ledger.accounts import deposit, transfer, withdraw
from tallystick.ledger.anchors import anchor
from tallystick.ledger.audits import audit
from tallystick.ledger.contributions import commit, reveal
from tallystick.ledger.deadlines import next_deadline_ms, pass_deadlines
from tallystick.ledger.draft import Draft
from tallystick.ledger.events import Event, Result
from tallystick.ledger.evidence import accuse, convict
from tallystick.ledger.forgetting import forget_ended
from tallystick.ledger.membership import add_validator, remove_validator
from tallystick.ledger.rotation import rotate_key
from tallystick.ledger.rounds import move_on
from tallystick.ledger.settlement import attest
from tallystick.ledger.state import Account, Reply, State
from tallystick.ledger.tasks import enroll, leave, open_task
from tallystick.ledger.transactions import (
    Accuse,
    AddValidator,
    Anchor,
    Attest,
    Audit,
    Batch,
    Commit,
    Deposit,
    Enroll,
    Leave,
    OpenTask,
    RemoveValidator,
    Reveal,
    RotateKey,
    SignedTransaction,
    SingleBody,
    Transfer,
    Withdraw,
    read_transaction,
)

OK: Final = "ok"

__all__ = ["Executed", "execute_block", "next_deadline_ms", "require_new"]


@dataclass(frozen=True)
class Executed:
    state: State
    results: tuple[Result, ...]
    """One for each transaction, in order."""
    events: tuple[Event, ...]


def execute_block(
    state: State,
    *,
    height: int,
    time_ms: int,
    beacon: bytes,
    transactions: Sequence[bytes],
    read: Callable[[bytes], SignedTransaction] = read_transaction,
    offenses: Sequence[tuple[str, int]] = (),
) -> Executed:
    """Executes one committed block. Signatures are not checked here: validators check them before they vote.

    Args:
        time_ms: agreed time. If it is before that of the block before, or of genesis, that time counts: agreement knows
            no time before its first block, and clocks may be behind the one that genesis was written by.
        beacon: the block's digest, which nobody knew before the block was proposed.
        transactions: as they were signed. Those that the rules refuse have a result and, if they are new, use up
            their nonce; they change nothing else.
        read: `read_transaction`, or something that remembers what it would return.
        offenses: by whom, and at which height, the engine has proven that two votes were given.
    """
    if height != state.height + 1:
        raise ValueError(f"block {height} cannot follow block {state.height}")
    draft = Draft(replace(state, height=height, time_ms=max(time_ms, state.time_ms)), beacon)
    pass_deadlines(draft)
    convict(draft, offenses)
    results = [execute_transaction(draft, raw, read) for raw in transactions]
    for task in draft.state.open_tasks:
        if draft.task(task) is not state.tasks.get(task):  # nothing moves on by itself where nothing happened
            move_on(draft, task)
    if draft.state.ended_tasks is not state.ended_tasks:
        forget_ended(draft)
    return Executed(draft.finish(), tuple(results), tuple(draft.events))


def require_new(account: Account | None, transaction: SignedTransaction) -> None:
    """What the sender's account can say of a transaction, before it may take memory or a place in a block.

    Raises:
        Refused: `unknown_sender` or `stale_nonce`.
    """
    sender = transaction.sender[:12]
    if account is None:
        raise Refused("unknown_sender", f"{sender}: has no account; somebody has to transfer to it first")
    if transaction.nonce <= account.nonce:
        raise Refused(
            "stale_nonce", f"{sender}: nonce {transaction.nonce}, but {account.nonce} is used; use a larger one"
        )


def execute_transaction(draft: Draft, raw: bytes, read: Callable[[bytes], SignedTransaction]) -> Result:
    sender = ""
    try:
        transaction = read(raw)
        sender = transaction.sender
        require_new(draft.known(sender), transaction)
    except Refused as refusal:
        return Result(blob_name(raw), sender, refusal.code, refusal.reason)
    body = transaction.body
    if isinstance(body, Batch):
        result = execute_batch(draft, transaction, body)
    else:
        result = Result(transaction.hash, sender, *attempt(draft, transaction, body))
    draft.answer(sender, Reply(transaction.nonce, transaction.hash, result.code, draft.state.height))
    return result


def execute_batch(draft: Draft, transaction: SignedTransaction, batch: Batch) -> Result:
    outcomes = [attempt(draft, transaction, item) for item in batch.items]
    refused = [(index, reason) for index, (code, reason) in enumerate(outcomes) if code != OK]
    if not refused:
        return Result(transaction.hash, transaction.sender, OK, "")
    index, first = refused[0]
    reason = f"{len(refused)} of {len(outcomes)} items refused; item {index}: {first}"
    return Result(transaction.hash, transaction.sender, "items_refused", reason, tuple(code for code, _ in outcomes))


def attempt(draft: Draft, transaction: SignedTransaction, body: SingleBody) -> tuple[str, str]:
    """Applies one body, wholly or not at all, and returns its code and reason."""
    mark = draft.mark()
    try:
        apply(draft, transaction, body)
    except Refused as refusal:
        draft.roll_back(mark)
        return refusal.code, refusal.reason
    return OK, ""


def apply(draft: Draft, transaction: SignedTransaction, body: SingleBody) -> None:
    """Finds the rule.

    Raises:
        Refused: the draft is then in an undefined state, to be rolled back.
    """
    sender = transaction.sender
    match body:
        case Transfer():
            transfer(draft, sender, body)
        case Deposit():
            deposit(draft, sender, body)
        case Withdraw():
            withdraw(draft, sender, body)
        case OpenTask():
            open_task(draft, sender, transaction.hash, body)
        case Enroll():
            enroll(draft, sender, body)
        case Leave():
            leave(draft, sender, body)
        case Commit():
            commit(draft, sender, body)
        case Reveal():
            reveal(draft, sender, body)
        case Audit():
            audit(draft, sender, body)
        case Attest():
            attest(draft, sender, body)
        case Anchor():
            anchor(draft, sender, body)
        case AddValidator():
            add_validator(draft, sender, body)
        case RemoveValidator():
            remove_validator(draft, sender, body)
        case RotateKey():
            rotate_key(draft, sender, body)
        case Accuse():
            accuse(draft, sender, body)
