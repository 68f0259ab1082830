"""The life of a task, told as stories: who did what, and what it cost or earned them."""

import pytest
from msgspec.structs import replace

import ledger_network
from ledger_network import CLIENT, POLICY, RICH, VALIDATOR_STAKE, Network, check_invariants, key, name, truth
from tallystick.ledger import audits, contributions
from tallystick.ledger.events import Missed, RoundOpened, Slashed, Suspended, TaskDone, TaskExpired
from tallystick.ledger.execute import next_deadline_ms
from tallystick.ledger.state import StepRecord
from tallystick.ledger.transactions import UNAVAILABLE, Anchor, Enroll, Leave, Policy, Withdraw, commitment_to

LIE = name("lie")


@pytest.fixture
def net() -> Network:
    return Network()


def working(*workers: str, micro_batches: int = 8, steps: int = 1, policy: Policy = POLICY) -> Network:
    """A network with an open task of which each of `workers` has a part."""
    net = Network()
    net.open_task(steps=steps, micro_batches=micro_batches, policy=policy)
    net.enroll_together(*workers)
    return net


def test_honest_work_is_paid_to_the_unit_and_the_rest_returns_to_the_client() -> None:
    net = working("ann", "bob", steps=2, micro_batches=3)
    assert net.account(CLIENT).balance == RICH - 1000
    net.play_step("ann", "bob")
    assert net.the_task().root == name("root", 1)
    net.play_step("ann", "bob")

    task = net.the_task()
    assert (task.status, task.root, task.escrow, task.round) == ("done", name("root", 2), 0, None)
    assert task.history == (
        StepRecord(name("root", 1), name("total", 0), -5),
        StepRecord(name("root", 2), name("total", 1), -5),
    )
    # 900 for 6 contributions: 150 each. 100 for 2 steps, 3 attestations each: 16 each.
    earned = {who: net.account(who).balance - (RICH - 100) for who in ("ann", "bob")}
    assert sum(earned.values()) == 900 and all(amount % 150 == 0 for amount in earned.values())
    assert [net.account(who).balance for who in net.validators] == [32, 32, 32, 0]
    assert net.account(CLIENT).balance == RICH - 1000 + (100 - 6 * 16)
    assert net.seen(TaskDone)[0].returned == 4
    assert net.state.burned == 0
    check_invariants(net.state)


def test_the_stake_can_be_withdrawn_once_the_task_is_done() -> None:
    net = working("ann")
    assert net.send("ann", Withdraw(100)).code == "stake_in_use"
    net.play_step("ann")
    net.act("ann", Withdraw(100))
    assert net.account("ann").stake == 0


def copied_by_eve(net: Network) -> None:
    """Eve commits to what Ann committed to, and shows Ann's opening when that is out."""
    net.commit("ann")
    (original, *_), copied = net.work_of("ann"), net.assignment(net.work_of("ann")[0]).commitment
    body = net.commit_body("eve", net.work_of("eve"))
    net.act("eve", replace(body, entries=[replace(entry, commitment=copied) for entry in body.entries]))
    shown = net.opening("ann", original)
    net.reveal("ann")
    reveal = net.reveal_body("eve", net.work_of("eve"))
    net.act("eve", replace(reveal, entries=[replace(shown, micro_batch=e.micro_batch) for e in reveal.entries]))


def test_who_copies_commitments_cannot_open_them_and_loses_its_stake() -> None:
    net = working("ann", "eve")
    copied_by_eve(net)
    (slashed,) = net.seen(Slashed)
    assert (net.who(slashed.party), slashed.reason) == ("eve", "commitment_does_not_open")
    assert (slashed.amount, slashed.burned, slashed.finders) == (100, 100, ())
    assert (net.standing("eve"), net.standing("ann")) == ("ejected", "active")
    assert net.send("eve", Enroll(net.task)).code == "ejected"
    net.play_step("ann")
    assert net.the_task().status == "done"
    assert net.account("ann").balance == RICH - 100 + 900 // 8 * 8
    check_invariants(net.state)


def test_if_a_commitment_did_not_name_its_place_and_worker_a_copy_would_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def unbound(task: str, step: int, micro_batch: int, worker: str, root: str, salt: str) -> str:
        return commitment_to("", 0, 0, "00" * 32, root, salt)

    for user in (contributions, ledger_network):
        monkeypatch.setattr(user, "commitment_to", unbound)
    net = working("ann", "eve")
    copied_by_eve(net)
    assert net.seen(Slashed) == [] and net.work_of("eve", "revealed")


def test_the_author_of_a_copied_commitment_is_not_harmed() -> None:
    """The copier is first on the ledger; the author's later, equal commitment is taken and opens."""
    net = working("ann", "eve")
    body = net.commit_body("ann", net.work_of("ann"))
    eves = net.commit_body("eve", net.work_of("eve"))
    copied = [replace(entry, commitment=body.entries[0].commitment) for entry in eves.entries]
    net.act("eve", replace(eves, entries=copied))
    net.act("ann", body)
    net.reveal("ann")
    assert net.standing("ann") == "active"
    assert len(net.work_of("ann", "revealed")) == len(body.entries)


def test_a_wrong_contribution_costs_the_stake_rewards_the_finders_and_is_redone() -> None:
    net = working("ann", "eve")
    wrong = net.work_of("eve")[0]
    for act in (net.commit, net.reveal):
        act("ann")
        act("eve", {wrong: LIE})
    net.audit("v0")
    assert net.standing("eve") == "active", "one validator alone decides nothing"
    net.audit("v2")

    (slashed,) = net.seen(Slashed)
    assert (net.who(slashed.party), slashed.reason, slashed.micro_batch) == ("eve", "wrong_contribution", wrong)
    assert [net.who(finder) for finder in slashed.finders] == ["v0", "v2"]
    assert (slashed.amount, slashed.burned) == (100, 50)
    assert [net.account(who).balance for who in net.validators] == [25, 0, 25, 0]
    assert net.account("eve").stake == 0 and net.state.burned == 50
    assert wrong in net.work_of("ann", "assigned")
    assert not net.work_of("eve", "revealed") and not net.work_of("eve", "assigned")
    net.play_step("ann")
    assert net.the_task().status == "done"
    check_invariants(net.state)


def test_a_liar_among_the_validators_takes_no_part_of_the_finders_reward() -> None:
    net = working("eve", micro_batches=1)
    net.commit("eve", {0: LIE})
    net.reveal("eve", {0: LIE})
    net.audit("v3", verdict=lambda _: name("another lie"))
    net.audit("v0", "v1")
    found, false = net.seen(Slashed)
    assert [net.who(finder) for finder in found.finders] == ["v0", "v1"]
    assert (net.who(false.party), false.reason, false.burned) == ("v3", "false_audit", 100)


def test_who_is_caught_loses_what_it_did_unaudited_too() -> None:
    """With half of the work drawn, the other half of a cheater's would go into the model unseen."""
    net = working("ann", "eve", policy=replace(POLICY, audit_permille=500), micro_batches=32)
    lies = dict.fromkeys(net.work_of("eve"), LIE)
    for act in (net.commit, net.reveal):
        act("ann")
        act("eve", lies)
    waved_through = [i for i in net.work_of("eve") if net.assignment(i).phase == "accepted"]
    assert waved_through
    net.audit("v0", "v1")
    assert net.work_of("eve") == []
    net.contribute("ann")
    redrawn = net.pending()
    assert redrawn and set(redrawn) <= set(lies), "what was redone gets a draw of its own"


def test_a_lying_validator_alone_cannot_get_an_honest_worker_slashed() -> None:
    net = working("ann")
    net.contribute("ann")
    net.audit("v3", verdict=lambda _: LIE)
    assert net.standing("ann") == "active"
    net.audit("v0", "v1")
    assert net.standing("ann") == "active"
    assert {(net.who(s.party), s.reason) for s in net.seen(Slashed)} == {("v3", "false_audit")}
    assert net.account("v3").stake == VALIDATOR_STAKE - 8 * 100, "once for each false verdict"
    net.attest("v0", "v1", "v2")
    assert net.the_task().status == "done"
    check_invariants(net.state)


def test_if_false_verdicts_cost_nothing_saying_anything_would_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "slash_validator", lambda *_: None)
    net = working("ann")
    net.contribute("ann")
    net.audit("v3", verdict=lambda _: LIE)
    net.audit("v0", "v1")
    assert net.seen(Slashed) == [] and net.account("v3").stake == VALIDATOR_STAKE


def test_a_false_verdict_costs_no_more_than_there_is(net: Network) -> None:
    net.open_task(micro_batches=4, policy=replace(POLICY, stake=600))
    net.enroll("ann", stake=600)
    net.contribute("ann")
    net.audit("v3", verdict=lambda _: LIE)
    net.audit("v0", "v1")
    assert [slashed.amount for slashed in net.seen(Slashed)] == [600, 400, 0, 0]
    assert net.account("v3").stake == 0
    check_invariants(net.state)


def test_a_late_verdict_is_taken_without_effect() -> None:
    net = working("ann")
    net.contribute("ann")
    body = net.audit_body(net.pending(), lambda _: LIE)
    net.audit("v0", "v1")
    before = net.state
    net.act("v3", body)
    assert net.seen(Slashed) == []
    assert net.state.tasks == before.tasks


def test_a_vanished_worker_costs_time_and_nothing_else() -> None:
    net = working("ann", "eve")
    net.contribute("ann")
    left = net.work_of("eve")
    net.wait(997)
    assert net.standing("eve") == "active", "not yet"
    net.wait(1)
    (missed,) = net.seen(Missed)
    assert (missed.what, missed.micro_batches) == ("commit", tuple(left))
    assert net.standing("eve") == "suspended" and net.account("eve").stake == 100
    assert net.work_of("ann", "assigned") == left
    net.play_step("ann")
    assert net.the_task().status == "done" and net.state.burned == 0


def test_who_commits_and_then_withholds_forfeits_once_and_may_come_back() -> None:
    net = working("ann", "eve", steps=2)
    net.commit("eve")
    net.contribute("ann")
    assert len(net.work_of("eve")) > 1
    net.wait(500)
    (missed,) = net.seen(Missed)
    (suspended,) = net.seen(Suspended)
    assert (missed.what, suspended.reason, suspended.forfeited) == ("reveal", "missed_reveal", 30)
    assert (net.account("eve").stake, net.state.burned) == (70, 30)
    assert net.send("eve", Enroll(net.task)).code == "insufficient_stake"
    net.enroll("eve", stake=30)
    assert net.standing("eve") == "active"
    check_invariants(net.state)
    net.play_step("ann")
    assert net.round().step == 1 and net.work_of("eve")


def test_who_is_late_with_both_is_suspended_once() -> None:
    net = working("eve")
    net.wait(499)
    net.act("eve", net.commit_body("eve", [0, 1]))
    net.wait(500)
    assert [missed.what for missed in net.seen(Missed)] == ["reveal", "commit"]
    (suspended,) = net.seen(Suspended)
    assert (suspended.reason, net.account("eve").stake) == ("missed_reveal", 70)


def test_what_cannot_be_fetched_counts_as_not_revealed() -> None:
    net = working("ann", "eve")
    net.contribute("ann", "eve")
    gone = net.work_of("eve")[0]
    net.audit("v0", "v1", verdict=lambda i: UNAVAILABLE if i == gone else truth(0, i))
    (suspended,) = net.seen(Suspended)
    assert (net.who(suspended.worker), suspended.reason, suspended.forfeited) == ("eve", "unavailable", 30)
    assert net.work_of("ann", "assigned") == [gone]
    assert net.seen(Slashed) == []


def test_who_could_not_fetch_what_others_could_is_not_at_fault() -> None:
    net = working("ann")
    net.contribute("ann")
    net.audit("v3", verdict=lambda _: UNAVAILABLE)
    net.audit("v0", "v1")
    assert net.seen(Slashed) == []
    assert net.round().settled


def test_an_accepted_contribution_that_nobody_can_fetch_does_not_stop_the_task() -> None:
    """Not drawn, so nobody had looked; but the sum needs it. Attestations of the old set are void."""
    net = working("ann", "eve", policy=replace(POLICY, audit_permille=1))
    net.contribute("ann", "eve")
    net.audit("v0", "v1")
    assert net.round().settled
    net.attest("v2")
    gone = next(i for i in net.work_of("eve") if not net.assignment(i).drawn)
    for who in ("v0", "v1"):
        net.act(who, net.audit_body([gone], lambda _: UNAVAILABLE))
    assert net.assignment(gone).phase == "assigned" and net.round().attestations == ()
    net.play_step("ann")
    assert net.the_task().status == "done"


def test_what_was_audited_cannot_be_declared_gone() -> None:
    net = working("ann")
    net.contribute("ann")
    net.audit("v0", "v1")
    for who in ("v2", "v3"):
        net.act(who, net.audit_body([0], lambda _: UNAVAILABLE))
    assert net.round().settled


def test_work_waits_while_there_are_no_workers_and_goes_to_who_enrolls() -> None:
    net = working("eve")
    net.wait(1_000)
    assert {entry.phase for entry in net.round().assignments} == {"unassigned"}
    assert next_deadline_ms(net.state) == net.the_task().expires_ms
    net.enroll("bob")
    assert len(net.work_of("bob", "assigned")) == 8
    net.play_step("bob")
    assert net.the_task().status == "done"


def test_a_suspended_worker_comes_back_by_enrolling() -> None:
    net = working("eve")
    net.wait(1_000)
    net.act("eve", Enroll(net.task))
    assert net.standing("eve") == "active" and len(net.work_of("eve")) == 8


def test_an_expired_task_returns_what_is_left_and_frees_the_stakes() -> None:
    net = working("ann", steps=2, micro_batches=2)
    net.play_step("ann")
    net.contribute("ann")
    net.wait(POLICY.expires_ms)
    (expired,) = net.seen(TaskExpired)
    assert (expired.step, expired.returned) == (1, 1000 - 450 - 3 * 16)
    assert net.the_task().status == "expired"
    assert net.account(CLIENT).balance == RICH - 450 - 3 * 16
    assert net.account("ann").locked == 0
    assert next_deadline_ms(net.state) is None
    check_invariants(net.state)


def test_who_leaves_finishes_its_part_first() -> None:
    net = working("ann", "bob", steps=3)
    net.act("bob", Leave(net.task))
    assert net.standing("bob") == "leaving" and net.account("bob").locked == 100
    net.play_step("ann", "bob")
    assert net.standing("bob") is None and net.account("bob").locked == 0
    assert len(net.work_of("ann")) == 8


def test_who_has_no_part_in_the_round_leaves_at_once() -> None:
    net = working("ann")
    net.enroll("bob")
    net.act("bob", Leave(net.task))
    assert net.standing("bob") is None and net.account("bob").free == 100


def test_who_leaves_still_answers_for_its_part() -> None:
    net = working("ann", "eve")
    wrong = net.work_of("eve")[0]
    net.act("eve", Leave(net.task))
    for act in (net.commit, net.reveal):
        act("ann")
        act("eve", {wrong: LIE})
    net.audit("v0", "v1")
    assert net.standing("eve") == "ejected" and net.account("eve").stake == 0


def test_a_validator_that_attests_another_result_loses_stake_and_gets_no_pay() -> None:
    net = working("ann")
    net.contribute("ann")
    net.audit("v0", "v1")
    net.attest("v3", root=LIE)
    net.attest("v0", "v1", "v2")
    (slashed,) = net.seen(Slashed)
    assert (net.who(slashed.party), slashed.reason, slashed.amount) == ("v3", "false_attestation", 100)
    assert slashed.micro_batch is None
    assert net.account("v3").balance == 0 and net.account("v3").stake == VALIDATOR_STAKE - 100


def test_a_step_is_not_final_before_a_quorum_agrees() -> None:
    net = working("ann")
    net.contribute("ann")
    net.audit("v0", "v1")
    net.attest("v0", "v1")
    assert net.the_task().status == "open"
    net.attest("v2")
    assert net.the_task().status == "done"


def test_the_audit_is_drawn_with_the_block_of_the_last_reveal() -> None:
    """Law 4: the draw changes with that block's digest, so nobody could know it when it committed."""
    net = working("ann", policy=replace(POLICY, audit_permille=250), micro_batches=32)
    net.commit("ann")
    first, second = net.work_of("ann")[:16], net.work_of("ann")[16:]
    net.act("ann", net.reveal_body("ann", first))
    assert net.round().drawn == ()
    before, draws = net.state, set()
    for ms in range(1, 5):
        net.state = before
        net.block(net.sign("ann", net.reveal_body("ann", second)), ms=ms)
        assert len(net.round().drawn) == 8
        draws.add(net.round().drawn)
    assert len(draws) == 4


def test_work_is_dealt_anew_by_the_digest_of_the_block_that_set_it_free() -> None:
    """So nobody can arrange in advance whose work it will inherit."""
    net = working("ann", "bob", "eve", micro_batches=32)
    net.commit("ann")
    net.commit("bob")
    left, before, deals = net.work_of("eve"), net.state, set()
    due = before.tasks[net.task].opened_ms
    for ms in range(1_010, 1_014):
        net.state = before
        for who in ("ann", "bob"):
            net.reveal(who)
        net.wait(due + ms - net.state.time_ms)
        deals.add(tuple(net.assignment(index).worker for index in left))
    assert len(left) >= 10 and len(deals) == 4


def test_a_round_opens_with_the_digest_of_its_block_as_beacon(net: Network) -> None:
    net.open_task()
    assert net.the_task().round is None, "nobody could work yet"
    net.enroll("ann")
    assert net.seen(RoundOpened)[0].beacon == net.round().beacon.hex()


def test_a_small_network_with_one_validator_works() -> None:
    net = Network(validators=("v0",))
    net.open_task()
    net.enroll("ann")
    net.contribute("ann")
    net.audit("v0")
    net.attest("v0")
    assert net.the_task().status == "done"
    assert net.account("v0").balance == 100


def test_anchors_keep_who_was_first_and_cost_a_unit_that_is_burned() -> None:
    net = Network()
    first, second = net.sign("ann", Anchor(name("b"))), net.sign("bob", Anchor(name("a")))
    net.block(first, second)
    ann, bob = net.state.anchors[name("b")], net.state.anchors[name("a")]
    assert (ann.identity, bob.identity) == (key("ann").identity, key("bob").identity)
    assert ann.height == bob.height and ann.number < bob.number
    assert net.state.burned == 2 and net.account("ann").balance == RICH - 1
    check_invariants(net.state)
