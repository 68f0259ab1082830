"""The ledger as one pure function: a state and a block give the next state, and what happened.

Nothing here or below it reads a clock, draws a random number or does I/O, and the state that goes in is never changed:
every validator that executes the same blocks holds the same bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
from tallystick.ledger.rounds import move_on
from tallystick.ledger.settlement import attest
from tallystick.ledger.state import State
from tallystick.ledger.tasks import enroll, leave, open_task
from tallystick.ledger.transactions import (
    Anchor,
    Attest,
    Audit,
    Commit,
    Deposit,
    Enroll,
    Leave,
    OpenTask,
    Reveal,
    SignedTransaction,
    Transfer,
    Withdraw,
    read_transaction,
)

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
) -> Executed:
    """Executes one committed block. Signatures are not checked here: validators check them before they vote.

    Args:
        time_ms: agreed time, not before that of the block before.
        beacon: the block's digest, which nobody knew before the block was proposed.
        transactions: as they were signed. Those that the rules refuse have a result and, if they are new, use up
            their nonce; they change nothing else.
        read: `read_transaction`, or something that remembers what it would return.
    """
    if height != state.height + 1 or time_ms < state.time_ms:
        raise ValueError(f"block {height} at {time_ms} ms cannot follow block {state.height} at {state.time_ms} ms")
    draft = Draft(replace(state, height=height, time_ms=time_ms), beacon)
    pass_deadlines(draft)
    results = []
    for raw in transactions:
        after, result, events = execute_transaction(draft.state, beacon, raw, read)
        draft.state = after
        draft.events.extend(events)
        results.append(result)
    for task in draft.state.open_tasks:
        if draft.task(task) is not state.tasks.get(task):  # nothing moves on by itself where nothing happened
            move_on(draft, task)
    return Executed(draft.state, tuple(results), tuple(draft.events))


def require_new(state: State, transaction: SignedTransaction) -> None:
    """What the state can say of a transaction cheaply, before it may take memory or a place in a block.

    Raises:
        Refused: `unknown_sender` or `stale_nonce`.
    """
    sender = transaction.sender
    if sender not in state.accounts:
        raise Refused("unknown_sender", f"{sender[:12]}: has no account; somebody has to transfer to it first")
    last = state.accounts[sender].nonce
    if transaction.nonce <= last:
        raise Refused("stale_nonce", f"{sender[:12]}: nonce {transaction.nonce}, but {last} is used; use a larger one")


def execute_transaction(
    state: State, beacon: bytes, raw: bytes, read: Callable[[bytes], SignedTransaction]
) -> tuple[State, Result, list[Event]]:
    sender = ""
    try:
        transaction = read(raw)
        sender = transaction.sender
        require_new(state, transaction)
        draft = Draft(state, beacon)
        draft.use_nonce(sender, transaction.nonce)
        state = draft.state  # what stays even if the rules refuse the rest
        apply_transaction(draft, transaction)
    except Refused as refusal:
        return state, Result(blob_name(raw), sender, refusal.code, refusal.reason), []
    return draft.state, Result(transaction.hash, sender, "ok", ""), draft.events


def apply_transaction(draft: Draft, transaction: SignedTransaction) -> None:
    """Finds the rule.

    Raises:
        Refused: the draft is then in an undefined state, to be dropped.
    """
    sender = transaction.sender
    match transaction.body:
        case Transfer() as body:
            transfer(draft, sender, body)
        case Deposit() as body:
            deposit(draft, sender, body)
        case Withdraw() as body:
            withdraw(draft, sender, body)
        case OpenTask() as body:
            open_task(draft, sender, transaction.hash, body)
        case Enroll() as body:
            enroll(draft, sender, body)
        case Leave() as body:
            leave(draft, sender, body)
        case Commit() as body:
            commit(draft, sender, body)
        case Reveal() as body:
            reveal(draft, sender, body)
        case Audit() as body:
            audit(draft, sender, body)
        case Attest() as body:
            attest(draft, sender, body)
        case Anchor() as body:
            anchor(draft, sender, body)
