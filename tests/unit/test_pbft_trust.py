"""Who knows the genesis document can tell who agreed on a block, and cannot be led past a change of validators."""

import pytest
from pbft_cluster import FOUR, block_at, certify, changed, content_of, group_of, identities, last_proof, stable_proof

from tallystick.canon.encoding import to_bytes
from tallystick.consensus.pbft import ChainOfTrust, Group
from tallystick.consensus.pbft.certificate import encode_checkpoint
from tallystick.errors import Refused

SEVEN = FOUR.successor(4, identities(range(7)))
"""After block 4 three have joined the four, and five votes decide."""
GROWN = stable_proof(FOUR, content_of(FOUR, 4, validators=range(7)), (0, 1, 2))
"""The checkpoint at which they did."""
STAYED = stable_proof(FOUR, content_of(FOUR, 4), (0, 1, 2))


def chain(*proofs: bytes, genesis: Group = FOUR) -> ChainOfTrust:
    return ChainOfTrust(genesis, proofs)


def refusal(trust: ChainOfTrust, height: int, block: bytes, certificate: bytes) -> str:
    with pytest.raises(Refused) as refused:
        trust.verify_block(height, block, certificate)
    return refused.value.code


def test_each_height_belongs_to_the_validators_in_office_then() -> None:
    trust = chain(GROWN)
    assert (trust.proven, trust.height, trust.changes, trust.group) == (8, 4, 1, SEVEN)
    for height, group, by in ((4, FOUR, range(3)), (5, SEVEN, range(5)), (8, SEVEN, range(2, 7))):
        block = block_at(height)
        decoded, found = trust.verify_block(height, block, certify(group, block, list(by), height=height))
        assert (decoded.height, found.validators, found.epoch) == (height, group.validators, group.epoch)


def test_votes_that_decided_nothing_are_no_quorum_for_whoever_hides_that_validators_joined() -> None:
    """Three of seven may be two liars and one who prepared: another block may yet be decided in that place."""
    block = block_at(5)
    three = certify(SEVEN, block, [0, 1, 2], height=5)
    assert refusal(chain(GROWN), 5, block, three) == "too_few_votes"
    assert refusal(chain(), 5, block, three) == "unproven_height"
    later = block_at(9)
    stale = certify(SEVEN, later, [0, 1, 2], height=9)
    assert refusal(chain(STAYED), 9, later, stale) == "unproven_height"


def test_heights_that_nobody_has_agreed_on_are_not_told_of() -> None:
    block = block_at(1)
    good = certify(FOUR, block, [0, 1, 2])
    assert chain().verify_block(1, block, good)[0].height == 1
    for height in (0, -1, 5, 2**60):
        assert refusal(chain(), height, block, good) == "unproven_height"
    assert refusal(chain(), 2, block, good) == "wrong_height"


def test_checkpoints_come_in_order_and_each_is_signed_by_those_before() -> None:
    group = FOUR.successor(4, identities([4, 5, 6, 7]))
    back = stable_proof(group, content_of(group, 8, validators=range(4)), (0, 1, 2))
    strangers = stable_proof(group, content_of(group, 8, validators=range(4)), (4, 5, 6))
    changed = stable_proof(FOUR, content_of(FOUR, 4, validators=(4, 5, 6, 7)), (0, 1, 2))
    again = stable_proof(FOUR, content_of(FOUR, 4, validators=(4, 5, 6, 7)), (1, 2, 3))
    assert chain(changed, strangers).changes == 2
    for first, second, code in (
        (changed, back, "not_a_validator"),
        (STAYED, STAYED, "not_in_order"),
        (changed, again, "not_a_validator"),
        (GROWN, STAYED, "too_few_votes"),
    ):
        trust = chain(first)
        before = trust.height, trust.group
        with pytest.raises(Refused, match=code):
            trust.extend(second)
        assert (trust.height, trust.group) == before


def test_a_set_that_came_back_is_not_the_one_that_left() -> None:
    """Between its two terms others ruled; who shows only the later one is found out."""
    back = Group("test", FOUR.validators, 2, 8, 8, FOUR.parameters)
    later = stable_proof(back, content_of(back, 12), (0, 1, 2))
    with pytest.raises(Refused, match="gap_in_history"):
        chain().extend(later)


def test_a_checkpoint_of_another_chain_or_with_too_few_votes_leads_nowhere() -> None:
    for genesis in (group_of(4, chain="another"), group_of(7)):
        with pytest.raises(Refused):
            chain(STAYED, genesis=genesis)
    for bad in (stable_proof(FOUR, content_of(FOUR, 4), (0, 1)), encode_checkpoint(b"", []), b"", to_bytes([])):
        with pytest.raises(Refused):
            chain(bad)


def test_a_running_network_shows_everything_that_it_takes() -> None:
    five = changed()
    disk = five[2].disk
    trust = chain(*disk.history, last_proof(five[2]))
    assert trust.changes == 1 and five[2].replica.epoch > 1
    proven = min(five[2].replica.height, trust.proven)
    assert proven > 12
    for height in range(1, proven + 1):
        block, certificate = disk.blocks[height]
        assert trust.verify_block(height, block, certificate)[0].height == height
