"""Anchors: digests with a place in the ledger's order, for whoever must show later what it had at that time.

The ledger does not know what a digest stands for. It keeps who came first, and a second anchor of the same digest is
refused, so that a copy of somebody's published digest gains nothing.
"""

from typing import Final

from msgspec.structs import replace

from tallystick.errors import Refused
from tallystick.ledger.accounts import require_balance
from tallystick.ledger.draft import Draft
from tallystick.ledger.events import AnchorSet
from tallystick.ledger.state import Anchored
from tallystick.ledger.transactions import Anchor

PRICE: Final = 1
"""Burned for each anchor, since it is kept for ever."""
MAX_ANCHORS: Final = 1_000_000
"""As with accounts, the price alone would bound nothing: there is more money than room."""


def anchor(draft: Draft, sender: str, body: Anchor) -> None:
    state = draft.state
    first = state.anchors.get(body.digest)
    if first is not None:
        raise Refused(
            "already_anchored",
            f"anchor: {body.digest} was anchored by {first.identity} in block {first.height}, and the first one counts",
        )
    if len(state.anchors) >= MAX_ANCHORS:
        raise Refused("too_many_anchors", f"anchor: there are {MAX_ANCHORS}, and all are kept; use another ledger")
    require_balance(draft, sender, PRICE)
    draft.burn(sender, PRICE)
    entry = Anchored(sender, state.height, state.time_ms, len(state.anchors))
    draft.state = replace(draft.state, anchors=state.anchors.set(body.digest, entry))
    draft.emit(AnchorSet(body.digest, sender))
