"""The worker: computes the micro-batches that it is assigned, commits to them, and reveals them.

It dials out only, stays up from task to task, keeps each program prepared and its state in memory, and restarts without
a file of its own: the salt of a commitment follows from its key.
"""

import logging
from collections.abc import Sequence
from threading import Event

from tallystick.canon.hashing import digest
from tallystick.canon.identity import Key
from tallystick.errors import Refused, TallystickError
from tallystick.ledger.transactions import Commit, Commitment, Deposit, Enroll, Opening, Reveal, commitment_to
from tallystick.network import views
from tallystick.network.blobs import BlobStore
from tallystick.network.dial import Sender, UnreachableError, Validators
from tallystick.network.following import Follower, StepRecord, Terms
from tallystick.program.optimizers import Tensors
from tallystick.program.tensors import to_entries
from tallystick.program.training import Training, contribution
from tallystick.proof.roots import contribution_root

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class Worker:
    """Works on every open task whose stake it can afford.

    Args:
        stake_limit: most that it deposits for one task.
    """

    def __init__(self, key: Key, validators: Validators, blobs: BlobStore, stake_limit: int) -> None:
        self.identity = key.identity
        self._key, self._validators, self._blobs, self._stake_limit = key, validators, blobs, stake_limit
        self._sender = Sender(key, validators)
        self._followers: dict[str, Follower] = {}
        self._declined: set[str] = set()

    def run(self, stop: Event) -> None:
        """Works until `stop` is set. A task that cannot be worked on is logged and left; the worker lives on."""
        mark = ""
        while not stop.is_set():
            try:
                work = self._validators.work(self.identity, mark)
                mark = work.mark
                self._attend(work)
            except UnreachableError as error:
                log.warning("%s", error)
                mark = ""
                stop.wait(RETRY_SECONDS)
            except TallystickError as error:
                log.error("%s", error)
                mark = ""
                stop.wait(RETRY_SECONDS)

    # ---- what a dishonest worker would do otherwise (see `tallystick.demo.saboteurs`)

    def contribute(self, training: Training, state: Tensors, step: int, micro_batch: int) -> Tensors:
        return contribution(training, state, step, micro_batch)

    def commitments(self, task: views.TaskWork, honest: list[Commitment]) -> list[Commitment]:
        return honest

    # ---- one look at what there is to do

    def _attend(self, work: views.Work) -> None:
        for task in work.open_tasks:
            self._enroll(task.id, task.stake, work.account)
        for own in work.enrolled:
            if own.standing == "suspended":
                log.warning("task %s: suspended for a missed deadline; enrolling again", own.task[:12])
                self._sender.send(Enroll(own.task))
            elif own.standing == "ejected" and own.task not in self._declined:
                self._declined.add(own.task)
                log.error("task %s: ejected, and the stake is lost", own.task[:12])
            elif own.items:
                self._work_on(own)
        for gone in set(self._followers) - {own.task for own in work.enrolled}:
            del self._followers[gone]

    def _enroll(self, task: str, stake: int, account: views.AccountView) -> None:
        if task in self._declined:
            return
        missing = max(0, stake - (account.stake - account.locked))
        if stake > self._stake_limit or missing > account.balance:
            self._declined.add(task)
            limit, have = self._stake_limit, account.balance
            log.warning("task %s: wants a stake of %d; the limit is %d, the balance %d", task[:12], stake, limit, have)
            return
        if missing:
            self._sender.send(Deposit(missing))
        self._sender.send(Enroll(task))
        log.info("task %s: enrolled with a stake of %d", task[:12], stake)

    def _work_on(self, task: views.TaskWork) -> None:
        follower = self._follower(task)
        parts = {item.micro_batch: self._compute(follower, task.step, item.micro_batch) for item in task.items}
        roots = {index: contribution_root(part) for index, part in parts.items()}
        fresh = [item.micro_batch for item in task.items if item.phase == "assigned"]
        if fresh:
            honest = [Commitment(index, self._commitment(task, index, roots[index])) for index in fresh]
            self._sender.send(Commit(task.task, task.step, self.commitments(task, honest)))
        openings = [
            Opening(index, roots[index], self._salt(task, index), self._blobs.put(to_entries(part)))
            for index, part in parts.items()
        ]
        self._sender.send(Reveal(task.task, task.step, openings))
        log.info("task %s: step %d: micro-batches %s", task.task[:12], task.step, sorted(parts))

    def _compute(self, follower: Follower, step: int, micro_batch: int) -> Tensors:
        return self.contribute(follower.training, follower.state, step, micro_batch)

    def _follower(self, task: views.TaskWork) -> Follower:
        """This machine's copy of the task, at the step that is in progress."""
        follower = self._followers.get(task.task)
        if follower is None:
            terms = Terms(task.spec, task.initial_root, task.steps, task.micro_batches)
            follower = self._followers[task.task] = Follower(self._blobs, terms)
        if task.last is not None and follower.step == task.step - 1:
            follower.follow(records([task.last]))
        elif follower.step < task.step:
            follower.follow(records(self._validators.history(task.task, follower.step)))
        if follower.step != task.step:
            raise Refused("wrong_step", f"task {task.task[:12]}: at step {follower.step}, the ledger at {task.step}")
        return follower

    def _commitment(self, task: views.TaskWork, micro_batch: int, root: str) -> str:
        return commitment_to(task.task, task.step, micro_batch, self.identity, root, self._salt(task, micro_batch))

    def _salt(self, task: views.TaskWork, micro_batch: int) -> str:
        place = f"{task.task}/{task.step}/{micro_batch}".encode()
        return digest("tallystick/salt", self._key.seed, place).hex()


def records(steps: Sequence[views.StepView]) -> list[StepRecord]:
    return [StepRecord(step.step, step.root, step.total, step.loss) for step in steps]
