"""The auditor: the part of a validator that computes. It re-runs contributions, sums them and attests each step.

It runs in a thread of its own so that consensus never waits for arithmetic. It is handed every new state of the ledger
and works out from that alone what it still owes; so it needs no memory of its own, and a restart loses nothing.
"""

import logging
from collections.abc import Callable
from threading import Condition, Thread

from tallystick.errors import TallystickError
from tallystick.ledger.state import Account, Assignment, Round, State, Task
from tallystick.ledger.transactions import UNAVAILABLE, AnyBody, Attest, Audit, Verdict
from tallystick.network.blobs import BlobStore
from tallystick.network.following import Follower, StepRecord, Terms, fetch_contribution
from tallystick.program.optimizers import Tensors
from tallystick.program.tensors import to_entries
from tallystick.program.training import LOSS, advance, combine, contribution
from tallystick.proof.roots import contribution_root, state_root

log = logging.getLogger(__name__)

RESEND_BLOCKS = 100
"""A transaction that is not in the ledger this many blocks after it was handed in is taken for lost."""


class Audited:
    """What this machine has computed for the step in progress of one task."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.parts: dict[int, Tensors] = {}
        self.roots: dict[int, str] = {}
        self.available: dict[tuple[int, str], bool] = {}

    def compute(self, index: int) -> str:
        """The root of micro-batch `index`, computed here once per step."""
        if index not in self.roots:
            follower = self.follower
            self.parts[index] = contribution(follower.training, follower.state, follower.step, index)
            self.roots[index] = contribution_root(self.parts[index])
        return self.roots[index]

    def forget(self) -> None:
        self.parts, self.roots, self.available = {}, {}, {}


def tasks_to_audit(state: State, identity: str) -> list[Task]:
    """Those in which `identity` has a voice: all that are open, and none if it is no validator (any more, or yet), or
    it would hand in verdicts that are refused, block after block."""
    return [state.tasks[task] for task in state.open_tasks] if state.is_validator(identity) else []


class Auditor:
    """Owes nothing when every drawn contribution has this validator's verdict and every settled step its attestation.

    Args:
        submit: signs a body with the given nonce and hands it to the engine; called from the auditor's thread.
    """

    def __init__(self, identity: str, blobs: BlobStore, submit: Callable[[int, AnyBody], None]) -> None:
        self._identity, self._blobs, self._submit = identity, blobs, submit
        self._tasks: dict[str, Audited] = {}
        self._state: State | None = None
        self._seen: State | None = None
        self._stopped = False
        self._news = Condition()
        self._in_flight: tuple[int, int] | None = None
        """Nonce of the transaction that was handed in last, and the height at that time."""
        self._thread = Thread(target=self._run, name="auditor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._news:
            self._stopped = True
            self._news.notify()
        self._thread.join()

    def notify(self, state: State) -> None:
        """Hands over the newest state; states in between may be passed over, and those without a task are."""
        if not state.open_tasks and not self._tasks:
            return  # waking a thread takes as long as a small block
        with self._news:
            self._state = state
            self._news.notify()

    def _run(self) -> None:
        while (state := self._next_state()) is not None:
            for task in tasks_to_audit(state, self._identity):
                try:
                    self._attend(state, task)
                except TallystickError as error:
                    log.error("task %s: step %d: %s", task.id[:12], task.step, error)
            for gone in set(self._tasks) - set(state.open_tasks):
                del self._tasks[gone]

    def _next_state(self) -> State | None:
        """Waits for a state that was not looked at yet; None when it is time to stop."""
        with self._news:
            self._news.wait_for(lambda: self._stopped or self._state is not self._seen)
            self._seen = self._state
            return None if self._stopped else self._seen

    def _attend(self, state: State, task: Task) -> None:
        if task.round is None:
            return
        audited = self._audited(task)
        verdicts = self._verdicts(audited, task, task.round)
        if self._is_in_flight(state):
            return
        if verdicts:
            self._hand_in(state, Audit(task.id, task.step, verdicts))
        elif task.round.settled and all(a.validator != self._identity for a in task.round.attestations):
            self._hand_in(state, self._attestation(audited, task))

    def _audited(self, task: Task) -> Audited:
        """This machine's copy of the task, at the step that is in progress."""
        audited = self._tasks.get(task.id)
        if audited is None:
            follower = Follower(self._blobs, Terms(task.spec, task.initial_root, task.steps, task.micro_batches))
            audited = self._tasks[task.id] = Audited(follower)
        if (behind := audited.follower.step) < task.step:
            audited.forget()
            history = enumerate(task.history[behind:], start=behind)
            audited.follower.follow([StepRecord(step, r.root, r.total, r.loss) for step, r in history])
        return audited

    def _verdicts(self, audited: Audited, task: Task, current: Round) -> list[Verdict]:
        """This validator's missing verdicts. Where every contribution will be drawn, it computes before the draw."""
        owed = []
        for index, entry in enumerate(current.assignments):
            if entry.phase != "revealed" or not (entry.drawn or task.policy.audit_permille == 1000):
                continue
            verdict = self._verdict(audited, index, entry)
            if entry.drawn and all(vote.validator != self._identity for vote in entry.verdicts):
                owed.append(verdict)
        return owed

    def _verdict(self, audited: Audited, index: int, entry: Assignment) -> Verdict:
        assert entry.worker is not None
        root = audited.compute(index)
        if root == entry.root and not self._is_available(audited, index, entry):
            root = UNAVAILABLE
        return Verdict(index, entry.worker, root)

    def _is_available(self, audited: Audited, index: int, entry: Assignment) -> bool:
        """Whether the contribution can be fetched and is what its root says; asked of the store once."""
        assert entry.blob is not None
        key = (index, entry.blob)
        if key not in audited.available:
            try:
                fetch_contribution(self._blobs, audited.follower.training, entry.blob, entry.root)
                audited.available[key] = True
            except TallystickError as error:
                log.warning("micro-batch %d of %s: %s", index, entry.worker, error)
                audited.available[key] = False
        return audited.available[key]

    def _attestation(self, audited: Audited, task: Task) -> Attest:
        """The sum of all contributions and where it leads; this machine computes those that were not audited."""
        for index in range(task.micro_batches):
            audited.compute(index)
        total = combine(audited.parts[index] for index in range(task.micro_batches))
        follower = audited.follower
        after = advance(follower.training, follower.state, task.step, total)
        root = state_root(after, task.step + 1)
        return Attest(task.id, task.step, root, self._blobs.put(to_entries(total)), int(total[LOSS]))

    def _is_in_flight(self, state: State) -> bool:
        if self._in_flight is None:
            return False
        nonce, height = self._in_flight
        account = state.accounts.get(self._identity, Account())
        if account.nonce >= nonce or state.height > height + RESEND_BLOCKS:
            self._in_flight = None
        return self._in_flight is not None

    def _hand_in(self, state: State, body: AnyBody) -> None:
        nonce = state.accounts.get(self._identity, Account()).nonce + 1
        self._in_flight = (nonce, state.height)
        self._submit(nonce, body)
