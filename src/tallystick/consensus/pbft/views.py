"""Replacing a primary (Castro and Liskov 1999, section 4.4), and when to.

A replica that has waited too long *leaves* its view: it takes part in none of its decisions any more and broadcasts a
view change for the next one, which shows everything it may have helped to decide. The next view's primary *opens* it
with a quorum of view changes and what follows from them (`choose`); everybody else computes the same and compares.
Any two quorums share an honest validator, so whatever was committed is among the claims and is proposed again.

What keeps it live:

1. With a quorum of view changes for its view or later ones, a replica waits `timeout * 2**k` for the view to open and
   then leaves it for the next; k counts the views in a row that brought no block.
2. When f + 1 others are in views above its own, it joins the smallest of these at once: one of them is honest.
3. View changes are sent again and again until the view is open, and so is the new view to whoever missed it.
4. f replicas alone move nobody. Nor does a primary give itself up: one that trails is back before the others mind, and
   if they do mind it follows them by the second rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tallystick.canon.votes import PrePrepare, open_vote
from tallystick.consensus.pbft import normal
from tallystick.consensus.pbft.certificate import verify_checkpoint, verify_claim, view_of, votes_in
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import Broadcast, Certified, Examine, Persist, Phase, ViewRecord
from tallystick.consensus.pbft.limits import MAX_DOUBLINGS, MAX_VIEW_CHANGE_BYTES
from tallystick.consensus.pbft.messages import (
    Claim,
    NewView,
    ViewChange,
    check_member,
    null_block,
    open_member_vote,
    open_view_change,
)
from tallystick.consensus.pbft.state import Ballot, Patience, State
from tallystick.errors import Refused

# ---- losing patience


def on_tick(state: State) -> None:
    """Starts, renews and ends our patience with the primary."""
    if not state.votes_here or state.halted:
        return
    patience = state.patience
    if state.active:
        _watch(state)
    elif patience.until_ms is None and len(_at_or_above(state, state.view)) >= state.group.quorum:
        patience.until_ms = state.clock.elapsed_ms + _timeout(state)
    if patience.until_ms is not None and state.clock.elapsed_ms >= patience.until_ms:
        leave_for(state, state.view + 1)


def _watch(state: State) -> None:
    patience, now = state.patience, state.clock.elapsed_ms
    oldest = state.pool.oldest
    if state.primary == state.me or not (oldest or _undecided(state) or _block_is_due(state)):
        patience.until_ms, patience.watched = None, b""
    elif patience.until_ms is None or (patience.watched and not state.pool.holds(patience.watched)):
        since = max(now, state.pool.unshared.get(oldest, now))  # the others watch it from then on: all leave together
        patience.until_ms, patience.watched, patience.nudged = since + _timeout(state), oldest, False
    elif patience.watched and not patience.nudged and 2 * now >= 2 * patience.until_ms - _timeout(state):
        patience.nudged = True  # it may be void by now, or the primary may never have heard of it
        patience.until_ms = max(patience.until_ms, now + _timeout(state) // 2)  # this process may have stood still
        state.do(Examine((patience.watched,), again=True))


def _undecided(state: State) -> bool:
    if state.required:
        return True
    for known in state.instances.values():  # noqa: SIM110 asked at every tick; a generator takes three times as long
        if known.accepted is not None:
            return True
    return False


def _block_is_due(state: State) -> bool:
    return normal.empty_block_due(state, max(state.head.time_ms, state.clock.now_ms))


def _timeout(state: State) -> int:
    return state.timeout_ms << min(state.patience.doublings, MAX_DOUBLINGS)


# ---- leaving


def leave_for(state: State, view: int) -> None:
    """Leaves all views below `view`. The view change is on disk before it is sent: there is one for each view."""
    assert view > state.view or not state.active, f"from view {state.view} to {view}"
    state.view, state.active, state.new_view = view, False, b""
    state.patience = Patience(doublings=state.patience.doublings + 1)
    state.required.clear()
    base = state.low
    checkpoint = state.stable.proof if state.stable.height == base and base > state.group.start else b""
    message = ViewChange(state.group.epoch, view, base, checkpoint, _claims(state))
    frame = state.seal(message)
    state.own_view_change = frame
    state.do(Persist(ViewRecord(state.group.epoch, view, frame)))
    state.do(Broadcast(frame))
    _forget_below(state, view)
    state.view_changes[state.me] = (frame, message)
    open_if_ready(state)


def _claims(state: State) -> list[Claim]:
    """All that we can prove a quorum stood behind, between the watermarks: we helped to decide nothing above, though
    we may have fetched it."""
    claims = {height: _claim(state.group, known) for height, known in state.certified.items()}
    claims |= state.prepared
    return [claims[height] for height in sorted(claims) if state.low < height <= state.high]


def _claim(group: Group, known: Certified) -> Claim:
    """A fetched certificate may hold more votes than it takes; a claim with all of them might not fit."""
    votes = votes_in(known.certificate)
    return Claim(known.height, _decided_in(group, known), known.digest, votes[: group.quorum])


def _decided_in(group: Group, known: Certified) -> int:
    """The view of its commits."""
    _, commit = open_vote(group.chain, votes_in(known.certificate)[0])
    return view_of(commit)


def on_view_change(state: State, sender: str, message: ViewChange, frame: bytes) -> None:
    if len(frame) > MAX_VIEW_CHANGE_BYTES:  # with it in a new view, nobody could open that
        raise Refused("too_large", f"{sender[:12]}'s view change: {len(frame)} bytes, at most {MAX_VIEW_CHANGE_BYTES}")
    if message.epoch > state.group.epoch:
        raise state.hold_early(sender, frame, "epoch_ahead")
    check_member(state.group, sender, message)
    if message.view < state.view or (message.view == state.view and state.active):
        return  # late, and no offense; a status tells its sender where we are
    held = state.view_changes.get(sender)
    if held is not None and held[1].view >= message.view:
        return
    check_view_change(state.group, message)
    state.view_changes[sender] = (frame, message)
    _join(state)
    open_if_ready(state)


def check_view_change(group: Group, message: ViewChange) -> None:
    """Whether a view change may be counted. Its claims are judged one by one, in `choose`.

    Raises:
        Refused: `bad_base`, `bad_claims` or what verifying the checkpoint raises.
    """
    if message.base < group.start or (message.base > group.start) != bool(message.checkpoint):
        raise Refused("bad_base", f"base {message.base} in an epoch that starts at {group.start}")
    if message.checkpoint:
        content = verify_checkpoint(group, message.checkpoint)
        if content.height != message.base:
            raise Refused("bad_base", f"base {message.base} with the proof of a checkpoint at {content.height}")
    heights = [claim.height for claim in message.claims]
    bounds = [message.base, *heights, message.base + group.span + 1]
    if any(later <= earlier for earlier, later in pairwise(bounds)):
        raise Refused("bad_claims", f"claims for heights {heights[:8]} with base {message.base}")


def _at_or_above(state: State, view: int) -> list[str]:
    return [sender for sender, (_, message) in state.view_changes.items() if message.view >= view]


def _join(state: State) -> None:
    above = sorted(message.view for _, message in state.view_changes.values() if message.view > state.view)
    if len(above) > state.group.faults and state.votes_here:
        leave_for(state, above[0])


def _forget_below(state: State, view: int) -> None:
    state.view_changes = {s: held for s, held in state.view_changes.items() if held[1].view >= view}


# ---- opening


@dataclass(frozen=True)
class Opening:
    """What a view starts from."""

    base: int
    """A stable checkpoint, or the start of the epoch: nothing at or below it is decided in this view."""
    digests: tuple[bytes, ...]
    """What must be at the heights after it, in order."""

    @property
    def blocks(self) -> list[tuple[int, bytes]]:
        return list(enumerate(self.digests, self.base + 1))


def choose(group: Group, messages: Sequence[ViewChange]) -> Opening:
    """What the view that these view changes lead to must propose again.

    The base is the highest one proven. At each height above it, up to the highest that has a claim, stands the digest
    claimed for the latest view, or the null block where no quorum can have stood behind anything. A claim whose proof
    does not hold counts for nothing, and takes no other with it.
    """
    base = max(message.base for message in messages)
    best: dict[int, tuple[int, bytes]] = {}
    for message in messages:
        for claim in message.claims:
            if claim.height > base and _holds(group, claim):
                best[claim.height] = max(best.get(claim.height, (-1, b"")), (claim.view, claim.digest))
    heights = range(base + 1, max(best, default=base) + 1)
    return Opening(base, tuple(best[h][1] if h in best else group.block_digest(null_block(h)) for h in heights))


def _holds(group: Group, claim: Claim) -> bool:
    try:
        verify_claim(group, claim)
    except Refused:
        return False
    return True


def open_if_ready(state: State) -> None:
    """As primary of the view that we wait for: opens it when a quorum has left for it."""
    if state.active or not state.votes_here or state.primary != state.me:
        return
    ready = [held for _, held in sorted(state.view_changes.items()) if held[1].view == state.view]
    if len(ready) < state.group.quorum:
        return
    ready = ready[: state.group.quorum]
    opening = choose(state.group, [message for _, message in ready])
    epoch, sealed = state.group.epoch, []
    for height, digest in opening.blocks:
        given = state.votes.setdefault((state.view, height, Phase.PRE_PREPARE), digest)
        assert given == digest, f"a second pre-prepare at {height} in view {state.view}"
        sealed.append(state.seal(PrePrepare(epoch, state.view, height, digest)))
    frame = state.seal(NewView(epoch, state.view, [frame for frame, _ in ready], sealed))
    enter(state, state.view, opening, sealed, frame)


def on_new_view(state: State, sender: str, message: NewView, frame: bytes) -> None:
    if message.epoch > state.group.epoch:
        raise state.hold_early(sender, frame, "epoch_ahead")
    check_member(state.group, sender, message)
    if message.view < state.view or (message.view == state.view and state.active):
        return
    enter(state, message.view, check_new_view(state.group, sender, message), message.pre_prepares, frame)


def check_new_view(group: Group, sender: str, message: NewView) -> Opening:
    """Computes what a new view must propose from the view changes in it, and compares.

    Raises:
        Refused: `not_primary`, `too_few_votes`, `duplicate_signer`, `wrong_view`, `wrong_new_view`, or what opening
            a view change or vote raises.
    """
    if sender != group.primary(message.view):
        raise Refused("not_primary", f"{sender[:12]} opens view {message.view}, whose primary is another")
    if len(message.view_changes) < group.quorum:
        raise Refused("too_few_votes", f"{len(message.view_changes)} view changes, need {group.quorum}")
    signers, changes = set(), []
    for sealed in message.view_changes:
        signer, change = open_view_change(group, sealed)
        if change.view != message.view:
            raise Refused("wrong_view", f"{signer[:12]}'s view change is for view {change.view}, not {message.view}")
        check_view_change(group, change)
        signers.add(signer)
        changes.append(change)
    if len(signers) != len(changes):
        raise Refused("duplicate_signer", "a validator's view change is there twice")
    opening = choose(group, changes)
    proposed = [open_member_vote(group, sealed) for sealed in message.pre_prepares]
    expected = [(sender, PrePrepare(group.epoch, message.view, height, digest)) for height, digest in opening.blocks]
    if proposed != expected:
        raise Refused("wrong_new_view", f"{sender[:12]} does not propose what follows from the view changes")
    return opening


def enter(state: State, view: int, opening: Opening, pre_prepares: Sequence[bytes], frame: bytes) -> None:
    """Takes part in `view` from now on. `frame` opened it; it is kept for those who missed it, and for a restart.

    The record holds the primary's own pre-prepares too, and comes first: after any crash there is one new view or none.
    """
    view_change = state.own_view_change if view == state.view else b""
    state.view, state.own_view_change = view, view_change
    state.do(Persist(ViewRecord(state.group.epoch, view, view_change, frame)))
    if state.primary == state.me:
        state.do(Broadcast(frame))
    prepare_view(state, opening, pre_prepares, frame)
    normal.take_over(state)
    normal.consider_all(state)


def prepare_view(state: State, opening: Opening, pre_prepares: Sequence[bytes], frame: bytes) -> None:
    """Sets up an open view, now or after a restart."""
    state.active, state.new_view = True, frame
    state.patience = Patience(doublings=state.patience.doublings)
    state.instances.clear()
    state.settled.clear()
    state.base = opening.base
    state.required = {height: digest for height, digest in opening.blocks if height > state.head.height}
    _forget_below(state, state.view + 1)
    state.pool.give_back()
    for (height, digest), sealed in zip(opening.blocks, pre_prepares, strict=True):
        known = state.certified.get(height)
        if known is not None and known.digest != digest and _decided_in(state.group, known) < state.view:
            state.halt(f"view {state.view} proposes another block at {height} than the one that we delivered: a fork")
            return  # what was decided in this view or a later one need not have been known to those who opened it
        if state.head.height < height <= state.high:
            state.instance(height).pre_prepare = Ballot(digest, sealed)
