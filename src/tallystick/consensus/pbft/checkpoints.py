"""Checkpoints: where the log is cut, watermarks move, and epochs begin (Castro and Liskov 1999, section 4.3).

Every `interval` heights each validator says what executing up to there gave. A quorum of equal votes makes the
checkpoint stable: everything below it is settled for good, and its proof lets others start from there.

The epoch ends at a checkpoint where the application names other validators, or when it is long enough. Whoever has
executed that checkpoint is in the next epoch, and its low watermark is the checkpoint, proven or not: nobody can be in
an epoch without having executed to its start. Its votes still come from the validators of the epoch before.
"""

from collections.abc import Iterable

from tallystick.canon.encoding import to_bytes
from tallystick.canon.votes import Checkpoint
from tallystick.consensus.pbft.certificate import decode_content, encode_checkpoint, group_after, verify_checkpoint
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import (
    Broadcast,
    CheckpointRecord,
    ContentRecord,
    EpochRecord,
    Outcome,
    Persist,
    Regroup,
)
from tallystick.consensus.pbft.messages import CheckpointContent, check_member
from tallystick.consensus.pbft.state import Ballot, Patience, Stable, State
from tallystick.errors import Refused


def on_outcome(state: State, outcome: Outcome) -> None:
    """We executed to a checkpoint: says so, and enters the next epoch if this one ends here."""
    height = state.head.height
    content = CheckpointContent(
        state.group.epoch,
        state.group.start,
        state.group.since,
        height,
        state.head.digest,
        state.head.time_ms,
        outcome.root,
        list(outcome.validators),
    )
    state.contents[height] = to_bytes(content)
    state.do(Persist(ContentRecord(height, state.contents[height])))
    _reach(state, content)


def _reach(state: State, content: CheckpointContent) -> None:
    signers = _signers(state, content.height)
    if signers.epoch == content.epoch and state.votes_in(signers):
        _vote(state, signers, content.height)
    _settle(state)
    _enter_if_ended(state, content)


def _enter_if_ended(state: State, content: CheckpointContent) -> None:
    following = group_after(state.group, content)
    if content.epoch == state.group.epoch != following.epoch:
        enter_epoch(state, state.group, following)


def take_up(state: State, contents: Iterable[ContentRecord], outcome: Outcome | None) -> None:
    """After a restart: says again what we got, and does now what the stop may have kept us from at the head."""
    state.contents = {record.height: record.content for record in contents if record.height > state.stable.height}
    for content in list(state.contents.values()):
        _reach(state, decode_content(content))
    if outcome is not None and state.head.height > state.low and state.head.height not in state.contents:
        on_outcome(state, outcome)
    if state.group.start < state.stable.height == state.head.height:
        # The stop may have parted the record of a stable checkpoint from that of the epoch which begins there.
        _enter_if_ended(state, verify_checkpoint(state.group, state.stable.proof))


def _vote(state: State, group: Group, height: int) -> None:
    digest = group.checkpoint_digest(state.contents[height])
    sealed = state.seal(Checkpoint(group.epoch, height, digest))
    state.checkpoint_votes.setdefault(height, {})[state.me] = Ballot(digest, sealed)
    state.do(Broadcast(sealed))


def on_checkpoint(state: State, sender: str, vote: Checkpoint, sealed: bytes) -> None:
    if vote.height <= state.stable.height:
        return
    if vote.epoch > state.group.epoch:
        raise state.hold_early(sender, sealed, "epoch_ahead")
    oldest = state.group.start if state.previous is None else state.previous.start
    if not state.group.is_checkpoint(vote.height) or not oldest < vote.height <= state.high:
        raise Refused("not_a_checkpoint", f"{sender[:12]} votes for a checkpoint at {vote.height}; we hold none there")
    check_member(_signers(state, vote.height), sender, vote)
    votes = state.checkpoint_votes.setdefault(vote.height, {})
    first = votes.setdefault(sender, Ballot(vote.digest, sealed))
    if first.digest != vote.digest:
        raise state.accuse(sender, ("checkpoint", vote.epoch, vote.height), first.sealed, sealed)
    _settle(state)


def _signers(state: State, height: int) -> Group:
    """Who votes for the checkpoint at `height`: up to the one that opened our epoch, those of the epoch before."""
    if height <= state.group.start and state.previous is not None:
        return state.previous
    return state.group


def _settle(state: State) -> None:
    """Makes checkpoints stable that we executed to and a quorum voted for, in order.

    None is, before that one at which its voters took office: newcomers will ask for the whole chain. One of an epoch
    before the last two is left to the proof that others have.
    """
    for height in sorted(state.contents):
        group, content = _signers(state, height), state.contents[height]
        votes = list(state.checkpoint_votes.get(height, {}).values())
        if height <= state.stable.height or len(votes) < group.quorum or group.since != state.trusted.since:
            continue
        if decode_content(content).epoch != group.epoch:
            continue
        name = group.checkpoint_digest(content)
        for digest in sorted({ballot.digest for ballot in votes}):
            matching = [ballot.sealed for ballot in votes if ballot.digest == digest]
            if len(matching) < group.quorum:
                continue
            if digest != name:
                state.halt(f"the state after block {height} is not what a quorum of validators computed")
                return
            make_stable(state, encode_checkpoint(content, matching[: group.quorum]), group)


def make_stable(state: State, proof: bytes, signers: Group) -> None:
    """Takes a checkpoint that `signers` proved and that we have executed to (or restored) as the last stable one."""
    content = verify_checkpoint(signers, proof)
    height = content.height
    ends = tuple(content.validators) != signers.validators
    state.stable, state.trusted = Stable(height, proof), group_after(signers, content)
    if ends:
        state.history[height] = proof
    state.do(Persist(CheckpointRecord(signers.epoch, height, proof, ends, wanted_snapshots(state))))
    collect_garbage(state)


def wanted_snapshots(state: State) -> tuple[int, ...]:
    """Heights of the snapshots that peers fetch from us: one each, so that one that takes longer to fetch than the
    chain to its next checkpoints arrives all the same."""
    readers = (*state.peers.values(), *state.guests.values())
    return tuple(sorted({peer.reads for peer in readers if peer.reads_until_ms > state.clock.elapsed_ms}))


def collect_garbage(state: State) -> None:
    """Forgets everything at or below the low watermark."""
    low = state.low
    state.certified = {h: entry for h, entry in state.certified.items() if h > low}
    state.votes = {slot: digest for slot, digest in state.votes.items() if slot[1] > low}
    state.settled = {payload: height for payload, height in state.settled.items() if height > low}
    state.contents = {h: content for h, content in state.contents.items() if h > state.stable.height}
    state.checkpoint_votes = {h: votes for h, votes in state.checkpoint_votes.items() if h > state.stable.height}
    state.accused.clear()


def votes_again(state: State) -> list[bytes]:
    """Our votes for checkpoints that are not stable here."""
    heights = sorted(state.checkpoint_votes)
    return [state.checkpoint_votes[h][state.me].sealed for h in heights if state.me in state.checkpoint_votes[h]]


def enter_epoch(state: State, previous: Group | None, group: Group) -> None:
    """Starts over under `group`, in its view 0: nothing of an older epoch can be decided any more.

    Args:
        previous: the group whose epoch ended at the new one's start, if its votes for that checkpoint still count.
    """
    assert group.epoch > state.group.epoch and group.start <= state.head.height, f"{state.group} -> {group}"
    state.previous, state.group = previous, group
    state.do(Persist(EpochRecord(group.epoch, group.start, group.since, group.validators)))
    state.do(Regroup(group))
    state.view, state.active, state.new_view, state.own_view_change = 0, True, b"", b""
    state.base, state.change_due = group.start, False
    agreement = state.instances, state.votes, state.prepared, state.bodies, state.required, state.settled
    for held in (*agreement, state.view_changes):
        held.clear()
    # Votes for later heights came in the name of an epoch that does not reach them.
    state.checkpoint_votes = {h: votes for h, votes in state.checkpoint_votes.items() if h <= group.start}
    state.inbound.clear()
    state.patience = Patience()
    state.pool.give_back()
    collect_garbage(state)
    known = state.guests | state.peers  # a guest may have become a member
    state.peers = {identity: peer for identity, peer in known.items() if state.is_member(identity)}
    state.asking.regroup(state.peers)
    for kept in (state.turns, state.overdue):
        for identity in kept.keys() - state.peers.keys():
            del kept[identity]
    state.welcome(state.guests)
