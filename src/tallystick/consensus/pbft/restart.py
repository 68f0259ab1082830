"""Taking up again what a node stood for before it stopped: same epoch, same view, same votes, nothing new.

Only what is on this node's own disk enters; the shell has checked that it is whole.
"""

from tallystick.canon.identity import Key
from tallystick.consensus.pbft import checkpoints, normal, transfer, views
from tallystick.consensus.pbft.certificate import height_of, votes_in
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import Durable, EpochRecord, Head, Phase, VoteRecord
from tallystick.consensus.pbft.messages import Claim, NewView, ViewChange, decode_block, open_message
from tallystick.consensus.pbft.state import Accepted, Stable, State
from tallystick.consensus.pbft.trust import ChainOfTrust
from tallystick.errors import Refused


def restore(genesis: Group, key: Key, durable: Durable, timeout_ms: int) -> State:
    """Raises `Refused`: a stored message does not open."""
    head = durable.head or Head(0, genesis.genesis, 0)
    stable = Stable(height_of(durable.checkpoint), durable.checkpoint) if durable.checkpoint else Stable(0, b"")
    history = {height_of(proof): proof for proof in durable.history}
    shown = (history | {stable.height: stable.proof}).values() if stable.proof else ()
    group = _group(genesis, durable.epoch) or genesis
    # The first epoch was never recorded as entered; it is what epoch 1 follows.
    previous = _group(genesis, durable.previous) or (genesis if group.epoch == 1 else None)
    state = State(genesis, group, key, head, head.height, timeout_ms, ChainOfTrust(genesis, shown).group, previous)
    state.deadline_ms, state.change_due, state.mute = durable.deadline_ms, durable.change_due, durable.mute
    state.stable, state.history = stable, history
    state.base = group.start
    state.certified = {known.height: known for known in durable.certified if known.height > state.low}
    _take_up_view(state, durable)
    for record in durable.votes:
        if record.epoch == state.group.epoch and record.height > state.low:
            _take_up_vote(state, record)
    checkpoints.collect_garbage(state)
    normal.take_over(state)
    checkpoints.take_up(state, durable.contents, durable.outcome)
    if durable.transfer is not None:
        transfer.resume(state, durable.transfer)
    return state


def _group(genesis: Group, epoch: EpochRecord | None) -> Group | None:
    if epoch is None:
        return None
    return Group(genesis.chain, epoch.validators, epoch.epoch, epoch.start, epoch.since, genesis.parameters)


def _take_up_view(state: State, durable: Durable) -> None:
    record = durable.view
    if record is None or record.epoch != state.group.epoch:
        return
    state.view, state.own_view_change = record.view, record.view_change
    if record.new_view:
        sender, opened = open_message(state.group, record.new_view)
        assert isinstance(opened, NewView), "the stored new view is none"
        opening = views.check_new_view(state.group, sender, opened)
        views.prepare_view(state, opening, opened.pre_prepares, record.new_view)
        return
    _, left = open_message(state.group, record.view_change)
    if not isinstance(left, ViewChange):
        raise Refused("malformed", "the stored view change is none")
    state.active = False
    state.view_changes[state.me] = (record.view_change, left)


def _take_up_vote(state: State, record: VoteRecord) -> None:
    if record.proof:
        claim = Claim(record.height, record.view, record.digest, votes_in(record.proof))
        known = state.prepared.get(record.height)
        if record.height > state.head.height and (known is None or known.view < record.view):
            state.prepared[record.height] = claim
    if record.block:
        state.keep_body(record.digest, record.height, record.block)
    if record.view != state.view:
        return
    state.votes[record.view, record.height, record.phase] = record.digest
    if record.height <= state.head.height or not state.active:
        return
    instance = state.instance(record.height)
    if record.block:
        instance.encoded = record.block
        instance.accepted = Accepted(record.digest, record.block, decode_block(record.block))
    if record.block or record.phase is Phase.COMMIT:
        normal.say(state, instance, record.phase, record.digest, record.block)
