"""Who the validators are, and how that changes: by the endorsement of a quorum of them.

Consensus goes by the new list from its next checkpoint on; the rules here go by it at once. A validator that leaves
answers with its bond for UNBONDING_MS more, long after the last vote that it could give.
"""

from typing import Final

from msgspec.structs import replace

from tallystick.canon.quorum import faults, quorum
from tallystick.errors import Refused
from tallystick.ledger.audits import require_validator
from tallystick.ledger.draft import Draft
from tallystick.ledger.events import BondFreed, Endorsed, ValidatorAdded, ValidatorRemoved
from tallystick.ledger.recount import recount
from tallystick.ledger.state import MAX_VALIDATORS, Proposal, Retired, State, Validator
from tallystick.ledger.transactions import AddValidator, Change, RemoveValidator

MIN_VALIDATORS: Final = 4
"""Fewer tolerate no fault at all."""
MAX_ENDORSED: Final = 8
"""Changes that one validator can have endorsed at a time, which bounds what waits in the state."""
ENDORSED_MS: Final = 7 * 24 * 3_600_000
"""After this a change that found no quorum is forgotten: nobody expects it any more."""
UNBONDING_MS: Final = 7 * 24 * 3_600_000


def add_validator(draft: Draft, sender: str, body: AddValidator) -> None:
    require_validator(draft, sender)
    require_unused(draft.state, body.identity)
    if len(draft.state.validators) >= MAX_VALIDATORS:
        raise Refused("too_many_validators", f"add_validator: there are {MAX_VALIDATORS}; remove one first")
    if (free := draft.account(body.identity).free) < body.stake:
        raise Refused(
            "insufficient_stake", f"{body.identity[:12]}: {free} free at stake, {body.stake} needed; it has to deposit"
        )
    if endorse(draft, sender, body):
        newcomer = Validator(body.identity, body.stake, body.address, body.url, body.certificate)
        draft.change(body.identity, locked=body.stake)
        draft.emit(ValidatorAdded(body.identity, body.stake))
        put_validators(draft, (*draft.state.validators, newcomer))


def remove_validator(draft: Draft, sender: str, body: RemoveValidator) -> None:
    """Down to MIN_VALIDATORS. A set that is smaller already has nothing to lose and may shrink to one."""
    require_validator(draft, sender)
    validators = draft.state.validators
    leaving = next((v for v in validators if v.identity == body.identity), None)
    if leaving is None:
        raise Refused("not_a_validator", f"remove_validator: {body.identity[:12]} is none")
    if len(validators) in (1, MIN_VALIDATORS):
        raise Refused("too_few_validators", f"remove_validator: there are only {len(validators)}; add one first")
    if endorse(draft, sender, body):
        until_ms = draft.now_ms + UNBONDING_MS
        retired = (*draft.state.retired, Retired(leaving.identity, leaving.bond, until_ms))
        draft.state = replace(draft.state, retired=retired)
        draft.emit(ValidatorRemoved(leaving.identity, leaving.bond, until_ms))
        put_validators(draft, tuple(v for v in validators if v is not leaving))


def require_unused(state: State, identity: str) -> None:
    """A name that nobody has who answers for anything under it, so that evidence always finds one party."""
    if state.is_validator(identity):
        raise Refused("already_validator", f"{identity[:12]}: is a validator")
    if identity in state.culprits:
        raise Refused("barred", f"{identity[:12]}: was slashed for conflicting votes and may not come back")
    if any(identity in (rotation.old, rotation.new) for rotation in state.rotations):
        raise Refused("identity_in_use", f"{identity[:12]}: was a validator's key not long ago; use a new one")


def endorse(draft: Draft, sender: str, change: Change) -> bool:
    """Counts the sender's voice, and says whether that makes a quorum. To endorse again counts the voices again,
    which helps where a quorum has become smaller in the meantime."""
    proposals = draft.state.proposals
    proposal = next((p for p in proposals if p.change == change), Proposal(change, (), draft.now_ms))
    if sender not in proposal.endorsers:
        if sum(sender in p.endorsers for p in proposals) >= MAX_ENDORSED:
            raise Refused(
                "too_many_endorsements", f"{sender[:12]}: {MAX_ENDORSED} changes wait for others' endorsements"
            )
        proposal = replace(proposal, endorsers=(*proposal.endorsers, sender))
    others = tuple(p for p in proposals if p.change != change)
    draft.state = replace(draft.state, proposals=(*others, proposal))
    voices, needed = len(proposal.endorsers), quorum(len(draft.state.validators))
    kind = "add_validator" if isinstance(change, AddValidator) else "remove_validator"
    draft.emit(Endorsed(kind, change.identity, sender, voices, needed))
    return voices >= needed


def newcomers(state: State) -> tuple[Validator, ...]:
    """Who may be a validator soon: so many have endorsed it that one of them is honest."""
    needed = faults(len(state.validators)) + 1
    return tuple(
        Validator(change.identity, change.stake, change.address, change.url, change.certificate)
        for change, endorsers in ((proposal.change, proposal.endorsers) for proposal in state.proposals)
        if isinstance(change, AddValidator) and len(endorsers) >= needed
    )


def put_validators(draft: Draft, validators: tuple[Validator, ...]) -> None:
    """Those who left endorse nothing any more, and what concerns one who came or left is settled. A culprit who
    kept the office because there was nobody else loses it to whoever comes."""
    validators = tuple(v for v in validators if v.identity not in draft.state.culprits) or validators
    before = {validator.identity for validator in draft.state.validators}
    after = {validator.identity for validator in validators}
    proposals = [
        replace(p, endorsers=tuple(e for e in p.endorsers if e in after))
        for p in draft.state.proposals
        if p.change.identity not in before ^ after
    ]
    draft.state = replace(draft.state, validators=validators, proposals=tuple(p for p in proposals if p.endorsers))
    recount(draft)


def forget_the_past(draft: Draft) -> None:
    """What is over once agreed time has passed: endorsements that found no quorum, bonds of those who left, old
    keys."""
    state, now_ms = draft.state, draft.now_ms
    if not (state.proposals or state.retired or state.rotations):
        return
    for entry in state.retired:
        if entry.until_ms <= now_ms:
            draft.change(entry.identity, locked=-entry.bond)
            draft.emit(BondFreed(entry.identity, entry.bond))
    draft.state = replace(
        state,
        proposals=tuple(p for p in state.proposals if p.opened_ms + ENDORSED_MS > now_ms),
        retired=tuple(entry for entry in state.retired if entry.until_ms > now_ms),
        rotations=tuple(rotation for rotation in state.rotations if rotation.until_ms > now_ms),
    )
