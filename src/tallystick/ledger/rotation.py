"""A validator's new key: the same validator under another name.

The office, the bond and all money move to the new identity, and so do its votes in rounds in progress, so that one
validator never has two voices. The old key stays answerable: evidence against it is evidence against the new one.
"""

from typing import Final

from msgspec.structs import replace

from tallystick.errors import Refused
from tallystick.ledger.audits import require_validator
from tallystick.ledger.draft import Draft
from tallystick.ledger.events import KeyRotated
from tallystick.ledger.membership import UNBONDING_MS, require_unused
from tallystick.ledger.recount import recount
from tallystick.ledger.state import Rotation, State
from tallystick.ledger.transactions import RotateKey, proves_rotation

MAX_ROTATIONS: Final = 8
"""Of one validator within UNBONDING_MS, since each is kept that long."""


def rotate_key(draft: Draft, sender: str, body: RotateKey) -> None:
    require_validator(draft, sender)
    require_unused(draft.state, body.identity)
    if sender in draft.state.culprits:  # the last validator, which holds the office until somebody comes
        raise Refused("barred", f"{sender[:12]}: was slashed for conflicting votes and may not take another name")
    own = next(v for v in draft.state.validators if v.identity == sender)
    if draft.account(sender).locked != own.bond:
        raise Refused(
            "stake_in_use", f"{sender[:12]}: has stake in a task or in a past office; leave the task, or wait"
        )
    if sum(name_now(draft.state, rotation.old) == sender for rotation in draft.state.rotations) >= MAX_ROTATIONS:
        raise Refused("rotated_too_often", f"{sender[:12]}: {MAX_ROTATIONS} keys are remembered; wait some days")
    if not proves_rotation(body.proof, draft.state.chain, sender, body.identity):
        raise Refused(
            "bad_proof", f"rotate_key: {body.identity[:12]} has not signed to take the place of {sender[:12]}"
        )
    move_account(draft, sender, body.identity)
    rename_validator(draft, sender, body)
    draft.emit(KeyRotated(sender, body.identity))


def move_account(draft: Draft, old: str, new: str) -> None:
    """The old account stays, empty, with its last reply: nothing signed with the old key is executed twice."""
    moved = draft.account(old)
    draft.change(old, balance=-moved.balance, stake=-moved.stake, locked=-moved.locked)
    draft.change(new, balance=moved.balance, stake=moved.stake, locked=moved.locked)


def rename_validator(draft: Draft, old: str, body: RotateKey) -> None:
    """Everywhere where the validator is named and still has something to say or to get."""

    def renamed(identity: str) -> str:
        return body.identity if identity == old else identity

    state = draft.state
    draft.state = replace(
        state,
        validators=tuple(
            replace(v, identity=body.identity, certificate=body.certificate) if v.identity == old else v
            for v in state.validators
        ),
        proposals=tuple(
            replace(p, endorsers=tuple(map(renamed, p.endorsers)))
            for p in state.proposals
            if p.change.identity not in (old, body.identity)
        ),
        rotations=(*state.rotations, Rotation(old, body.identity, draft.now_ms + UNBONDING_MS)),
    )
    for task in state.open_tasks:
        if (entry := draft.task(task)).client == old:
            draft.put_task(replace(entry, client=body.identity))
    recount(draft, renamed)


def name_now(state: State, identity: str) -> str:
    """The identity that a validator's key, perhaps an old one, goes by now. Rotations are in order of time and never
    return to a name, so one pass follows them all."""
    for rotation in state.rotations:
        if rotation.old == identity:
            identity = rotation.new
    return identity
