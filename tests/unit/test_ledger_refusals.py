"""Every refusal has a story that reaches it, and a refusal changes nothing but the nonce."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

import tallystick.ledger
from ledger_network import CLIENT, POLICY, VALIDATORS, Network, check_invariants, key, name
from tallystick.canon.sealed import seal
from tallystick.errors import Refused
from tallystick.ledger import accounts, anchors, membership, rotation, state, tasks
from tallystick.ledger.execute import execute_block, require_new
from tallystick.ledger.state import Account, Reply, State, Worker
from tallystick.ledger.transactions import (
    MAX_TRANSACTION_BYTES,
    Accuse,
    AddValidator,
    Anchor,
    AnyBody,
    Batch,
    Deposit,
    Enroll,
    Leave,
    OpenTask,
    RemoveValidator,
    RotateKey,
    Transfer,
    Withdraw,
    open_transaction,
    sign_transaction,
)

Story = Callable[[Network], tuple[str, AnyBody]]
"""Prepares a network, which has an open task with ann in it, and says who asks for what in vain."""

OFFER = OpenTask(name("spec"), name("initial"), 1, 4, 1000, POLICY)


def with_policy(**terms: int) -> OpenTask:
    return replace(OFFER, policy=replace(POLICY, **terms))


def no_room_for_tasks(net: Network) -> tuple[str, AnyBody]:
    net.state = replace(net.state, open_tasks=net.state.open_tasks * tasks.MAX_OPEN_TASKS)
    return CLIENT, OFFER


def with_task(net: Network, **terms: int) -> tuple[str, AnyBody]:
    """Somebody offers a task while the one there is has other terms."""
    task = replace(net.the_task(), **terms)
    net.state = replace(net.state, tasks=net.state.tasks.set(task.id, task))
    return CLIENT, OFFER


def no_room_for_workers(net: Network) -> tuple[str, AnyBody]:
    crowd = {name("worker", i): Worker("suspended", 0) for i in range(tasks.MAX_WORKERS)}
    task = replace(net.the_task(), workers=net.the_task().workers.update(crowd))
    net.state = replace(net.state, tasks=net.state.tasks.set(task.id, task))
    net.act("bob", Deposit(100))
    return "bob", Enroll(net.task)


def after_expiry(net: Network) -> tuple[str, AnyBody]:
    net.wait(POLICY.expires_ms)
    return "bob", Enroll(net.task)


def after_the_last_step(net: Network) -> tuple[str, AnyBody]:
    net.play_step("ann")
    return "bob", Enroll(net.task)


def after_being_caught(net: Network) -> tuple[str, AnyBody]:
    net.commit("ann")
    net.reveal("ann", {0: name("another")})
    return "ann", Enroll(net.task)


def another_index(net: Network) -> tuple[str, AnyBody]:
    body = net.commit_body("ann", [0])
    return "ann", replace(body, entries=[replace(body.entries[0], micro_batch=4)])


def twice_in_one(net: Network) -> tuple[str, AnyBody]:
    return "ann", net.commit_body("ann", [1, 1])


def another_step(net: Network) -> tuple[str, AnyBody]:
    return "ann", replace(net.commit_body("ann", [0]), step=1)


def no_round_yet(net: Network) -> tuple[str, AnyBody]:
    body = net.commit_body("ann", [0])
    net.open_task()
    return "ann", replace(body, task=net.task)


def before_the_draw(net: Network) -> tuple[str, AnyBody]:
    net.commit("ann")
    net.act("ann", net.reveal_body("ann", [0, 1]))
    return "v0", net.audit_body([0])


def second_verdict(net: Network) -> tuple[str, AnyBody]:
    net.contribute("ann")
    net.audit("v0")
    return "v0", net.audit_body([0])


def outsider_audits(net: Network) -> tuple[str, AnyBody]:
    net.contribute("ann")
    return "bob", net.audit_body([0])


def second_attestation(net: Network) -> tuple[str, AnyBody]:
    net.contribute("ann")
    net.audit("v0", "v1")
    net.attest("v0")
    return "v0", net.attest_body()


def anchored_by_another(net: Network) -> tuple[str, AnyBody]:
    net.act("ann", Anchor(name("proof")))
    return "bob", Anchor(name("proof"))


def anchored_before(net: Network) -> tuple[str, AnyBody]:
    net.act("bob", Anchor(name("proof")))
    return "bob", Anchor(name("proof"))


def no_money_left(net: Network) -> tuple[str, AnyBody]:
    net.act("bob", Transfer(key("ann").identity, net.account("bob").balance))
    return "bob", Anchor(name("proof"))


def newcomer(net: Network, stake: int = 1_000) -> AddValidator:
    """Bob, who has deposited."""
    if not net.account("bob").stake:
        net.act("bob", Deposit(1_000))
    return net.newcomer("bob", stake)


def out(who: str) -> RemoveValidator:
    return RemoveValidator(key(who).identity)


def with_five(net: Network) -> None:
    net.endorse(newcomer(net), "v0", "v1", "v2")


def no_room_for_validators(net: Network) -> tuple[str, AnyBody]:
    net.act("bob", Deposit(1_000))
    first = net.state.validators[0]
    crowd = tuple(replace(first, identity=name("validator", i), bond=0) for i in range(state.MAX_VALIDATORS - 4))
    net.state = replace(net.state, validators=(*net.state.validators, *crowd))
    return "v0", net.newcomer("bob")


def endorses_much(net: Network) -> tuple[str, AnyBody]:
    for stake in range(1, membership.MAX_ENDORSED + 1):
        net.act("v0", newcomer(net, stake))
    return "v0", newcomer(net, 9)


def culprit_again(net: Network) -> tuple[str, AnyBody]:
    net.act("ann", net.conflict("v3"))
    return "v0", net.newcomer("v3", 1)


def old_key_again(net: Network) -> tuple[str, AnyBody]:
    old = net.keys["v0"].identity
    net.act("v0", net.spend_key("v0"))
    net.turn_key("v0")
    return "v1", replace(newcomer(net), identity=old)


def rotates(net: Network, **changes: object) -> RotateKey:
    return replace(net.spend_key("v0"), **changes)


def rotates_much(net: Network) -> tuple[str, AnyBody]:
    for _ in range(rotation.MAX_ROTATIONS):
        net.act("v0", net.spend_key("v0"))
        net.turn_key("v0")
    return "v0", net.spend_key("v0")


def works_beside(net: Network) -> tuple[str, AnyBody]:
    net.act("ann", Transfer(key("v0").identity, 100))
    net.act("v0", Deposit(100))
    net.act("v0", Enroll(net.task))
    return "v0", net.spend_key("v0")


def caught_before(net: Network) -> tuple[str, AnyBody]:
    net.act("ann", net.conflict("v3"))
    return "bob", net.conflict("v3", height=8)


def left_long_ago(net: Network) -> tuple[str, AnyBody]:
    with_five(net)
    net.endorse(out("v3"), "v0", "v1", "v2", "v3")
    net.wait(membership.UNBONDING_MS)
    net.open_task()
    return "ann", net.conflict("v3")


def forged_evidence(net: Network) -> tuple[str, AnyBody]:
    evidence = net.conflict("v3")
    return "ann", replace(evidence, second=evidence.second[:-1] + bytes([evidence.second[-1] ^ 1]))


STORIES: dict[str, list[Story]] = {
    "not_a_validator": [lambda net: ("v0", out("ann")), lambda net: ("bob", net.conflict("ann")), left_long_ago],
    "already_validator": [
        lambda net: ("v0", net.newcomer("v1")),
        lambda net: ("v0", rotates(net, identity=key("v1").identity)),
    ],
    "too_many_validators": [no_room_for_validators],
    "too_few_validators": [lambda net: ("v0", out("v1"))],
    "too_many_endorsements": [endorses_much],
    "barred": [culprit_again],
    "identity_in_use": [old_key_again],
    "rotated_too_often": [rotates_much],
    "bad_proof": [
        lambda net: ("v0", rotates(net, proof=bytes(64))),
        lambda net: ("v0", net.spend_key("v1")),  # the new key has agreed to take another's place
    ],
    "already_slashed": [caught_before],
    "no_conflict": [
        lambda net: ("ann", replace(net.conflict("v3"), second=net.conflict("v3").first)),
        lambda net: ("ann", replace(net.conflict("v3"), second=net.conflict("v2").second)),
        lambda net: ("ann", replace(net.conflict("v3"), second=net.conflict("v3", height=8).second)),
    ],
    "bad_signature": [forged_evidence],
    "truncated": [lambda net: ("ann", Accuse(b"", b""))],
    "zero_amount": [
        lambda net: ("ann", Transfer(key("bob").identity, 0)),
        lambda net: ("ann", Deposit(0)),
        lambda net: ("ann", Withdraw(0)),
    ],
    "insufficient_balance": [
        lambda net: ("ann", Transfer(key("bob").identity, 9_901)),
        lambda net: ("ann", Deposit(9_901)),
        lambda net: (CLIENT, replace(OFFER, reward=9_001)),
        no_money_left,
    ],
    "insufficient_stake": [
        lambda net: ("ann", Withdraw(101)),
        lambda net: ("bob", Enroll(net.task)),
        lambda net: (VALIDATORS[0], Enroll(net.task)),  # its stake is with its office
        lambda net: ("v0", newcomer(net, 1_001)),
    ],
    "stake_in_use": [lambda net: ("ann", Withdraw(1)), lambda net: ("v0", Withdraw(1)), works_beside],
    "bad_policy": [
        lambda net: (CLIENT, with_policy(stake=0, forfeit=0)),
        lambda net: (CLIENT, with_policy(forfeit=101)),
        lambda net: (CLIENT, with_policy(audit_permille=0)),
        lambda net: (CLIENT, with_policy(expires_ms=1_500)),
    ],
    "too_many_steps": [lambda net: (CLIENT, replace(OFFER, steps=tasks.MAX_STEPS + 1, reward=9_000))],
    "reward_too_small": [
        lambda net: (CLIENT, replace(OFFER, reward=4)),
        lambda net: (CLIENT, replace(OFFER, reward=29)),  # 2 for three attestations
        lambda net: (CLIENT, with_policy(validator_permille=1000)),
    ],
    "too_many_tasks": [
        no_room_for_tasks,
        lambda net: with_task(net, steps=tasks.MAX_OPEN_STEPS),
        lambda net: with_task(net, micro_batches=tasks.MAX_OPEN_MICRO_BATCHES - OFFER.micro_batches + 1),
    ],
    "no_such_task": [lambda net: ("bob", Enroll(name("nothing"))), after_expiry],
    "task_closed": [after_the_last_step],
    "already_enrolled": [lambda net: ("ann", Enroll(net.task))],
    "ejected": [after_being_caught],
    "task_full": [no_room_for_workers],
    "not_enrolled": [lambda net: ("bob", Leave(net.task))],
    "wrong_step": [another_step, no_round_yet],
    "repeated_micro_batch": [twice_in_one],
    "no_such_micro_batch": [another_index],
    "not_assigned": [lambda net: ("bob", net.commit_body("bob", [0]))],
    "wrong_phase": [lambda net: ("ann", net.reveal_body("ann", [0]))],
    "not_drawn": [before_the_draw],
    "already_judged": [second_verdict],
    "not_validator": [
        lambda net: ("bob", newcomer(net)),
        lambda net: ("bob", out("v0")),
        lambda net: ("bob", net.spend_key("bob")),
        outsider_audits,
        lambda net: ("bob", net.attest_body()),
    ],
    "not_settled": [lambda net: ("v0", net.attest_body())],
    "already_attested": [second_attestation],
    "already_anchored": [anchored_by_another, anchored_before],
}
AT_THE_DOOR = {"unknown_sender", "stale_nonce"}
OF_VOTES = {"no_conflict", "bad_signature", "truncated"}
OF_DOCUMENTS = {"too_large", "malformed", "not_canonical", "repeated_validator", "too_much_money"}
ALONE = (OpenTask, AddValidator, RemoveValidator, RotateKey, Accuse, Batch)
"""Kinds that do not go into batches."""
CASES = [(code, story) for code, stories in STORIES.items() for story in stories]


@pytest.fixture
def net() -> Network:
    net = Network()
    net.open_task()
    net.enroll("ann")
    return net


@pytest.mark.parametrize(("code", "story"), CASES, ids=[f"{code}-{i}" for i, (code, _) in enumerate(CASES)])
def test_it_is_refused_and_changes_only_the_nonce(net: Network, code: str, story: Story) -> None:
    sender, body = story(net)
    before, events = net.state, len(net.events)
    result = net.send(sender, body)
    assert result.code == code, result
    assert result.reason and result.sender == net.keys[sender].identity
    assert net.state == with_reply(before, Reply(net.nonce, result.hash, code, before.height + 1), result.sender)
    assert len(net.events) == events


@pytest.mark.parametrize(("code", "story"), CASES, ids=[f"{code}-{i}" for i, (code, _) in enumerate(CASES)])
def test_in_a_batch_it_leaves_no_trace_either(net: Network, code: str, story: Story) -> None:
    sender, body = story(net)
    if isinstance(body, ALONE):
        return
    before, events = net.state, len(net.events)
    result = net.send(sender, Batch([body, body]))
    assert result.items == (code, code)
    reply = Reply(net.nonce, result.hash, "items_refused", before.height + 1)
    assert net.state == with_reply(before, reply, result.sender)
    assert len(net.events) == events


def with_reply(before: State, reply: Reply, identity: str) -> State:
    """The state one block later in which nothing else has happened."""
    accounts = before.accounts.set(identity, replace(before.accounts[identity], last=reply))
    return replace(before, height=before.height + 1, time_ms=before.time_ms + 1, accounts=accounts)


def test_every_refusal_of_the_rules_has_a_story() -> None:
    sources = Path(tallystick.ledger.__file__).parent.glob("*.py")
    codes = {code for path in sources for code in re.findall(r'Refused\(\s*"(\w+)"', path.read_text())}
    assert codes == (set(STORIES) - OF_VOTES) | AT_THE_DOOR | OF_DOCUMENTS | {"too_many_accounts", "too_many_anchors"}


def test_accounts_have_an_end_and_those_that_are_there_go_on(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MAX_ACCOUNTS", len(net.state.accounts) + 1)
    net.act("ann", Transfer(key("zoe").identity, 5))
    assert net.send("ann", Transfer(key("yan").identity, 5)).code == "too_many_accounts"
    net.act("ann", Transfer(key("zoe").identity, 5))
    assert net.account("zoe").balance == 10


def test_anchors_have_an_end_and_those_that_are_there_stay(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors, "MAX_ANCHORS", 2)
    net.act("ann", Anchor(name("one")))
    net.act("ann", Anchor(name("two")))
    burned = net.state.burned
    assert net.send("ann", Anchor(name("three"))).code == "too_many_anchors"
    assert net.send("bob", Anchor(name("two"))).code == "already_anchored"
    assert set(net.state.anchors) == {name("one"), name("two")} and net.state.burned == burned


def test_a_replay_is_executed_once(net: Network) -> None:
    raw = net.sign("ann", Transfer(key("bob").identity, 7))
    first, second = net.block(raw, raw).results
    assert (first.code, second.code, first.hash) == ("ok", "stale_nonce", second.hash)
    assert net.block(raw).results[0].code == "stale_nonce"
    assert net.account("bob").balance == 10_007


def test_a_refused_transaction_cannot_be_replayed_when_it_would_succeed(net: Network) -> None:
    raw = net.sign("bob", Enroll(net.task))
    assert net.block(raw).results[0].code == "insufficient_stake"
    net.act("bob", Deposit(100))
    assert net.block(raw).results[0].code == "stale_nonce"


def test_a_stranger_has_no_account_until_somebody_pays_it(net: Network) -> None:
    raw = sign_transaction(key("zoe"), net.state.chain, 1, Transfer(key("bob").identity, 1))
    assert net.block(raw).results[0].code == "unknown_sender"
    assert key("zoe").identity not in net.state.accounts
    net.act("ann", Transfer(key("zoe").identity, 5))
    (result,) = net.block(raw).results
    assert result.code == "ok"
    last = Reply(1, result.hash, "ok", net.state.height)
    assert net.state.accounts[key("zoe").identity] == Account(balance=4, last=last)


def test_a_signature_for_another_network_is_worth_nothing(net: Network) -> None:
    raw = sign_transaction(key("ann"), "test-0000", 99, Transfer(key("bob").identity, 1))
    with pytest.raises(Refused, match="bad_signature"):
        open_transaction(raw, net.state.chain)


@pytest.mark.parametrize("code", ["too_large", "truncated", "malformed"])
def test_what_is_no_transaction_has_a_result_and_no_effect(net: Network, code: str) -> None:
    signed = net.sign("ann", Transfer(key("bob").identity, 1))
    raw = {"too_large": bytes(MAX_TRANSACTION_BYTES + 1), "truncated": signed[:90], "malformed": misshapen(net)}[code]
    before = net.state
    assert net.block(raw).results[0].code == code
    assert net.state.accounts == before.accounts


@pytest.mark.parametrize("name_", [key("bob").identity + "\n", key("bob").identity.upper(), "../bob", ""])
def test_what_is_not_quite_a_name_is_refused(net: Network, name_: str) -> None:
    """Names become file names and hash inputs, so they have one spelling."""
    assert net.send("ann", Transfer(name_, 1)).code == "malformed"


def misshapen(net: Network) -> bytes:
    """Signed with care, and nonsense."""
    return seal(key("ann"), f"tallystick/{net.state.chain}/transaction", b"\xc1")


def test_who_has_no_account_or_used_its_nonce_can_be_told_from_the_state(net: Network) -> None:
    raw = net.sign("ann", Transfer(key("bob").identity, 7))
    transaction = open_transaction(raw, net.state.chain)
    require_new(net.account("ann"), transaction)
    net.block(raw)
    with pytest.raises(Refused, match="stale_nonce"):
        require_new(net.account("ann"), transaction)
    with pytest.raises(Refused, match="unknown_sender"):
        require_new(None, transaction)


@pytest.mark.parametrize("place", [0, 40, -1], ids=["sender", "signature", "payload"])
def test_one_changed_bit_is_a_bad_signature_for_all_who_check_it(net: Network, place: int) -> None:
    raw = bytearray(net.sign("ann", Transfer(key("bob").identity, 7)))
    raw[place] ^= 1
    with pytest.raises(Refused, match="bad_signature"):
        open_transaction(bytes(raw), net.state.chain)


def test_one_stake_does_not_back_two_tasks(net: Network) -> None:
    net.open_task()
    assert net.send("ann", Enroll(net.task)).code == "insufficient_stake"
    net.act("ann", Deposit(100))
    net.act("ann", Enroll(net.task))
    assert net.account("ann").locked == 200
    check_invariants(net.state)


@pytest.mark.parametrize("height", [0, 3, 9])
def test_blocks_out_of_order_are_a_mistake_of_the_engine(net: Network, height: int) -> None:
    assert net.state.height + 1 not in (0, 3, 9)
    with pytest.raises(ValueError, match="cannot follow"):
        execute_block(net.state, height=height, time_ms=2_000_000, beacon=b"", transactions=())


def test_agreed_time_does_not_go_back_not_even_before_genesis(net: Network) -> None:
    """The first primary chooses the time of block 1. Its clock may be wrong, or it may lie: nobody may stop for it."""
    for late_ms in (0, net.state.time_ms - 1):
        executed = execute_block(net.state, height=net.state.height + 1, time_ms=late_ms, beacon=b"", transactions=())
        assert executed.state.time_ms == net.state.time_ms
