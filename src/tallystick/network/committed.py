"""Whether a transaction was committed, from one validator's reply and the genesis document; nobody is trusted.

The block's certificate holds the votes of a quorum, and checkpoints that one quorum after the other signed lead from
genesis to those who could vote for it (`ChainOfTrust`). What a lying validator can still do is to show too little.
That it was committed says that it is in the order that all agree on; whether the ledger's rules then accepted it
follows from everything before it, and only who executes that knows it for sure.
"""

import msgspec

from tallystick.canon.hashing import blob_name
from tallystick.canon.votes import open_vote
from tallystick.consensus.pbft import Group
from tallystick.consensus.pbft.certificate import votes_in
from tallystick.consensus.pbft.trust import ChainOfTrust
from tallystick.errors import Refused, TallystickError
from tallystick.ledger.transactions import read_transaction
from tallystick.network.dial import Validators, other_chain

SAYS_NOTHING = {"no_such_block", "no_such_transaction", "not_kept"}
"""Codes of answers that a validator which does not have what was asked for gives."""


class UnprovenError(TallystickError):
    """What was shown is not false, and too little."""


class Committed(msgspec.Struct, frozen=True):
    """A transaction that a quorum of validators put in this place for good."""

    chain: str
    transaction: str
    height: int
    number: int
    """In its block, from 1."""
    sender: str
    kind: str
    """Such as `transfer`."""
    epoch: int
    signers: tuple[str, ...]
    """Validators whose votes were shown."""
    validators: int
    """How many there were."""


def check_committed(validators: Validators, genesis: Group, transaction: str, height: int | None = None) -> Committed:
    """Has a validator show that a transaction was committed, and checks it.

    Args:
        transaction: its hash, as `TransactionView` names it.
        height: of its block; if it is not given, the validator says where to look.

    Raises:
        Refused: something that it shows does not hold.
        UnprovenError: it does not show enough, or something else than was asked for: it serves another chain, or the
            block at `height` is another's.
        UnreachableError
    """
    if other := other_chain(validators.status(), genesis.chain):
        raise UnprovenError(other)
    try:
        where = validators.transaction(transaction).height if height is None else height
        shown = validators.block(where)
        trust = _trust_up_to(validators, genesis, where)
    except Refused as refused:
        if refused.code in SAYS_NOTHING:
            raise UnprovenError(f"{refused.reason}; ask another validator, or again later") from None
        raise
    if where > trust.proven:
        reason = f"block {where}, but the checkpoints shown say only up to {trust.proven} who agreed"
        raise UnprovenError(f"{reason}; ask again when the next checkpoint is stable, or another validator")
    block, group = trust.verify_block(where, shown.block, shown.certificate)
    for number, sealed in enumerate(block.transactions, 1):
        if blob_name(sealed) == transaction:
            opened = read_transaction(sealed)
            kind = str(opened.body.__struct_config__.tag)
            signers = tuple(open_vote(group.chain, vote)[0] for vote in votes_in(shown.certificate))
            voters = len(group.validators)
            return Committed(group.chain, transaction, where, number, opened.sender, kind, group.epoch, signers, voters)
    absent = f"transaction {transaction[:12]}: not among the {len(block.transactions)} of block {where}"
    if height is not None:
        raise UnprovenError(f"{absent}, which a quorum committed; is that its height?")
    raise Refused("not_in_block", absent)


def _trust_up_to(validators: Validators, genesis: Group, height: int) -> ChainOfTrust:
    """Follows the checkpoints that a validator shows until they tell who agreed at `height`, or end. Each is checked as
    it comes, so it cannot go on for longer than quorums have signed."""
    trust, shown = ChainOfTrust(genesis), validators.checkpoints()
    while trust.proven < height and (proof := next(shown, None)) is not None:
        trust.extend(proof)
    return trust
