"""Evidence against validators: two signed votes that exclude each other. No honest validator ever signs such a pair,
and nobody else can, so the pair alone is the proof; whoever brings it first is rewarded.

A validator so caught loses its whole bond and its office. If it was the only one, it keeps the office, since somebody
must order transactions, and has no bond.
"""

from typing import Final

from msgspec.structs import replace

from tallystick.canon.votes import culprit
from tallystick.errors import Refused
from tallystick.ledger.draft import Draft
from tallystick.ledger.events import Equivocated
from tallystick.ledger.membership import put_validators
from tallystick.ledger.rotation import name_now
from tallystick.ledger.transactions import Accuse

FINDER_PERMILLE: Final = 50
"""The finder's share of the bond; the rest is burned. Small, because a culprit can accuse itself under another name
to save that much."""


def accuse(draft: Draft, sender: str, body: Accuse) -> None:
    signer, vote = culprit(draft.state.chain, body.first, body.second)
    party = name_now(draft.state, signer)
    if party in draft.state.culprits:
        raise Refused("already_slashed", f"accuse: {party[:12]} was slashed before, and loses its bond once")
    if not (draft.state.is_validator(party) or any(entry.identity == party for entry in draft.state.retired)):
        raise Refused("not_a_validator", f"accuse: {party[:12]} is none, or left so long ago that its bond is free")
    amount = seize_bonds(draft, party)
    burned = draft.share_out(amount, FINDER_PERMILLE, [sender])
    draft.state = replace(draft.state, culprits=(*draft.state.culprits, party))
    kind = str(vote.__struct_config__.tag)
    draft.emit(Equivocated(party, kind, vote.epoch, vote.height, amount, sender, burned))
    others = tuple(v for v in draft.state.validators if v.identity != party)
    if others and len(others) < len(draft.state.validators):
        put_validators(draft, others)


def seize_bonds(draft: Draft, party: str) -> int:
    """Takes all that `party` answers with as a validator, in office and after it, and returns how much that was."""
    amount = sum(validator.bond for validator in draft.state.validators if validator.identity == party)
    amount += sum(entry.bond for entry in draft.state.retired if entry.identity == party)
    draft.change(party, stake=-amount, locked=-amount)
    draft.state = replace(
        draft.state,
        validators=tuple(replace(v, bond=0) if v.identity == party else v for v in draft.state.validators),
        retired=tuple(entry for entry in draft.state.retired if entry.identity != party),
    )
    return amount
