"""The state while a block changes it: what every rule is written against.

A refusal may come late, when a rule has changed something already; so each transaction, and each item of a batch,
begins with a `mark`, and `roll_back` returns to it. Changed accounts are kept apart and join the state once, in
`finish`: most of what a busy block does is to move money between accounts, and a persistent map would be built anew
for each move. Money moves only through the methods here, so conservation can be read off this file: each adds as much
in one place as it takes in another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from tallystick.ledger.events import Event
from tallystick.ledger.state import EMPTY, Account, Reply, State, Task, Worker

Mark = tuple[State, int, int]
"""The state, and how many events and changes of accounts there were."""


@dataclass
class Draft:
    state: State
    """Its `height` and `time_ms` are already those of the block. Its accounts are still those before it: `account`
    knows better."""
    beacon: bytes
    """Digest of the block: known to nobody before the block was proposed."""
    events: list[Event] = field(default_factory=list)
    _accounts: dict[str, Account] = field(default_factory=dict)
    """Those that the block has changed."""
    _undo: list[tuple[str, Account | None]] = field(default_factory=list)
    """What each change of `_accounts` replaced, in order."""

    # ---- beginning and ending

    def mark(self) -> Mark:
        return self.state, len(self.events), len(self._undo)

    def roll_back(self, mark: Mark) -> None:
        """Undoes everything since `mark`."""
        self.state, events, changes = mark
        del self.events[events:]
        for identity, old in reversed(self._undo[changes:]):
            if old is None:
                del self._accounts[identity]
            else:
                self._accounts[identity] = old
        del self._undo[changes:]

    def finish(self) -> State:
        accounts = self.state.accounts.update(self._accounts)
        return replace(self.state, accounts=accounts, events=self.state.events + len(self.events))

    # ---- looking

    @property
    def now_ms(self) -> int:
        return self.state.time_ms

    def known(self, identity: str) -> Account | None:
        """The account, if there is one."""
        return self._accounts.get(identity) or self.state.accounts.get(identity)

    def account(self, identity: str) -> Account:
        """An identity that never held anything has an empty account."""
        return self.known(identity) or EMPTY

    def task(self, task: str) -> Task:
        return self.state.tasks[task]

    # ---- changing

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def put_task(self, task: Task) -> None:
        self.state = replace(self.state, tasks=self.state.tasks.set(task.id, task))

    def drop_task(self, task: str) -> None:
        """Forgets a task. Nothing else in the state names one."""
        entry = self.task(task)
        assert entry.escrow == 0 and not entry.workers and entry.round is None, f"task {task[:12]} is not closed"
        self.state = replace(self.state, tasks=self.state.tasks.delete(task))

    def change(self, identity: str, *, balance: int = 0, stake: int = 0, locked: int = 0) -> None:
        """Adds to the parts of an account. The rules have checked that it can bear it."""
        old = self.account(identity)
        new = Account(old.balance + balance, old.stake + stake, old.locked + locked, old.last)
        assert new.balance >= 0 and 0 <= new.locked <= new.stake, f"{identity[:12]} overdrawn: {old} -> {new}"
        self._put_account(identity, new)

    def answer(self, identity: str, reply: Reply) -> None:
        """Keeps what became of the transaction that was just executed for an account, and uses up its nonce."""
        old = self.account(identity)
        self._put_account(identity, Account(old.balance, old.stake, old.locked, reply))

    def _put_account(self, identity: str, account: Account) -> None:
        self._undo.append((identity, self._accounts.get(identity)))
        self._accounts[identity] = account

    def burn(self, identity: str, amount: int) -> None:
        """Takes `amount` out of a balance and out of the world."""
        self.change(identity, balance=-amount)
        self.state = replace(self.state, burned=self.state.burned + amount)

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
        validators = [replace(v, bond=v.bond - amount) if v.identity == identity else v for v in self.state.validators]
        self.state = replace(self.state, validators=tuple(validators))
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
