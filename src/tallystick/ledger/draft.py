"""A state while one transaction, or the passing of time, changes it.

The rules are written against a draft because a refusal may come late: whoever holds the draft drops it, and the state
that it started from was never touched. Money moves only through the methods here, so conservation can be read off
this file: each adds as much in one place as it takes in another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from tallystick.ledger.events import Event
from tallystick.ledger.state import Account, State, Task, Validator, Worker


@dataclass
class Draft:
    state: State
    """Its `height` and `time_ms` are already those of the block."""
    beacon: bytes
    """Digest of the block: known to nobody before the block was proposed."""
    events: list[Event] = field(default_factory=list)

    @property
    def now_ms(self) -> int:
        return self.state.time_ms

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def account(self, identity: str) -> Account:
        """An identity that never held anything has an empty account."""
        return self.state.accounts.get(identity, Account())

    def task(self, task: str) -> Task:
        return self.state.tasks[task]

    def put_task(self, task: Task) -> None:
        self.state = replace(self.state, tasks=self.state.tasks.set(task.id, task))

    def change(self, identity: str, *, balance: int = 0, stake: int = 0, locked: int = 0) -> None:
        """Adds to the parts of an account. The rules have checked that it can bear it."""
        old = self.account(identity)
        new = replace(old, balance=old.balance + balance, stake=old.stake + stake, locked=old.locked + locked)
        assert new.balance >= 0 and 0 <= new.locked <= new.stake, f"{identity[:12]} overdrawn: {old} -> {new}"
        self.state = replace(self.state, accounts=self.state.accounts.set(identity, new))

    def burn(self, identity: str, amount: int) -> None:
        """Takes `amount` out of a balance and out of the world."""
        self.change(identity, balance=-amount)
        self.state = replace(self.state, burned=self.state.burned + amount)

    def use_nonce(self, identity: str, nonce: int) -> None:
        account = replace(self.account(identity), nonce=nonce)
        self.state = replace(self.state, accounts=self.state.accounts.set(identity, account))

    def pay_from_escrow(self, task: str, identity: str, amount: int) -> None:
        entry = self.task(task)
        assert 0 <= amount <= entry.escrow, f"escrow of {task[:12]} overdrawn: {entry.escrow} - {amount}"
        self.put_task(replace(entry, escrow=entry.escrow - amount))
        self.change(identity, balance=amount)

    def set_worker(self, task: str, identity: str, worker: Worker | None) -> None:
        """Changes a worker's entry in a task, and locks or frees the difference of its bond; None removes it.

        What a worker loses is taken with `seize`, not here.
        """
        entry = self.task(task)
        old = entry.workers.get(identity)
        workers = entry.workers.delete(identity) if worker is None else entry.workers.set(identity, worker)
        self.put_task(replace(entry, workers=workers))
        self.change(identity, locked=(worker.bond if worker else 0) - (old.bond if old else 0))

    def seize(self, task: str, identity: str, amount: int) -> None:
        """Takes `amount` out of a worker's bond and stake. The caller burns it or pays it out."""
        entry = self.task(task)
        worker = entry.workers[identity]
        assert 0 <= amount <= worker.bond
        worker = replace(worker, bond=worker.bond - amount)
        self.put_task(replace(entry, workers=entry.workers.set(identity, worker)))
        self.change(identity, stake=-amount, locked=-amount)

    def seize_from_validator(self, identity: str, limit: int) -> int:
        """Takes up to `limit` out of a validator's bond and stake, and returns how much that was."""
        amount = min(limit, next(v.bond for v in self.state.validators if v.identity == identity))
        validators = tuple(
            Validator(v.identity, v.bond - amount) if v.identity == identity else v for v in self.state.validators
        )
        self.state = replace(self.state, validators=validators)
        self.change(identity, stake=-amount, locked=-amount)
        return amount

    def share_out(self, amount: int, permille: int, finders: Sequence[str]) -> int:
        """Pays `permille` of something seized to the finders in equal parts, burns the rest, and returns the rest."""
        share = amount * permille // 1000 // len(finders) if finders else 0
        for finder in finders:
            self.change(finder, balance=share)
        rest = amount - share * len(finders)
        self.state = replace(self.state, burned=self.state.burned + rest)
        return rest
