"""Random lives of a ledger: everybody does anything at any time, and the laws hold after every block.

Two casts. In the first, anybody may lie, and money must still be conserved. In the second only eve and one of the
four validators are faulty, and then nobody else may be punished and nothing false may pass an audit.
"""

from collections.abc import Callable
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from ledger_network import CLIENT, POLICY, VALIDATORS, WORKERS, Network, beacon_of, check_invariants, key, name, truth
from tallystick.ledger import forgetting
from tallystick.ledger.events import Equivocated, Result, Slashed, TaskDone, TaskExpired
from tallystick.ledger.execute import execute_block, next_deadline_ms
from tallystick.ledger.membership import UNBONDING_MS
from tallystick.ledger.state import NO_REPLY, State, dump_state, load_state
from tallystick.ledger.transactions import (
    UNAVAILABLE,
    Accuse,
    Anchor,
    AnyBody,
    Batch,
    Deposit,
    Enroll,
    Leave,
    OpenTask,
    Policy,
    RemoveValidator,
    Transfer,
    Withdraw,
)

KEPT = 1
"""Tasks that are over, so that lives get to where one is forgotten."""
LIE = name("lie")
VERDICTS: dict[str, Callable[[int], Callable[[int], str]]] = {
    "truth": lambda step: lambda index: truth(step, index),
    "lie": lambda step: lambda index: LIE,
    "gone": lambda step: lambda index: UNAVAILABLE,
}
workers = st.sampled_from(WORKERS)
validators = st.sampled_from(VALIDATORS)
anybody = st.sampled_from((CLIENT, *WORKERS, *VALIDATORS))
amounts = st.sampled_from([0, 1, 30, 100, 150, 400, 20_000])
policies = st.builds(
    lambda audited, validators, finders, forfeit: replace(
        POLICY,
        audit_permille=audited,
        validator_permille=validators,
        finder_permille=finders,
        forfeit=forfeit,
        expires_ms=20_000,
    ),
    st.sampled_from([1, 300, 1000]),
    st.sampled_from([0, 100, 333]),
    st.sampled_from([0, 500, 1000]),
    st.sampled_from([0, 30, 100]),
)


class Life(RuleBasedStateMachine):
    """Everybody may be faulty."""

    faulty = frozenset((*WORKERS, *VALIDATORS))

    def __init__(self) -> None:
        super().__init__()
        self.few = patch.object(forgetting, "KEPT_TASKS", KEPT)
        self.few.start()
        self.net = Network()
        self.tasks: list[str] = []

    @initialize(policy=policies)
    def begin(self, policy: Policy) -> None:
        self.offer(policy, 2, 3)
        for who in WORKERS:
            self.send(who, Deposit(300))
            self.send(who, Enroll(self.tasks[0]))

    # blocks

    def send(self, who: str, body: AnyBody) -> Result:
        return self.block(self.net.sign(who, body), ms=1)[0]

    def block(self, *transactions: bytes, ms: int) -> tuple[Result, ...]:
        """Executes a block, and once more from a snapshot: the same state, and the old one is what it was."""
        before = self.net.state
        dumped = dump_state(before)
        executed = self.net.block(*transactions, ms=ms)
        assert dump_state(before) == dumped, "a state never changes"
        self.check_repeat(load_state(dumped), executed.state, transactions)
        for result in executed.results:
            if result.code not in ("ok", "items_refused"):
                self.check_refused(before, executed.state)
        return executed.results

    def check_repeat(self, before: State, after: State, transactions: tuple[bytes, ...]) -> None:
        beacon = beacon_of(after.height, after.time_ms, transactions)
        again = execute_block(
            before, height=after.height, time_ms=after.time_ms, beacon=beacon, transactions=transactions
        )
        assert dump_state(again.state) == dump_state(after)
        assert load_state(dump_state(after)) == after

    def check_refused(self, before: State, after: State) -> None:
        """Blocks with a refused transaction hold nothing else here, so all that changed is a nonce, unless time did
        something as well."""
        due = next_deadline_ms(before)
        if due is not None and due <= after.time_ms:
            return
        expected = replace(before, height=after.height, time_ms=after.time_ms, accounts=after.accounts)
        assert after == expected
        for identity, account in after.accounts.items():
            assert replace(account, last=NO_REPLY) == replace(before.accounts[identity], last=NO_REPLY)

    # anybody

    @rule(ms=st.sampled_from([1, 10, 100, 499, 500, 1_000]))
    def time_passes(self, ms: int) -> None:
        self.block(ms=ms)

    @rule(who=anybody, to=anybody, amount=amounts)
    def transfer(self, who: str, to: str, amount: int) -> None:
        self.send(who, Transfer(key(to).identity, amount))

    @rule(who=anybody, amount=amounts)
    def deposit(self, who: str, amount: int) -> None:
        self.send(who, Deposit(amount))

    @rule(who=anybody, amount=amounts)
    def withdraw(self, who: str, amount: int) -> None:
        self.send(who, Withdraw(amount))

    @rule(who=anybody, what=st.sampled_from(["one", "two"]))
    def anchor(self, who: str, what: str) -> None:
        first = self.net.state.anchors.get(name(what))
        result = self.send(who, Anchor(name(what)))
        assert (result.code == "already_anchored") == (first is not None)
        assert first is None or self.net.state.anchors[name(what)] == first

    @rule(data=st.data(), who=anybody, items=st.lists(st.tuples(anybody, amounts), min_size=1, max_size=4))
    def batch(self, data: st.DataObject, who: str, items: list[tuple[str, int]]) -> None:
        kinds = (lambda to, n: Transfer(key(to).identity, n), lambda to, n: Deposit(n), lambda to, n: Withdraw(n))
        self.send(who, Batch([data.draw(st.sampled_from(kinds))(to, amount) for to, amount in items]))

    # validators come, go, change keys and are accused

    @rule(data=st.data(), who=validators)
    def endorse(self, data: st.DataObject, who: str) -> None:
        """Whoever comes is honest where anybody is, and only a faulty one is sent away: honest validators see to it."""
        comes = st.sampled_from([self.net.newcomer(new, 400) for new in (CLIENT, "ann", "bob")])
        goes = st.sampled_from(sorted(self.faulty & set(VALIDATORS)))
        leaves = goes.map(lambda faulty: RemoveValidator(self.net.keys[faulty].identity))
        self.send(who, data.draw(comes | leaves))

    @rule(change=st.sampled_from([(CLIENT, 400), ("bob", 400), ("v3", 0)]))
    def all_endorse(self, change: tuple[str, int]) -> None:
        """As `endorse`, by everybody, so that something comes of it."""
        who, stake = change
        body = self.net.newcomer(who, stake) if stake else RemoveValidator(self.net.keys[who].identity)
        self.send(who, Deposit(stake))
        for validator in VALIDATORS:
            self.send(validator, body)

    @rule(who=validators)
    def rotate(self, who: str) -> None:
        if self.send(who, self.net.spend_key(who)).code == "ok":
            self.net.turn_key(who)

    @rule(data=st.data(), who=anybody, height=st.integers(1, 3))
    def accuse(self, data: st.DataObject, who: str, height: int) -> None:
        """Only the faulty have signed two things; against others there is nothing but what they signed once."""
        accused = data.draw(validators)
        evidence = self.net.conflict(accused, height)
        if accused not in self.faulty:
            evidence = Accuse(evidence.first, self.net.conflict(accused, height + 1).second)
        self.send(who, evidence)

    @rule(noise=st.binary(max_size=200))
    def noise(self, noise: bytes) -> None:
        self.block(noise, ms=1)

    @precondition(lambda self: len(self.tasks) < 3)
    @rule(policy=policies, steps=st.integers(1, 3), micro_batches=st.integers(1, 6))
    def another_task(self, policy: Policy, steps: int, micro_batches: int) -> None:
        self.offer(policy, steps, micro_batches)

    def offer(self, policy: Policy, steps: int, micro_batches: int) -> None:
        result = self.send(CLIENT, OpenTask(name("spec"), name("initial"), steps, micro_batches, 997, policy))
        if result.code == "ok":
            self.tasks.append(result.hash)

    # workers and validators, each in one of the tasks

    def pick(self, data: st.DataObject, need_round: bool = True) -> bool:
        """Turns to a task, perhaps a forgotten one; false if it has no round and the caller needs one."""
        self.net.task = data.draw(st.sampled_from(self.tasks))
        task = self.net.state.tasks.get(self.net.task)
        return not need_round or (task is not None and task.round is not None)

    @rule(data=st.data(), who=workers)
    def enroll(self, data: st.DataObject, who: str) -> None:
        self.pick(data, need_round=False)
        self.send(who, Enroll(self.net.task))

    @rule(data=st.data(), who=workers)
    def leave(self, data: st.DataObject, who: str) -> None:
        self.pick(data, need_round=False)
        self.send(who, Leave(self.net.task))

    @rule(data=st.data(), who=workers, lies=st.booleans())
    def commit(self, data: st.DataObject, who: str, lies: bool) -> None:
        if not self.pick(data) or not (work := self.net.work_of(who, "assigned")):
            return
        some = data.draw(st.lists(st.sampled_from(work), min_size=1, unique=True))
        told = dict.fromkeys(some[:1], LIE) if lies and who in self.faulty else {}
        self.send(who, self.net.commit_body(who, some, told))

    @rule(data=st.data(), who=workers, slips=st.booleans())
    def reveal(self, data: st.DataObject, who: str, slips: bool) -> None:
        if not self.pick(data) or not (work := self.net.work_of(who, "committed")):
            return
        some = data.draw(st.lists(st.sampled_from(work), min_size=1, unique=True))
        told = {i: LIE for i in some if self.net.assignment(i) == self.as_committed(who, i)}
        if slips and who in self.faulty:
            told[some[0]] = name("neither")
        self.send(who, self.net.reveal_body(who, some, told))

    def as_committed(self, who: str, index: int) -> object:
        """The assignment as it is if `who` committed to the lie."""
        return replace(self.net.assignment(index), commitment=self.net.commitment(who, index, LIE).commitment)

    def contribute(self, who: str, way: str) -> None:
        """All of one worker's part, in its way."""
        work = self.net.work_of(who, "assigned")
        told = dict.fromkeys(work[:1], LIE) if way == "lie" else {}
        if work:
            self.send(who, self.net.commit_body(who, work, told))
        work = self.net.work_of(who, "committed")
        told = {i: LIE for i in work if self.net.assignment(i) == self.as_committed(who, i)}
        if way == "slip":
            told |= dict.fromkeys(work[:1], name("neither"))
        if work and way != "withhold":
            self.send(who, self.net.reveal_body(who, work, told))

    def ways(self, data: st.DataObject, who: str, honest: str, *others: str) -> str:
        return data.draw(st.sampled_from([honest, honest, *others])) if who in self.faulty else honest

    @rule(data=st.data())
    def a_round(self, data: st.DataObject) -> None:
        """One whole round, in which everybody plays their part, so that lives get far."""
        if self.pick(data):
            self.play_round(data)

    @precondition(lambda self: len(self.tasks) < 6)
    @rule(data=st.data())
    def a_short_task(self, data: st.DataObject) -> None:
        """From opening to the end of its only round, so that several end in one life."""
        before = len(self.tasks)
        self.offer(replace(POLICY, expires_ms=20_000), 1, 1)
        if len(self.tasks) > before:
            self.net.task = self.tasks[-1]
            for who in WORKERS:
                self.send(who, Deposit(100))
                self.send(who, Enroll(self.net.task))
            if self.net.the_task().round is not None:
                self.play_round(data)

    def play_round(self, data: st.DataObject) -> None:
        step = self.net.round().step
        for who in WORKERS:
            self.contribute(who, self.ways(data, who, "truth", "lie", "slip", "withhold"))
        for who in data.draw(st.permutations(VALIDATORS)):
            if work := self.net.pending():
                way = self.ways(data, who, "truth", "lie", "gone")
                self.send(who, self.net.audit_body(work, VERDICTS[way](step)))
        for who in data.draw(st.permutations(VALIDATORS)):
            task = self.net.state.tasks.get(self.net.task)
            if task is not None and task.round is not None and task.round.step == step:
                self.send(who, self.net.attest_body(LIE if self.ways(data, who, "truth", "lie") == "lie" else None))

    @rule(data=st.data(), who=validators, says=st.sampled_from(["truth", "truth", "lie", "gone"]))
    def audit(self, data: st.DataObject, who: str, says: str) -> None:
        if not self.pick(data) or (says == "lie" and who not in self.faulty):
            return
        entries = enumerate(self.net.round().assignments)
        if shown := [i for i, a in entries if a.phase in ("revealed", "accepted")]:
            some = data.draw(st.lists(st.sampled_from(shown), min_size=1, unique=True))
            self.send(who, self.net.audit_body(some, VERDICTS[says](self.net.round().step)))

    @rule(data=st.data(), who=validators, lies=st.booleans())
    def attest(self, data: st.DataObject, who: str, lies: bool) -> None:
        if self.pick(data):
            self.send(who, self.net.attest_body(LIE if lies and who in self.faulty else None))

    # laws

    @invariant()
    def money_is_conserved_and_every_record_is_consistent(self) -> None:
        check_invariants(self.net.state)

    @invariant()
    def only_the_faulty_are_slashed(self) -> None:
        for slashed in self.net.seen(Slashed):
            assert self.net.who(slashed.party) in self.faulty, slashed
        for caught in self.net.seen(Equivocated):
            assert self.net.who(caught.validator) in self.faulty, caught

    @invariant()
    def of_what_has_ended_the_last_with_a_finished_step_is_kept(self) -> None:
        ended = [
            event.task
            for event in self.net.events
            if isinstance(event, TaskDone) or (isinstance(event, TaskExpired) and event.step > 0)
        ]
        assert self.net.state.ended_tasks == tuple(ended[-KEPT:])

    def teardown(self) -> None:
        self.few.stop()
        for _ in range(50):
            if (due := next_deadline_ms(self.net.state)) is None:
                break
            self.block(ms=max(due - self.net.state.time_ms, 0))
        self.block(ms=UNBONDING_MS)
        state = self.net.state
        assert not state.open_tasks, "time alone ends every task"
        assert not (state.proposals or state.retired or state.rotations), "and everything that waits"
        check_invariants(self.net.state)


class HonestMajority(Life):
    """One worker and one of four validators are faulty."""

    faulty = frozenset(("eve", "v3"))

    @invariant()
    def what_passed_an_audit_is_true(self) -> None:
        for task in self.net.state.tasks.values():
            if task.round is not None:
                for index, entry in enumerate(task.round.assignments):
                    audited = entry.phase == "accepted" and entry.drawn
                    assert not audited or entry.root == truth(task.round.step, index)

    @invariant()
    def no_false_result_is_final(self) -> None:
        for task in self.net.state.tasks.values():
            assert all(record.root == name("root", step + 1) for step, record in enumerate(task.history))


LIVES = settings(max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Life.TestCase.settings = LIVES
HonestMajority.TestCase.settings = LIVES
TestLife = Life.TestCase
TestHonestMajority = HonestMajority.TestCase
