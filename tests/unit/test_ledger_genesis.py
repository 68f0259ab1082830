"""Where a network begins."""

import pytest
from msgspec.structs import replace

from ledger_network import RICH, VALIDATOR_STAKE, check_invariants, key, make_genesis
from tallystick.errors import Refused
from tallystick.ledger.genesis import (
    MAX_GENESIS_BYTES,
    Agreement,
    Genesis,
    chain_id,
    dump_genesis,
    genesis_state,
    load_genesis,
)
from tallystick.ledger.state import MAX_VALIDATORS, Account
from tallystick.ledger.transactions import MAX_AMOUNT


def test_a_document_is_read_back_as_it_was() -> None:
    genesis = make_genesis()
    assert load_genesis(dump_genesis(genesis)) == genesis


def test_the_first_state_holds_what_the_document_says() -> None:
    state = genesis_state(make_genesis())
    assert (state.height, state.time_ms, state.burned) == (0, 1_000_000, 0)
    assert state.accounts[key("ann").identity] == Account(balance=RICH)
    assert state.accounts[key("v0").identity] == Account(stake=VALIDATOR_STAKE, locked=VALIDATOR_STAKE)
    assert [v.identity for v in state.validators] == [key(f"v{i}").identity for i in range(4)]
    check_invariants(state)


def test_a_validator_may_also_have_a_balance() -> None:
    genesis = make_genesis(people=("v0", "ann"))
    assert genesis_state(genesis).accounts[key("v0").identity].balance == RICH
    check_invariants(genesis_state(genesis))


def test_the_chain_id_is_bound_to_every_byte_of_the_document() -> None:
    genesis = make_genesis()
    others = [
        replace(genesis, time_ms=1),
        replace(genesis, balances={}),
        replace(genesis, validators=genesis.validators[::-1]),
        replace(genesis, agreement=Agreement(window=7)),
    ]
    ids = [chain_id(g) for g in (genesis, *others)]
    assert len(set(ids)) == 5 and all(chain.startswith("test-") for chain in ids)


def refused_genesis(genesis: Genesis) -> str:
    with pytest.raises(Refused) as caught:
        load_genesis(dump_genesis(genesis))
    return caught.value.code


def test_documents_that_make_no_network_are_refused() -> None:
    good = make_genesis()
    first = good.validators[0]
    assert refused_genesis(replace(good, validators=())) == "malformed"
    assert refused_genesis(replace(good, validators=(first,) * (MAX_VALIDATORS + 1))) == "malformed"
    assert refused_genesis(replace(good, validators=(first, first))) == "repeated_validator"
    assert refused_genesis(replace(good, validators=(replace(first, identity="me"),))) == "bad_identity"
    assert refused_genesis(replace(good, validators=(replace(first, stake=0),))) == "malformed"
    assert refused_genesis(replace(good, balances={key("ann").identity + "\n": 1})) == "bad_identity"
    assert refused_genesis(replace(good, balances={key("ann").identity: -1})) == "malformed"
    assert refused_genesis(replace(good, balances={key("ann").identity: MAX_AMOUNT})) == "too_much_money"
    assert refused_genesis(replace(good, chain="a/b")) == "malformed"
    assert refused_genesis(replace(good, chain="name\n")) == "malformed"


def test_a_second_spelling_and_a_huge_document_are_refused() -> None:
    data = dump_genesis(make_genesis())
    for bad, code in ((data.replace(b":", b": ", 1), "not_canonical"), (bytes(MAX_GENESIS_BYTES + 1), "too_large")):
        with pytest.raises(Refused) as caught:
            load_genesis(bad)
        assert caught.value.code == code
