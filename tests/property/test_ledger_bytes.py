"""Bytes from outside: refused by name, or read and written back the same; never anything else."""

from functools import cache

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger_network import CLIENT, POLICY, Network, key, make_genesis
from tallystick.canon.sealed import seal
from tallystick.errors import Refused
from tallystick.ledger.execute import execute_block
from tallystick.ledger.genesis import dump_genesis, load_genesis
from tallystick.ledger.state import Account, State, dump_state, load_state
from tallystick.ledger.transactions import Deposit, RemoveValidator, open_transaction, read_transaction


@cache
def busy_state() -> State:
    """One of everything: a finished step, a round with every phase, verdicts, an attestation of an earlier task."""
    net = Network()
    net.open_task(steps=2, micro_batches=6, policy=replace(POLICY, audit_permille=500))
    net.enroll_together("ann", "bob", "eve")
    net.play_step("ann", "bob", "eve")
    net.commit("ann")
    first = net.task
    net.open_task()
    net.enroll("bob")
    net.contribute("bob")
    net.audit("v0")
    net.open_task()
    net.enroll("bob")
    net.contribute("bob")
    net.audit("v0", "v1")
    net.attest("v3")
    assert first in net.state.tasks
    for who in ("ann", "bob"):
        net.act(who, Deposit(1_000))
    net.endorse(net.newcomer("bob"), "v0", "v1", "v2")
    net.endorse(RemoveValidator(key("v2").identity), "v0", "v1", "v2", "bob")
    net.act("v0", net.spend_key("v0"))
    net.turn_key("v0")
    net.endorse(net.newcomer("ann", stake=1), "v0")
    net.act("eve", net.conflict("v3"))
    state = net.state
    assert state.proposals and state.retired and state.rotations and state.culprits
    return state


def refused_or_same(data: bytes) -> None:
    try:
        state = load_state(data)
    except Refused:
        return
    assert dump_state(state) == data


def test_a_state_is_read_back_as_it_was() -> None:
    state = busy_state()
    again = load_state(dump_state(state))
    assert again == state and dump_state(again) == dump_state(state)


def test_the_bytes_do_not_depend_on_the_history_of_a_mapping() -> None:
    state = busy_state()
    accounts = state.accounts.set("x", Account()).delete("x")
    backward = type(accounts)(sorted(state.accounts.items(), reverse=True))
    assert dump_state(replace(state, accounts=accounts)) == dump_state(state)
    assert dump_state(replace(state, accounts=backward)) == dump_state(state)


def test_mappings_are_written_in_the_order_of_their_keys() -> None:
    """The order inside a `Map` differs from process to process, as Python's string hashes do."""
    fields = msgspec.msgpack.decode(dump_state(busy_state()))
    for pairs in (fields[3], fields[4]):
        names = [identity for identity, _ in pairs]
        assert names == sorted(names) and len(names) > 2


def test_the_bytes_cover_the_height() -> None:
    state = busy_state()
    assert dump_state(replace(state, height=state.height + 1)) != dump_state(state)


@given(st.binary(max_size=400))
def test_noise_is_no_state(data: bytes) -> None:
    refused_or_same(data)


@given(st.data())
def test_a_damaged_state_is_refused_or_another_state(data: st.DataObject) -> None:
    good = bytearray(dump_state(busy_state()))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    refused_or_same(bytes(good[: data.draw(st.integers(1, len(good)))]))


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=20,
)


@given(st.lists(trees, max_size=10))
def test_other_shapes_are_no_state(fields: list[object]) -> None:
    refused_or_same(msgspec.msgpack.encode(fields))


def test_a_mapping_out_of_order_or_with_a_repeated_key_is_refused() -> None:
    fields = msgspec.msgpack.decode(dump_state(busy_state()))
    for accounts in (fields[3][::-1], [fields[3][0], *fields[3]]):
        with pytest.raises(Refused, match="not_canonical"):
            load_state(msgspec.msgpack.encode([*fields[:3], accounts, *fields[4:]]))


KINDS = ["transfer", "batch", "add_validator", "remove_validator", "rotate_key", "accuse"]


@given(st.binary(max_size=300), trees, st.sampled_from(KINDS))
def test_signed_nonsense_is_a_refusal_and_never_a_crash(noise: bytes, tree: object, kind: str) -> None:
    state = busy_state()
    domain = f"tallystick/{state.chain}/transaction"
    shaped = msgspec.msgpack.encode(tree)
    for payload in (noise, shaped, msgspec.msgpack.encode([1, [kind, tree, tree]])):
        raw = seal(key(CLIENT), domain, payload or b"\x00")
        try:
            assert read_transaction(raw) == open_transaction(raw, state.chain)
        except Refused:
            executed = execute_block(
                state, height=state.height + 1, time_ms=state.time_ms, beacon=b"", transactions=(raw, noise)
            )
            assert all(result.code != "ok" for result in executed.results)
            assert executed.state.accounts == state.accounts


@given(st.binary(max_size=300), st.data())
def test_a_damaged_genesis_is_refused_or_another_genesis(noise: bytes, data: st.DataObject) -> None:
    good = dump_genesis(make_genesis())
    at = data.draw(st.integers(0, len(good)))
    for bad in (noise, good[:at], good[:at] + noise[:3] + good[at + 3 :]):
        try:
            genesis = load_genesis(bad)
        except Refused:
            continue
        assert dump_genesis(genesis) == bad
