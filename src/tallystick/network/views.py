"""What a validator shows over HTTP, as structs that both ends share, and how they follow from the ledger's state."""

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Final, TypeVar

import msgspec

from tallystick.canon.hashing import blob_name
from tallystick.canon.quorum import quorum
from tallystick.consensus.pbft.limits import MAX_CERTIFICATE_BYTES
from tallystick.consensus.pbft.messages import BlockBytes, ProofBytes
from tallystick.ledger.state import Account, Assignment, State, Task
from tallystick.ledger.transactions import Change

T = TypeVar("T")

MAX_HISTORY = 1000
"""Most steps in one reply; ask again from where it ended."""
MAX_PROOFS: Final = 64
"""The same for checkpoints at which the validators changed,"""
MAX_BLOCKS: Final = 256
"""and for blocks, if they are small,"""
MAX_TASKS: Final = 256
"""and for tasks,"""
MAX_TASK_ENTRIES: Final = 4096
"""if their workers and commitments together are no more than this; one task has at most 4096 of each."""


class Failure(msgspec.Struct, frozen=True):
    """Body of every reply that is not a success."""

    code: str
    reason: str


class Status(msgspec.Struct, frozen=True):
    chain: str
    identity: str
    version: str
    height: int
    time_ms: int
    view: int
    primary: str
    peers: int
    pool: int
    """Transactions waiting for a block."""
    rejections: dict[str, int]
    """Messages of other validators that were refused, by reason code."""
    epoch: int = 0
    active: bool = True
    """Whether a primary is in office, as far as this validator knows."""
    voting: bool = True
    """False for one that is no validator of this epoch, or that forgot what it signed and waits for a later one."""
    checkpoint: int = 0
    """Height of the last stable checkpoint."""
    transferring: bool = False
    """Whether it fetches a snapshot, being far behind."""
    view_changes: int = 0
    """Since its start."""
    last_view_change_ms: int | None = None
    not_admitted: dict[str, int] = {}
    """Transactions that were handed in here and refused, by reason code."""
    connected: list[str] = []
    """Identities of the validators that it is connected to."""


class TransactionView(msgspec.Struct, frozen=True):
    hash: str
    height: int
    code: str
    reason: str
    items: tuple[str, ...] = ()
    """Codes of a batch's items, in order, if any was refused."""


class Submitted(msgspec.Struct, frozen=True):
    hash: str
    outcome: TransactionView | None
    """What became of it, if that was known before the request's wait was over."""
    refusal: Failure | None = None
    """Why it was not admitted, where it was one of many."""


class SubmittedMany(msgspec.Struct, frozen=True):
    answers: list[Submitted]
    """One for each transaction, in order."""


class AccountView(msgspec.Struct, frozen=True):
    identity: str
    balance: int
    stake: int
    locked: int
    nonce: int


class ValidatorView(msgspec.Struct, frozen=True):
    identity: str
    bond: int
    address: str
    url: str
    certificate: str


class ProposalView(msgspec.Struct, frozen=True):
    """A change of the validators that waits for endorsements."""

    change: Change
    endorsers: tuple[str, ...]
    needed: int


class Validators(msgspec.Struct, frozen=True):
    """Who agrees on blocks, from the next checkpoint on if not already, and what some want to change about that."""

    height: int
    validators: list[ValidatorView]
    proposals: list[ProposalView]


class BlockView(msgspec.Struct, frozen=True):
    """A block and the votes that committed it, as they were agreed on; in JSON both are Base64."""

    block: BlockBytes
    certificate: Annotated[bytes, msgspec.Meta(max_length=MAX_CERTIFICATE_BYTES)]


class Blocks(msgspec.Struct, frozen=True):
    """Some in a row."""

    blocks: Annotated[list[BlockView], msgspec.Meta(max_length=MAX_BLOCKS)]


class Checkpoints(msgspec.Struct, frozen=True):
    """A page of the proofs that lead from the genesis document to those who agree now; in JSON each is Base64.

    A page that is not full is the last one.
    """

    changes: Annotated[list[ProofBytes], msgspec.Meta(max_length=MAX_PROOFS)]
    """Checkpoints at which the validators changed, in order."""
    stable: ProofBytes
    """The last stable checkpoint; empty before the first."""


class AnchorView(msgspec.Struct, frozen=True):
    """Who anchored a digest first, and when in agreed time."""

    digest: str
    identity: str
    height: int
    time_ms: int
    number: int


class Money(msgspec.Struct, frozen=True):
    """Everything that is money, for checking that none was made or lost."""

    height: int
    held: int
    """By all accounts, as balance or at stake."""
    escrow: int
    minted: int
    burned: int

    @property
    def conserved(self) -> bool:
        return self.held + self.escrow + self.burned == self.minted


class TaskView(msgspec.Struct, frozen=True):
    id: str
    client: str
    spec: str
    initial_root: str
    root: str
    steps: int
    micro_batches: int
    status: str
    step: int
    reward: int
    escrow: int
    stake: int
    """What a worker must have at stake to take part."""
    workers: dict[str, str]
    """Identity to standing."""
    phases: dict[str, int]
    """How many micro-batches of the round in progress are in each phase."""
    commitments: list[str]
    """Of the round in progress: what anybody can see of what others committed to."""


class StepView(msgspec.Struct, frozen=True):
    step: int
    root: str
    total: str
    loss: int


class History(msgspec.Struct, frozen=True):
    task: str
    steps: list[StepView]


class WorkItem(msgspec.Struct, frozen=True):
    """Something that a worker has to do now."""

    micro_batch: int
    phase: str
    """`assigned`: compute and commit; `committed`: reveal."""
    deadline_ms: int


class TaskWork(msgspec.Struct, frozen=True):
    task: str
    spec: str
    initial_root: str
    steps: int
    micro_batches: int
    step: int
    last: StepView | None
    """The step before `step`, which a machine that was there needs to go on."""
    standing: str
    items: list[WorkItem]


class Offer(msgspec.Struct, frozen=True):
    """An open task, as far as a worker needs to know it to decide whether to take part."""

    id: str
    steps: int
    micro_batches: int
    reward: int
    stake: int
    """What it must have at stake."""


class Work(msgspec.Struct, frozen=True):
    """Everything that concerns one worker; `mark` changes when any of it does."""

    mark: str
    height: int
    account: AccountView
    enrolled: list[TaskWork]
    open_tasks: list[Offer]
    """Those that the worker is not in."""


class EventView(msgspec.Struct, frozen=True):
    sequence: int
    height: int
    event: msgspec.Raw


class Events(msgspec.Struct, frozen=True):
    events: list[EventView]


def account_view(identity: str, account: Account) -> AccountView:
    return AccountView(identity, account.balance, account.stake, account.locked, account.nonce)


def validators(state: State) -> Validators:
    needed = quorum(len(state.validators))
    return Validators(
        height=state.height,
        validators=[ValidatorView(v.identity, v.bond, v.address, v.url, v.certificate) for v in state.validators],
        proposals=[ProposalView(p.change, p.endorsers, needed) for p in state.proposals],
    )


def money(state: State, held: int) -> Money:
    """`held` is the sum over all accounts: whoever serves others meanwhile counts it part by part (`held_by`)."""
    return Money(
        height=state.height,
        held=held,
        escrow=sum(state.tasks[task].escrow for task in state.open_tasks),
        minted=state.minted,
        burned=state.burned,
    )


def held_by(accounts: Iterable[Account]) -> int:
    return sum(account.balance + account.stake for account in accounts)


def fitting(values: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[T]:
    """The first of `values` whose sizes together are at most `most`, and one at least: a page of them."""
    total = 0
    for place, value in enumerate(values):
        total += size(value)
        if total > most and place:
            return
        yield value


def task_page(state: State, names: Iterable[str]) -> list[TaskView]:
    """As many of the tasks of these names as one reply may show."""
    views = (task_view(state.tasks[name]) for name in names)
    return list(fitting(views, lambda view: len(view.workers) + len(view.commitments), MAX_TASK_ENTRIES))


def task_view(task: Task) -> TaskView:
    entries = task.round.assignments if task.round else ()
    phases: dict[str, int] = {}
    for entry in entries:
        phases[entry.phase] = phases.get(entry.phase, 0) + 1
    return TaskView(
        id=task.id,
        client=task.client,
        spec=task.spec,
        initial_root=task.initial_root,
        root=task.root,
        steps=task.steps,
        micro_batches=task.micro_batches,
        status=task.status,
        step=task.step,
        reward=task.reward,
        escrow=task.escrow,
        stake=task.policy.stake,
        workers={identity: worker.standing for identity, worker in sorted(task.workers.items())},
        phases=phases,
        commitments=[entry.commitment for entry in entries if entry.commitment],
    )


def history(task: Task, start: int) -> History:
    last = min(start + MAX_HISTORY, len(task.history))
    return History(task.id, [_step_view(task, step) for step in range(start, last)])


def _step_view(task: Task, step: int) -> StepView:
    record = task.history[step]
    return StepView(step, record.root, record.total, record.loss)


def work(state: State, identity: str) -> Work:
    tasks = [state.tasks[task] for task in state.open_tasks]
    enrolled = [_task_work(task, identity) for task in tasks if identity in task.workers]
    others = [
        Offer(task.id, task.steps, task.micro_batches, task.reward, task.policy.stake)
        for task in tasks
        if identity not in task.workers
    ]
    # What must wake a waiting worker; heights and other workers' progress must not.
    mark = [(t.task, t.step, t.standing, [(i.micro_batch, i.phase) for i in t.items]) for t in enrolled]
    key = msgspec.json.encode([mark, [task.id for task in others]])
    account = state.accounts.get(identity, Account())
    return Work(blob_name(key), state.height, account_view(identity, account), enrolled, others)


def _task_work(task: Task, identity: str) -> TaskWork:
    entries = enumerate(task.round.assignments) if task.round else ()
    items = [_item(index, entry) for index, entry in entries if entry.worker == identity]
    return TaskWork(
        task=task.id,
        spec=task.spec,
        initial_root=task.initial_root,
        steps=task.steps,
        micro_batches=task.micro_batches,
        step=task.step,
        last=_step_view(task, task.step - 1) if task.step else None,
        standing=task.workers[identity].standing,
        items=[item for item in items if item.phase in {"assigned", "committed"}],
    )


def _item(index: int, entry: Assignment) -> WorkItem:
    return WorkItem(index, entry.phase, entry.deadline_ms or 0)
