"""PBFT's normal case: pre-prepare, prepare, commit (Castro and Liskov 1999, section 4.2), one block in flight.

- The primary of a view *proposes* the block after its head, when transactions wait or the application's deadline has
  come, and it has executed everything before.
- A backup *accepts* the first proposal of the primary that fits its head, and says so with a prepare.
- A block is *prepared* here with the primary's pre-prepare and matching prepares of a quorum less one; we then commit.
- It is *delivered* with a quorum of matching commits. They are its certificate, and as it convinces a stranger who
  saw no prepare, it convinces us: unlike the paper we do not ask that we prepared it ourselves.

Messages for up to `HEIGHT_MARGIN` heights are held, one per sender and phase, since channels overtake one another.
"""

from typing import NamedTuple

from tallystick.consensus.pbft.certificate import make_certificate
from tallystick.consensus.pbft.io import Broadcast, Persist, Phase, VoteRecord
from tallystick.consensus.pbft.limits import HEIGHT_MARGIN, MAX_CLOCK_SKEW_MS
from tallystick.consensus.pbft.messages import (
    Block,
    Commit,
    Prepare,
    PrePrepare,
    Proposal,
    Vote,
    decode_block,
    encode_block,
    open_vote,
    seal_message,
)
from tallystick.consensus.pbft.state import Accepted, Ballot, Instance, State, deliver
from tallystick.errors import Refused


class _Sealed(NamedTuple):
    vote: bytes
    frame: bytes
    """What is broadcast: the vote itself, or the proposal around a pre-prepare."""


# ---- proposing


def propose_if_due(state: State) -> None:
    """As primary, starts agreement on the next block if there is reason to and nothing is in flight."""
    if state.primary != state.me or state.executed != state.head.height:
        return
    instance = state.instance(state.head.height + 1)
    if instance.accepted is not None:
        return
    time_ms = max(state.head.time_ms, state.now_ms)
    transactions = state.pool.front()
    if not transactions and not _deadline_passed(state, time_ms):
        return
    block = Block(instance.height, state.head.digest, time_ms, state.me, transactions)
    encoded = encode_block(block)
    _stand_behind(state, instance, Accepted(state.group.block_digest(encoded), encoded, block), Phase.PRE_PREPARE)
    advance(state)


def _deadline_passed(state: State, time_ms: int) -> bool:
    return state.deadline_ms is not None and state.deadline_ms <= time_ms


# ---- receiving


def on_proposal(state: State, sender: str, message: Proposal) -> None:
    author, vote = open_vote(state.group, message.pre_prepare)
    if author != sender or not isinstance(vote, PrePrepare):
        raise Refused("not_a_pre_prepare", f"{sender[:12]}'s proposal carries something else than its own pre-prepare")
    instance = _instance_for(state, sender, vote)
    if instance is None:
        return
    if sender != state.primary:
        raise Refused("not_primary", f"{sender[:12]} proposed in view {vote.view}, whose primary is another")
    if state.group.block_digest(message.block) != vote.digest:
        raise Refused("wrong_digest", f"the block of {sender[:12]}'s proposal is not the one it signed")
    if instance.accepted is not None and instance.accepted.digest != vote.digest and instance.pre_prepare is None:
        raise Refused("conflicting_vote", f"{sender[:12]} proposes another block than the one that we accepted before")
    if instance.pre_prepare is None:
        instance.pre_prepare, instance.encoded = Ballot(vote.digest, message.pre_prepare), message.block
    elif instance.pre_prepare.digest != vote.digest:
        raise state.accuse(sender, instance.pre_prepare.sealed, message.pre_prepare)
    consider(state)


def on_prepare(state: State, sender: str, vote: Prepare, sealed: bytes) -> None:
    instance = _instance_for(state, sender, vote)
    if instance is None:
        return
    if sender == state.primary:
        raise Refused("primary_prepared", f"{sender[:12]} is primary; its pre-prepare is its only vote in that phase")
    _count(state, instance.prepares, sender, Ballot(vote.digest, sealed))
    advance(state)


def on_commit(state: State, sender: str, vote: Commit, sealed: bytes) -> None:
    instance = _instance_for(state, sender, vote)
    if instance is None:
        return
    _count(state, instance.commits, sender, Ballot(vote.digest, sealed))
    advance(state)


def _instance_for(state: State, sender: str, vote: Vote) -> Instance | None:
    """The instance that a vote belongs to; None if that height is decided, which is no offense: votes beyond the
    quorum always come late."""
    if vote.height <= state.head.height:
        return None
    # A vote for a height comes from one who has delivered the height before it.
    state.peers[sender] = max(state.peers.get(sender, 0), vote.height - 1)
    if vote.view != state.view:
        raise Refused("wrong_view", f"{sender[:12]} votes in view {vote.view}, ours is {state.view}")
    if vote.height > state.head.height + HEIGHT_MARGIN:
        raise Refused("too_far_ahead", f"{sender[:12]} votes at height {vote.height}, we are at {state.head.height}")
    return state.instance(vote.height)


def _count(state: State, ballots: dict[str, Ballot], sender: str, ballot: Ballot) -> None:
    first = ballots.setdefault(sender, ballot)
    if first.digest != ballot.digest:
        raise state.accuse(sender, first.sealed, ballot.sealed)


# ---- deciding


def consider(state: State) -> None:
    """Accepts the proposal held for the next height if it fits, and goes on from there.

    Tried when a proposal comes, the first time or again, and when the block before it has been executed.
    """
    instance = state.instances.get(state.head.height + 1)
    if instance is not None and instance.accepted is None and instance.pre_prepare is not None:
        _accept(state, instance, instance.pre_prepare.digest)
    advance(state)


def advance(state: State) -> None:
    """Takes agreement on the accepted proposal as far as the votes we hold allow."""
    instance = state.instances.get(state.head.height + 1)
    if instance is None or instance.accepted is None:
        return
    accepted = instance.accepted
    if Phase.COMMIT not in instance.said and _prepared(state, instance, accepted.digest):
        _cast(state, instance, Phase.COMMIT, accepted.digest)
    commits = [ballot.sealed for ballot in instance.commits.values() if ballot.digest == accepted.digest]
    if len(commits) >= state.group.quorum:
        certificate = make_certificate(commits[: state.group.quorum])
        deliver(state, accepted.block, accepted.encoded, accepted.digest, certificate)


def _accept(state: State, instance: Instance, digest: bytes) -> None:
    block = decode_block(instance.encoded)
    _check_fits(state, instance, block)
    _check_time(state, block)
    if not block.transactions and not _deadline_passed(state, block.time_ms):
        raise Refused("empty_block", f"block {block.height} is empty and the application wants none yet")
    _stand_behind(state, instance, Accepted(digest, instance.encoded, block), Phase.PREPARE)


def _check_fits(state: State, instance: Instance, block: Block) -> None:
    if block.height != instance.height:
        raise Refused("wrong_height", f"block of height {block.height} proposed at {instance.height}")
    if block.parent != state.head.digest:
        raise Refused("wrong_parent", f"block {block.height} does not extend the block we delivered before it")
    if block.proposer != state.primary:
        raise Refused("wrong_proposer", f"block {block.height} says that {block.proposer[:12]} made it")


def _check_time(state: State, block: Block) -> None:
    if block.time_ms < state.head.time_ms:
        early = state.head.time_ms - block.time_ms
        raise Refused("time_backward", f"block {block.height} is {early} ms before its parent")
    if block.time_ms > max(state.head.time_ms, state.now_ms + MAX_CLOCK_SKEW_MS):
        raise Refused("time_ahead", f"block {block.height} is {block.time_ms - state.now_ms} ms ahead of our clock")


def _prepared(state: State, instance: Instance, digest: bytes) -> bool:
    matching = sum(ballot.digest == digest for ballot in instance.prepares.values())
    return 1 + matching >= state.group.quorum


# ---- voting


def _stand_behind(state: State, instance: Instance, accepted: Accepted, phase: Phase) -> None:
    instance.accepted = accepted
    _cast(state, instance, phase, accepted.digest, accepted.encoded)


def _cast(state: State, instance: Instance, phase: Phase, digest: bytes, encoded: bytes = b"") -> None:
    """Gives a vote: the only place where one is signed for the first time. **Persist, then send.**"""
    slot = (instance.view, instance.height, phase)
    assert slot not in state.votes, f"a second vote for {slot}"
    state.votes[slot] = digest
    state.do(Persist(VoteRecord(state.group.epoch, instance.view, instance.height, phase, digest, encoded)))
    state.do(Broadcast(_say(state, instance, phase, digest, encoded)))
    state.progress_ms = state.elapsed_ms


def _say(state: State, instance: Instance, phase: Phase, digest: bytes, encoded: bytes) -> bytes:
    """Signs our vote, counts it, and returns the frame that carries it."""
    sealed = _seal(state, instance, phase, digest, encoded)
    ballot = Ballot(digest, sealed.vote)
    if phase is Phase.PRE_PREPARE:
        instance.pre_prepare = ballot
    else:
        (instance.prepares if phase is Phase.PREPARE else instance.commits)[state.me] = ballot
    instance.said[phase] = sealed.frame
    return sealed.frame


def _seal(state: State, instance: Instance, phase: Phase, digest: bytes, encoded: bytes) -> _Sealed:
    kind = {Phase.PRE_PREPARE: PrePrepare, Phase.PREPARE: Prepare, Phase.COMMIT: Commit}[phase]
    vote = seal_message(state.key, state.group, kind(state.group.epoch, instance.view, instance.height, digest))
    if phase is not Phase.PRE_PREPARE:
        return _Sealed(vote, vote)
    return _Sealed(vote, seal_message(state.key, state.group, Proposal(state.group.epoch, vote, encoded)))


def restore(state: State, records: tuple[VoteRecord, ...]) -> None:
    """Takes up again what we stood for before a restart: same votes, same block, nothing new."""
    for record in records:
        if record.height <= state.head.height or record.epoch != state.group.epoch:
            continue
        assert record.height == state.head.height + 1, f"a vote at {record.height} with head {state.head.height}"
        instance = state.instance(record.height)
        state.votes[record.view, record.height, record.phase] = record.digest
        if record.block:
            instance.accepted = Accepted(record.digest, record.block, decode_block(record.block))
        _say(state, instance, record.phase, record.digest, record.block)


def ours_again(state: State) -> list[bytes]:
    """Our messages for the height being decided, in the order in which they were first sent."""
    instance = state.instances.get(state.head.height + 1)
    return list(instance.said.values()) if instance is not None else []
