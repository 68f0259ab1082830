"""Evidence against validators: two signed votes that exclude each other. No honest validator ever signs such a pair,
and nobody else can, so the pair alone is the proof; whoever brings it first is rewarded.

A validator so caught loses its whole bond and its office. If it was the only one, it keeps the office, since somebody
must order transactions, and has no bond.
"""

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from tallystick.canon.votes import culprit
from tallystick.errors import Refused
from tallystick.ledger.draft import Draft
from tallystick.ledger.events import Equivocated
from tallystick.ledger.membership import put_validators
from tallystick.ledger.rotation import name_now
from tallystick.ledger.state import State
from tallystick.ledger.transactions import Accuse

BY_ENGINE: Final = "by_engine"
"""Kind of the votes in an event, where the engine looked at them and not the ledger."""
FINDER_PERMILLE: Final = 50
"""The finder's share of the bond; the rest is burned. Small, because a culprit can accuse itself under another name
to save that much."""


def accuse(draft: Draft, sender: str, body: Accuse) -> None:
    signer, vote = culprit(draft.state.chain, body.first, body.second)
    party = name_now(draft.state, signer)
    if party in draft.state.culprits:
        raise Refused("already_slashed", f"accuse: {party[:12]} was slashed before, and loses its bond once")
    if not answers(draft.state, party):
        raise Refused("not_a_validator", f"accuse: {party[:12]} is none, or left so long ago that its bond is free")
    amount = seize_bonds(draft, party)
    burned = draft.share_out(amount, FINDER_PERMILLE, [sender])
    kind = str(vote.__struct_config__.tag)
    draft.emit(Equivocated(party, kind, vote.epoch, vote.height, amount, sender, burned))
    bar(draft, party)


def convict(draft: Draft, offenses: Iterable[tuple[str, int]]) -> None:
    """Slashes those whom the engine itself has proven to have voted twice, as CometBFT does: their identity, and at
    which height. Nobody brought the proof, so all is burned. One who has nothing left to lose is passed over."""
    for signer, height in offenses:
        party = name_now(draft.state, signer)
        if party not in draft.state.culprits and answers(draft.state, party):
            amount = seize_bonds(draft, party)
            burned = draft.share_out(amount, 0, ())
            draft.emit(Equivocated(party, BY_ENGINE, 0, height, amount, "", burned))
            bar(draft, party)


def answers(state: State, party: str) -> bool:
    """Whether `party` is a validator, or was one not long ago."""
    return state.is_validator(party) or any(entry.identity == party for entry in state.retired)


def bar(draft: Draft, party: str) -> None:
    """Takes the office from a culprit, for good."""
    draft.state = replace(draft.state, culprits=(*draft.state.culprits, party))
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
