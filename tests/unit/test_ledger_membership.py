"""How validators come, go, change their keys and are caught, told as stories."""

from msgspec.structs import replace

from ledger_network import CLIENT, POLICY, RICH, VALIDATOR_STAKE, Network, check_invariants, key, name, truth
from tallystick.ledger.events import BondFreed, Endorsed, Equivocated, RoundFinal, Slashed, ValidatorAdded
from tallystick.ledger.membership import ENDORSED_MS, UNBONDING_MS, newcomers
from tallystick.ledger.state import Retired, Validator
from tallystick.ledger.transactions import Deposit, RemoveValidator, Transfer, Withdraw

LIE = name("lie")


def validators(count: int) -> list[str]:
    return [f"v{i}" for i in range(count)]


def network(count: int) -> Network:
    net = Network(validators(count))
    net.act("ann", Deposit(VALIDATOR_STAKE))
    return net


def out(net: Network, who: str) -> RemoveValidator:
    return RemoveValidator(net.keys[who].identity)


def offices(net: Network) -> list[str | None]:
    return [net.who(validator.identity) for validator in net.state.validators]


def working(count: int, worker: str = "bob", micro_batches: int = 1) -> Network:
    """`count` validators, and a task in which `worker` has revealed all its work, truthfully."""
    net = network(count)
    net.open_task(micro_batches=micro_batches)
    net.enroll(worker)
    net.contribute(worker)
    return net


# coming and going


def test_a_quorum_makes_a_newcomer_a_validator_with_a_bond_and_a_voice() -> None:
    net = network(4)
    net.endorse(net.newcomer("ann"), "v0", "v1")
    assert offices(net) == validators(4)
    net.endorse(net.newcomer("ann"), "v3")
    ann = Validator(key("ann").identity, VALIDATOR_STAKE, "ann.example:7000", "", "certificate of ann")
    assert net.state.validators[-1] == ann
    assert (net.account("ann").locked, net.state.proposals) == (VALIDATOR_STAKE, ())
    assert net.send("ann", Withdraw(1)).code == "stake_in_use"
    assert [(e.voices, e.needed) for e in net.seen(Endorsed)] == [(1, 3), (2, 3), (3, 3)]
    assert net.seen(ValidatorAdded) == [ValidatorAdded(ann.identity, VALIDATOR_STAKE)]
    net.act("ann", out(net, "v3"))
    check_invariants(net.state)


def test_a_newcomer_may_follow_once_an_honest_validator_must_have_endorsed_it() -> None:
    net = network(5)
    net.act("bob", Deposit(VALIDATOR_STAKE))
    change = net.newcomer("ann")
    net.endorse(change, "v0")
    net.endorse(net.newcomer("bob"), "v1")
    assert newcomers(net.state) == ()
    net.endorse(change, "v1")
    expected = Validator(change.identity, change.stake, change.address, change.url, change.certificate)
    assert newcomers(net.state) == (expected,)
    net.endorse(out(net, "v3"), "v0", "v1")
    assert newcomers(net.state) == (expected,), "who may leave is not coming"
    net.endorse(change, "v2", "v3")
    assert newcomers(net.state) == () and expected in net.state.validators


def test_endorsements_of_different_things_do_not_add_up() -> None:
    net = network(4)
    change = net.newcomer("ann")
    for who, address in (("v0", "a:1"), ("v1", "a:2"), ("v2", "a:3"), ("v3", "a:1"), ("v0", "a:1")):
        net.act(who, replace(change, address=address))
    assert offices(net) == validators(4)
    assert sorted(len(proposal.endorsers) for proposal in net.state.proposals) == [1, 1, 2]


def test_who_was_removed_has_no_voice_and_answers_with_its_bond_for_a_while() -> None:
    net = network(5)
    net.endorse(out(net, "v4"), "v4", "v0", "v1")
    assert offices(net) == validators(5), "three of five are no quorum"
    net.endorse(out(net, "v4"), "v2")
    assert offices(net) == validators(4)
    left = Retired(key("v4").identity, VALIDATOR_STAKE, net.state.time_ms + UNBONDING_MS)
    assert list(net.state.retired) == [left]
    assert net.send("v4", out(net, "v3")).code == "not_validator"
    net.wait(UNBONDING_MS - 3)
    assert net.send("v4", Withdraw(1)).code == "stake_in_use"
    net.wait(1)
    assert net.seen(BondFreed) == [BondFreed(left.identity, VALIDATOR_STAKE)]
    net.act("v4", Withdraw(VALIDATOR_STAKE))
    assert not net.state.retired
    check_invariants(net.state)


def test_four_is_the_least_for_a_removal_and_a_smaller_set_may_shrink_to_one() -> None:
    assert network(4).send("v0", out(network(4), "v3")).code == "too_few_validators"
    net = network(3)
    net.endorse(out(net, "v2"), "v0", "v1")
    net.endorse(out(net, "v1"), "v0", "v1")
    assert offices(net) == ["v0"]
    assert net.send("v0", out(net, "v0")).code == "too_few_validators"


def test_endorsements_of_one_that_left_are_void_and_so_is_what_concerns_it() -> None:
    net = network(7)
    net.endorse(net.newcomer("ann"), "v6", "v0")
    net.endorse(out(net, "v6"), "v1")
    net.endorse(out(net, "v5"), "v6")
    assert [len(proposal.endorsers) for proposal in net.state.proposals] == [2, 1, 1]
    net.act("bob", net.conflict("v6"))
    assert [[net.who(who) for who in proposal.endorsers] for proposal in net.state.proposals] == [["v0"]]
    check_invariants(net.state)


def test_an_endorsement_that_found_no_quorum_is_forgotten() -> None:
    net = network(4)
    net.endorse(net.newcomer("ann"), "v0", "v1")
    net.wait(ENDORSED_MS)
    assert net.state.proposals == ()
    net.endorse(net.newcomer("ann"), "v2")
    assert offices(net) == validators(4)


def test_a_change_that_has_enough_voices_since_the_set_shrank_is_made_when_it_is_endorsed_again() -> None:
    net = network(5)
    net.endorse(net.newcomer("ann"), "v0", "v1", "v2")
    net.act("bob", net.conflict("v4"))
    assert offices(net) == validators(4)
    net.endorse(net.newcomer("ann"), "v0")
    assert offices(net) == [*validators(4), "ann"]


# rounds in progress


def test_a_step_that_waited_for_the_removed_validator_is_final_at_once() -> None:
    net = working(5)
    net.audit("v0", "v1")
    net.attest("v0", "v1", "v2")
    assert not net.seen(RoundFinal), "three of five are no quorum"
    net.endorse(out(net, "v4"), *validators(4))
    assert net.the_task().status == "done"
    assert [net.account(who).balance for who in validators(5)] == [33, 33, 33, 0, 0]
    assert not net.seen(Slashed)
    check_invariants(net.state)


def test_an_audit_that_waited_for_the_removed_validator_is_decided_at_once() -> None:
    net = working(7, micro_batches=2)
    net.audit("v0", "v1")
    net.audit("v5", verdict=lambda _: LIE)
    assert len(net.pending()) == 2, "two equal voices are no proof while two of seven may lie"
    net.endorse(out(net, "v6"), *validators(5))
    assert net.pending() == [] and net.round().settled
    assert {net.who(slashed.party) for slashed in net.seen(Slashed)} == {"v5"}
    check_invariants(net.state)


def test_the_vote_of_a_removed_validator_counts_no_more() -> None:
    net = working(5, worker="bob")
    net.audit("v4", verdict=lambda _: LIE)
    net.endorse(out(net, "v4"), *validators(4))
    net.audit("v3", verdict=lambda _: LIE)
    assert net.standing("bob") == "active", "one liar alone decides nothing"
    net.audit("v0", "v1")
    assert net.round().settled and net.standing("bob") == "active"
    assert [net.who(slashed.party) for slashed in net.seen(Slashed)] == ["v3"]
    check_invariants(net.state)


def test_an_attestation_of_a_removed_validator_counts_no_more() -> None:
    net = working(5)
    net.audit("v0", "v1")
    net.attest("v4", "v0", "v1")
    net.endorse(out(net, "v4"), *validators(4))
    assert not net.seen(RoundFinal)
    net.attest("v2")
    assert len(net.seen(RoundFinal)) == 1 and net.account("v4").balance == 0


def test_where_two_verdicts_could_decide_after_a_removal_neither_does_until_somebody_speaks() -> None:
    """With three validators left none may be faulty, and v1 is: what it said first must not decide by itself."""
    net = working(4)
    net.audit("v1", verdict=lambda _: LIE)
    net.audit("v0")
    net.act("ann", net.conflict("v3"))
    assert offices(net) == validators(3)
    assert net.pending() == [0] and not net.seen(Slashed)
    net.audit("v2")
    assert net.standing("bob") == "active"
    assert [net.who(slashed.party) for slashed in net.seen(Slashed)] == ["v1"]


def test_a_newcomer_raises_the_threshold_of_a_round_in_progress() -> None:
    net = working(6)
    net.audit("v0")
    net.endorse(net.newcomer("ann"), *validators(4))
    net.audit("v1")
    assert net.pending() == [0], "two of seven may lie"
    net.audit("ann")
    assert net.round().settled


# keys


def test_a_new_key_has_the_office_the_bond_and_the_money_of_the_old_one() -> None:
    net = network(4)
    net.act(CLIENT, Transfer(key("v0").identity, 7))
    old, body = net.account("v0"), net.spend_key("v0")
    net.act("v0", body)
    assert net.account("v0").balance == net.account("v0").stake == net.account("v0").locked == 0
    assert net.send("v0", out(net, "v1")).code == "not_validator", "the old key has no say"
    net.turn_key("v0")
    new = net.account("v0")
    assert (new.balance, new.stake, new.locked) == (old.balance, old.stake, old.locked)
    first = net.state.validators[0]
    assert (first.identity, first.address, first.certificate) == (body.identity, "v0.example:7000", "certificate of v0")
    check_invariants(net.state)


def test_a_new_key_is_no_second_voice() -> None:
    net = working(7)
    net.audit("v0", "v1")
    net.act("v0", net.spend_key("v0"))
    net.turn_key("v0")
    assert net.send("v0", net.audit_body([0])).code == "already_judged"
    assert net.pending() == [0]
    net.audit("v2")
    net.attest("v0", "v1", "v2", "v3")
    net.act("v0", net.spend_key("v0"))
    net.turn_key("v0")
    assert net.send("v0", net.attest_body()).code == "already_attested"
    net.attest("v4")
    assert net.the_task().status == "done" and net.account("v0").balance == 20, "the vote is paid to the new key"


def test_endorsements_and_offers_follow_the_key() -> None:
    net = network(4)
    net.endorse(net.newcomer("ann"), "v0", "v1")
    net.act(CLIENT, Transfer(key("v0").identity, 1_000))
    offer = net.sign("v0", net.offer())
    net.task = net.block(offer).results[0].hash
    net.act("v0", net.spend_key("v0"))
    net.turn_key("v0")
    assert net.send("v0", net.newcomer("ann")).code == "ok"
    assert offices(net) == validators(4), "it had endorsed that before"
    net.wait(POLICY.expires_ms)
    assert net.account("v0").balance == 1_000, "what is left of the offer returns to the new key"
    check_invariants(net.state)


# evidence


def test_conflicting_votes_cost_the_bond_and_the_office_and_reward_the_finder() -> None:
    net = network(5)
    net.act("bob", net.conflict("v4"))
    assert offices(net) == validators(4)
    account = net.account("v4")
    assert (account.balance, account.stake, account.locked) == (0, 0, 0)
    assert net.account("bob").balance == RICH + VALIDATOR_STAKE // 20
    assert net.state.burned == VALIDATOR_STAKE - VALIDATOR_STAKE // 20
    (event,) = net.seen(Equivocated)
    assert (net.who(event.validator), event.vote, event.height, event.amount) == ("v4", "commit", 7, VALIDATOR_STAKE)
    assert net.send("bob", net.conflict("v4", height=8)).code == "already_slashed"
    assert net.send("bob", net.conflict("v4")).code == "already_slashed"
    check_invariants(net.state)


def test_who_has_left_still_answers_for_what_it_signed() -> None:
    net = network(5)
    evidence = net.conflict("v4")
    net.endorse(out(net, "v4"), *validators(4))
    net.wait(UNBONDING_MS - 2)
    net.act("bob", evidence)
    assert (net.account("v4").stake, net.state.retired) == (0, ())
    check_invariants(net.state)


def test_who_left_and_came_back_answers_with_both_bonds() -> None:
    net = network(5)
    net.endorse(out(net, "v4"), *validators(4))
    net.act(CLIENT, Transfer(key("v4").identity, 10))
    net.act("v4", Deposit(10))
    net.endorse(net.newcomer("v4", stake=10), "v0", "v1", "v2")
    net.act("bob", net.conflict("v4"))
    assert net.seen(Equivocated)[0].amount == VALIDATOR_STAKE + 10
    check_invariants(net.state)


def test_what_the_old_key_signed_costs_the_bond_of_the_new_one_once() -> None:
    net = network(5)
    with_old_key = net.conflict("v4")
    for _ in range(2):
        net.act("v4", net.spend_key("v4"))
        net.turn_key("v4")
    with_new_key = net.conflict("v4")
    net.act("bob", with_old_key)
    assert offices(net) == validators(4) and net.account("v4").stake == 0
    assert net.send("bob", with_new_key).code == "already_slashed"
    check_invariants(net.state)


def test_validators_can_be_caught_down_to_the_last_one_which_stays_without_a_bond() -> None:
    net = network(4)
    for who in ("v3", "v2", "v1", "v0"):
        net.act("bob", net.conflict(who))
        check_invariants(net.state)
    assert offices(net) == ["v0"] and net.state.validators[0].bond == 0
    assert net.send("bob", net.conflict("v0", height=8)).code == "already_slashed"


def test_a_caught_validator_that_was_the_last_one_leaves_when_somebody_comes() -> None:
    """Found by the state machine of test_ledger_machine."""
    net = network(4)
    for who in ("v3", "v2", "v1", "v0"):
        net.act("bob", net.conflict(who))
    assert net.send("v0", net.spend_key("v0")).code == "barred"
    net.act("bob", Deposit(400))
    net.act("v0", net.newcomer("bob", stake=400))
    assert offices(net) == ["bob"]
    check_invariants(net.state)


def test_a_step_in_progress_goes_on_without_a_caught_validator() -> None:
    net = working(4)
    net.audit("v3", verdict=lambda _: LIE)
    net.audit("v0")
    net.act("ann", net.conflict("v3"))
    assert net.round().settled, "with three, one voice is enough, and there is no other"
    net.attest("v0", "v1")
    assert net.the_task().status == "done" and not net.seen(Slashed)
    assert net.the_task().history[0].root == name("root", 1) and truth(0, 0) != LIE
    check_invariants(net.state)
