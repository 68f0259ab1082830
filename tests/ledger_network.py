"""A ledger with people around it, for tests: everybody has a name, and a block is made whenever somebody acts.

Nothing here stands in for a rule: it signs real transactions and hands them to `execute_block`.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import TypeVar

from tallystick.canon import votes
from tallystick.canon.identity import Key
from tallystick.ledger.events import Event, Result
from tallystick.ledger.execute import Executed, execute_block
from tallystick.ledger.genesis import Agreement, Genesis, ValidatorInfo, genesis_state
from tallystick.ledger.state import MAX_VALIDATORS, Account, Assignment, Round, State, Task
from tallystick.ledger.transactions import (
    Accuse,
    AddValidator,
    AnyBody,
    Attest,
    Audit,
    Change,
    Commit,
    Commitment,
    Deposit,
    Enroll,
    Opening,
    OpenTask,
    Policy,
    RemoveValidator,
    Reveal,
    RotateKey,
    Verdict,
    commitment_to,
    prove_rotation,
    sign_transaction,
)

E = TypeVar("E", bound=Event)

POLICY = Policy(
    stake=100,
    forfeit=30,
    audit_permille=1000,
    validator_permille=100,
    finder_permille=500,
    commit_ms=1_000,
    reveal_ms=500,
    expires_ms=100_000,
)
VALIDATORS = ("v0", "v1", "v2", "v3")
WORKERS = ("ann", "bob", "eve")
CLIENT = "client"
VALIDATOR_STAKE = 1_000
RICH = 10_000


def name(*words: object) -> str:
    """Some 32-byte name in hex, the same for the same words."""
    return sha256(repr(words).encode()).hexdigest()


def key(who: str) -> Key:
    return Key.from_seed(sha256(who.encode()).digest())


def make_genesis(validators: Sequence[str] = VALIDATORS, people: Iterable[str] = (CLIENT, *WORKERS)) -> Genesis:
    infos = tuple(
        ValidatorInfo(key(who).identity, f"{who}.example:7000", "", "", VALIDATOR_STAKE) for who in validators
    )
    return Genesis("test", 1_000_000, Agreement(), infos, {key(who).identity: RICH for who in people})


def truth(step: int, micro_batch: int) -> str:
    """The root that an honest computation gives."""
    return name("contribution", step, micro_batch)


def beacon_of(height: int, time_ms: int, transactions: Sequence[bytes]) -> bytes:
    """Stands for a block's digest: it covers all that the block holds."""
    return sha256(repr((height, time_ms, transactions)).encode()).digest()


def next_key(old: Key) -> Key:
    return Key.from_seed(sha256(old.seed).digest())


class Network:
    def __init__(self, validators: Sequence[str] = VALIDATORS, people: Iterable[str] = (CLIENT, *WORKERS)) -> None:
        self.people = [*people, *validators]
        self.validators = list(validators)
        self.keys = {who: key(who) for who in self.people}
        self.names = {self.keys[who].identity: who for who in self.people}
        self.state: State = genesis_state(make_genesis(validators, people))
        self.events: list[Event] = []
        self.nonce = 0
        self.task = ""

    # acting

    def sign(self, who: str, body: AnyBody) -> bytes:
        self.nonce += 1
        return sign_transaction(self.keys[who], self.state.chain, self.nonce, body)

    def block(self, *transactions: bytes, ms: int = 1) -> Executed:
        """Executes a block `ms` after the last one."""
        executed = execute_block(
            self.state,
            height=self.state.height + 1,
            time_ms=self.state.time_ms + ms,
            beacon=beacon_of(self.state.height + 1, self.state.time_ms + ms, transactions),
            transactions=transactions,
        )
        self.state = executed.state
        self.events.extend(executed.events)
        return executed

    def send(self, who: str, body: AnyBody) -> Result:
        return self.block(self.sign(who, body)).results[0]

    def act(self, who: str, body: AnyBody) -> None:
        result = self.send(who, body)
        assert result.code == "ok", result

    def wait(self, ms: int) -> None:
        self.block(ms=ms)

    def spend_key(self, who: str) -> RotateKey:
        """What `who`, a validator, sends to take its next key; `turn_key` is for when that has been executed."""
        new = next_key(self.keys[who])
        proof = prove_rotation(new, self.state.chain, self.keys[who].identity)
        return RotateKey(new.identity, f"certificate of {who}", proof)

    def turn_key(self, who: str) -> None:
        self.keys[who] = next_key(self.keys[who])
        self.names[self.keys[who].identity] = who

    def conflict(self, who: str, height: int = 7) -> Accuse:
        """The evidence that `who` has signed two commits for one height."""
        pair = [votes.Commit(0, 0, height, sha256(word).digest()) for word in (b"this", b"that")]
        first, second = (votes.seal_vote(self.keys[who], self.state.chain, vote) for vote in pair)
        return Accuse(first, second)

    def newcomer(self, who: str, stake: int = VALIDATOR_STAKE) -> AddValidator:
        return AddValidator(self.keys[who].identity, f"{who}.example:7000", "", f"certificate of {who}", stake)

    def endorse(self, change: Change, *validators: str) -> None:
        for who in validators:
            self.act(who, change)

    # looking

    def who(self, identity: str | None) -> str | None:
        return None if identity is None else self.names[identity]

    def account(self, who: str) -> Account:
        return self.state.accounts.get(self.keys.get(who, key(who)).identity, Account())

    def the_task(self) -> Task:
        return self.state.tasks[self.task]

    def round(self) -> Round:
        round_ = self.the_task().round
        assert round_ is not None
        return round_

    def standing(self, who: str) -> str | None:
        worker = self.the_task().workers.get(self.keys[who].identity)
        return None if worker is None else worker.standing

    def assignment(self, micro_batch: int) -> Assignment:
        return self.round().assignments[micro_batch]

    def work_of(self, who: str, phase: str | None = None) -> list[int]:
        identity = self.keys[who].identity
        entries = enumerate(self.round().assignments)
        return [i for i, a in entries if a.worker == identity and phase in (None, a.phase)]

    def seen(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    # the parts people play

    def offer(self, steps: int = 1, micro_batches: int = 4, reward: int = 1000, policy: Policy = POLICY) -> OpenTask:
        return OpenTask(name("spec"), name("initial"), steps, micro_batches, reward, policy)

    def open_task(self, *, steps: int = 1, micro_batches: int = 4, reward: int = 1000, policy: Policy = POLICY) -> None:
        raw = self.sign(CLIENT, self.offer(steps, micro_batches, reward, policy))
        (result,) = self.block(raw).results
        assert result.code == "ok", result
        self.task = result.hash

    def enroll(self, *workers: str, stake: int = 100) -> None:
        for who in workers:
            self.act(who, Deposit(stake))
            self.act(who, Enroll(self.task))

    def enroll_together(self, *workers: str) -> None:
        """In one block, so that the first round is dealt over all of them."""
        for who in workers:
            self.act(who, Deposit(100))
        self.block(*(self.sign(who, Enroll(self.task)) for who in workers))
        assert all(self.work_of(who) for who in workers), "the story needs a part for everybody"

    def commitment(self, who: str, micro_batch: int, root: str | None = None) -> Commitment:
        step = self.round().step
        root = root or truth(step, micro_batch)
        identity = self.keys[who].identity
        return Commitment(micro_batch, commitment_to(self.task, step, micro_batch, identity, root, name("salt", who)))

    def opening(self, who: str, micro_batch: int, root: str | None = None) -> Opening:
        return Opening(micro_batch, root or truth(self.round().step, micro_batch), name("salt", who), name("blob"))

    def commit_body(self, who: str, micro_batches: Sequence[int], lies: dict[int, str] | None = None) -> Commit:
        entries = [self.commitment(who, i, (lies or {}).get(i)) for i in micro_batches]
        return Commit(self.task, self.round().step, entries)

    def reveal_body(self, who: str, micro_batches: Sequence[int], lies: dict[int, str] | None = None) -> Reveal:
        entries = [self.opening(who, i, (lies or {}).get(i)) for i in micro_batches]
        return Reveal(self.task, self.round().step, entries)

    def commit(self, who: str, lies: dict[int, str] | None = None) -> None:
        """Commits to all that `who` is assigned."""
        if work := self.work_of(who, "assigned"):
            self.act(who, self.commit_body(who, work, lies))

    def reveal(self, who: str, lies: dict[int, str] | None = None) -> None:
        if work := self.work_of(who, "committed"):
            self.act(who, self.reveal_body(who, work, lies))

    def contribute(self, *workers: str) -> None:
        """Honest commits and reveals, until these workers have nothing left to do."""
        for who in workers:
            self.commit(who)
        for who in workers:
            self.reveal(who)

    def audit_body(self, micro_batches: Iterable[int], verdict: Callable[[int], str] | None = None) -> Audit:
        step = self.round().step
        verdict = verdict or (lambda micro_batch: truth(step, micro_batch))
        return Audit(self.task, step, [Verdict(i, self.assignment(i).worker or "", verdict(i)) for i in micro_batches])

    def pending(self) -> list[int]:
        return [i for i, a in enumerate(self.round().assignments) if a.drawn and a.phase == "revealed"]

    def audit(self, *validators: str, verdict: Callable[[int], str] | None = None) -> None:
        for who in validators:
            if work := self.pending():
                self.act(who, self.audit_body(work, verdict))

    def attest_body(self, root: str | None = None) -> Attest:
        step = self.round().step
        return Attest(self.task, step, root or name("root", step + 1), name("total", step), -5)

    def attest(self, *validators: str, root: str | None = None) -> None:
        for who in validators:
            self.act(who, self.attest_body(root))

    def play_step(self, *workers: str) -> None:
        """An honest step from assignment to final."""
        self.contribute(*workers)
        self.audit("v0", "v1")
        self.attest("v0", "v1", "v2")


def total(state: State) -> int:
    """All the money in a state, including what was burned."""
    accounts = sum(account.balance + account.stake for account in state.accounts.values())
    return accounts + sum(task.escrow for task in state.tasks.values()) + state.burned


def check_invariants(state: State) -> None:
    """What must hold in every state that the rules can reach."""
    assert total(state) == state.minted, "money is conserved"
    bonds = dict.fromkeys(state.accounts, 0)
    assert 1 <= len({validator.identity for validator in state.validators}) == len(state.validators) <= MAX_VALIDATORS
    for validator in state.validators:
        bonds[validator.identity] += validator.bond
    for past in state.retired:
        bonds[past.identity] += past.bond
    check_membership(state)
    listed = (*state.open_tasks, *state.ended_tasks)
    assert len(listed) == len(set(listed)) and set(listed) == set(state.tasks), "each task is open or has ended"
    for task in state.tasks.values():
        for identity, worker in task.workers.items():
            bonds[identity] += worker.bond
            assert worker.standing != "active" or worker.bond == task.policy.stake, "who works has all at stake"
    for identity, account in state.accounts.items():
        assert min(account.balance, account.stake, account.locked) >= 0
        assert account.locked == bonds[identity] <= account.stake, "a stake backs one thing at a time"
    for task in state.tasks.values():
        check_task(state, task)


def check_membership(state: State) -> None:
    identities = {validator.identity for validator in state.validators}
    assert len(state.validators) == 1 or not identities & set(state.culprits), "a culprit has no office"
    assert not identities & {rotation.old for rotation in state.rotations}, "an old key has no office"
    for proposal in state.proposals:
        assert proposal.endorsers and set(proposal.endorsers) <= identities
        assert len(set(proposal.endorsers)) == len(proposal.endorsers)
        assert (proposal.change.identity in identities) == isinstance(proposal.change, RemoveValidator)
    for task in state.tasks.values():
        entries = task.round.assignments if task.round else ()
        voters = [[vote.validator for vote in entry.verdicts] for entry in entries]
        voters += [[a.validator for a in task.round.attestations]] if task.round else []
        for voices in voters:
            assert set(voices) <= identities and len(set(voices)) == len(voices), "one validator, one voice"


def check_task(state: State, task: Task) -> None:
    assert (task.id in state.open_tasks) == (task.status == "open")
    assert len(task.history) == task.step
    assert task.escrow >= 0
    if task.status != "open":
        assert task.round is None and not task.workers and task.escrow == 0
        assert task.history, "nothing is kept of a task in which no step was finished"
    if task.round is None:
        assert task.status != "open" or not task.active, "a task with workers has a round"
        return
    dues = [a.deadline_ms for a in task.round.assignments if a.deadline_ms is not None]
    assert task.round.due_ms == min(dues, default=None)
    for assignment in task.round.assignments:
        check_assignment(task, assignment)
    phases = {assignment.phase for assignment in task.round.assignments}
    undrawn = any(entry.phase == "revealed" and not entry.drawn for entry in task.round.assignments)
    assert not undrawn or phases & {"unassigned", "assigned", "committed"}, "a complete round is drawn at once"


def check_assignment(task: Task, entry: Assignment) -> None:
    assert (entry.worker is None) == (entry.phase == "unassigned")
    assert (entry.deadline_ms is not None) == (entry.phase in ("assigned", "committed"))
    assert (entry.root is not None) == (entry.phase in ("revealed", "accepted"))
    if entry.phase == "unassigned":
        assert not task.active, "work waits only while nobody can take it"
    elif entry.worker is not None and entry.phase in ("assigned", "committed"):
        assert task.workers[entry.worker].standing in ("active", "leaving")
