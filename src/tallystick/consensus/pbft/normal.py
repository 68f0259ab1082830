"""PBFT's normal case: pre-prepare, prepare, commit (Castro and Liskov 1999, section 4.2), several heights at a time.

- The primary of a view *proposes* blocks for the heights after its head, at most `window` of them and none beyond the
  next checkpoint, when transactions wait or the application's deadline has come.
- A backup *accepts* the first proposal of the primary for a height if every honest validator would let its
  transactions pass, and says so with a prepare. Where the new view says what must be at a height, that and nothing
  else is accepted, unexamined: a quorum stood behind it before.
- A block is *prepared* here with the primary's pre-prepare and matching prepares, a quorum together; we then commit.
- It is *delivered* with a quorum of matching commits, after all before it. They are its certificate, and as it
  convinces a stranger who saw no prepare, it convinces us: unlike the paper we do not ask that we prepared ourselves.

Messages between the watermarks are held, one per sender, height and phase.
"""

from typing import Final

from tallystick.canon.sealed import HEADER_BYTES
from tallystick.canon.votes import MAX_VOTE_BYTES, Commit, Prepare, PrePrepare, open_vote
from tallystick.consensus.pbft.certificate import make_certificate
from tallystick.consensus.pbft.io import (
    BodyRead,
    Broadcast,
    Persist,
    Phase,
    ReadBody,
    Send,
    Verified,
    Verify,
    VoteRecord,
)
from tallystick.consensus.pbft.limits import MAX_CLOCK_SKEW_MS, PIPELINE_BYTES, PIPELINE_TRANSACTIONS
from tallystick.consensus.pbft.messages import (
    Block,
    Body,
    Claim,
    FetchBody,
    Proposal,
    check_member,
    decode_block,
    encode_block,
    null_block,
    seal_message,
)
from tallystick.consensus.pbft.state import Accepted, Ballot, Instance, State, deliver
from tallystick.errors import Refused

_KINDS: Final[dict[Phase, type[PrePrepare | Prepare | Commit]]] = {
    Phase.PRE_PREPARE: PrePrepare,
    Phase.PREPARE: Prepare,
    Phase.COMMIT: Commit,
}


# ---- proposing


def propose_if_due(state: State) -> None:
    """As primary, starts agreement on as many blocks as there is reason and room for."""
    while state.active and state.primary == state.me and state.votes_here and _propose_one(state):
        pass


def _propose_one(state: State) -> bool:
    taken = (height for height, instance in state.instances.items() if instance.accepted is not None)
    height = max([state.head.height, *taken, *state.required]) + 1
    last = min(state.head.height + state.group.parameters.window, state.horizon, state.high)
    if not state.base < height <= last:
        return False
    transactions = state.pool.front()
    idle = height == state.executed + 1
    if not idle and len(transactions) < PIPELINE_TRANSACTIONS and sum(map(len, transactions)) < PIPELINE_BYTES:
        return False
    time_ms = max(state.head.time_ms, state.clock.now_ms)
    if not transactions and not empty_block_due(state, time_ms):
        return False
    block = Block(height, time_ms, state.me, transactions)
    encoded = encode_block(block)
    _stand_behind(state, state.instance(height), Accepted(state.group.block_digest(encoded), encoded, block))
    advance(state, height)
    return True


def empty_block_due(state: State, time_ms: int) -> bool:
    """An empty block lets time pass for the application, or brings a checkpoint closer that others wait for."""
    return state.change_due or (state.deadline_ms is not None and state.deadline_ms <= time_ms)


# ---- receiving


def on_proposal(state: State, sender: str, message: Proposal, frame: bytes) -> None:
    author, vote = open_vote(state.group.chain, message.pre_prepare)
    if author != sender or not isinstance(vote, PrePrepare):
        raise Refused("not_a_pre_prepare", f"{sender[:12]}'s proposal carries something else than its own pre-prepare")
    instance = _instance_for(state, sender, vote, frame)
    if instance is None:
        return
    if sender != state.primary:
        raise Refused("not_primary", f"{sender[:12]} proposed in view {vote.view}, whose primary is another")
    if state.group.block_digest(message.block) != vote.digest:
        raise Refused("wrong_digest", f"the block of {sender[:12]}'s proposal is not the one it signed")
    held = instance.pre_prepare
    if held is not None and held.digest != vote.digest:
        raise state.accuse(sender, ("pre_prepare", vote.view, vote.height), held.sealed, message.pre_prepare)
    if instance.accepted is not None and instance.accepted.digest != vote.digest:
        raise Refused("conflicting_vote", f"{sender[:12]} proposes another block than the one that we accepted before")
    instance.pre_prepare, instance.encoded = Ballot(vote.digest, message.pre_prepare), message.block
    consider(state, vote.height)


def on_shown(state: State, sender: str, vote: PrePrepare, sealed: bytes) -> None:
    """Somebody shows us what the primary proposed to it: evidence, if it is not what the primary proposed to us."""
    instance = state.instances.get(vote.height)
    held = None if instance is None else instance.pre_prepare
    ours = vote.epoch == state.group.epoch and vote.view == state.view and sender == state.primary
    if ours and held is not None and held.digest != vote.digest:
        raise state.accuse(sender, ("pre_prepare", vote.view, vote.height), held.sealed, sealed)


def on_prepare(state: State, sender: str, vote: Prepare, sealed: bytes) -> None:
    instance = _instance_for(state, sender, vote, sealed)
    if instance is None:
        return
    if sender == state.primary:
        raise Refused("primary_prepared", f"{sender[:12]} is primary; its pre-prepare is its only vote in that phase")
    _count_unread(state, instance, sender)
    held = instance.pre_prepare
    if held is not None and held.digest != vote.digest and sender not in instance.prepares:
        state.do(Send(sender, held.sealed))  # one of us two was shown another proposal
    _count(state, instance.prepares, sender, vote, sealed)
    advance(state, vote.height)


def may_pass_over(state: State, peer: str, frame: bytes) -> bool:
    """Whether `frame` can stay unread, since it says what a quorum has said already. A third of all votes are such,
    and checking their signatures would be wasted. Of each validator one such prepare is kept, in case it contradicts
    itself; what else it says about that height is read."""
    height = state.settled.get(frame[HEADER_BYTES:]) if len(frame) <= MAX_VOTE_BYTES else None
    if height is None or peer not in state.group.validators:
        return False
    instance = state.instances.get(height)
    if instance is None:
        return True  # decided
    return peer not in instance.prepares and instance.unread.setdefault(peer, frame) == frame


def _count_unread(state: State, instance: Instance, sender: str) -> None:
    """The prepare of `sender` that was passed over counts after all: it says something else now."""
    frame = instance.unread.pop(sender, b"")
    try:
        author, vote = open_vote(state.group.chain, frame)
    except Refused:
        return  # there is none, or its sender spoiled it
    if author == sender and isinstance(vote, Prepare):
        _count(state, instance.prepares, sender, vote, frame)


def on_commit(state: State, sender: str, vote: Commit, sealed: bytes) -> None:
    instance = _instance_for(state, sender, vote, sealed)
    if instance is None:
        return
    _count(state, instance.commits, sender, vote, sealed)
    advance(state, vote.height)


def on_verified(state: State, event: Verified) -> None:
    for instance in list(state.instances.values()):
        held = instance.pre_prepare
        if held is None or held.digest != event.digest or instance.accepted is not None:
            continue
        if event.refused:
            instance.refused = True
            raise Refused(event.refused, f"the proposal at height {instance.height} holds a transaction to refuse")
        instance.verified = True
        consider(state, instance.height)


def _instance_for(state: State, sender: str, vote: PrePrepare | Prepare | Commit, frame: bytes) -> Instance | None:
    """The instance that a vote belongs to; None if that height is decided, which is no offense: votes beyond the
    quorum always come late."""
    if vote.epoch > state.group.epoch:
        raise state.hold_early(sender, frame, "epoch_ahead")
    check_member(state.group, sender, vote)
    if vote.height <= state.head.height:
        return None
    if vote.view > state.view or (vote.view == state.view and not state.active):
        raise state.hold_early(sender, frame, "view_ahead")
    if vote.view < state.view:
        raise Refused("old_view", f"{sender[:12]} votes in view {vote.view}, ours is {state.view}")
    if vote.height > state.high:
        raise Refused("above_watermark", f"{sender[:12]} votes at height {vote.height}, we hold up to {state.high}")
    return state.instance(vote.height)


def _count(state: State, ballots: dict[str, Ballot], sender: str, vote: Prepare | Commit, sealed: bytes) -> None:
    first = ballots.setdefault(sender, Ballot(vote.digest, sealed))
    if first.digest != vote.digest:
        raise state.accuse(sender, (type(vote).__name__, vote.view, vote.height), first.sealed, sealed)


# ---- deciding


def consider_all(state: State) -> None:
    """After a block was executed, or a view was entered: proposals that had to wait may be acceptable now."""
    for height in sorted(state.instances):
        if height in state.instances:
            consider(state, height)


def consider(state: State, height: int) -> None:
    """Accepts the proposal held for `height` if it fits, and goes on from there."""
    instance = state.instances[height]
    if instance.accepted is None and instance.pre_prepare is not None and not instance.refused and state.active:
        _accept(state, instance, instance.pre_prepare.digest)
    advance(state, height)


def advance(state: State, height: int) -> None:
    """Takes agreement at `height` as far as the votes we hold allow, and delivers what is next in order."""
    instance = state.instances.get(height)
    if instance is None or instance.accepted is None:
        return
    _commit_if_prepared(state, instance, instance.accepted.digest)
    deliver_next(state)


def deliver_next(state: State) -> None:
    """Delivers the block after the head if a quorum committed it. The one after that follows when it is executed."""
    instance = state.instances.get(state.head.height + 1)
    if instance is None or instance.accepted is None or state.executed != state.head.height or state.halted:
        return
    if len(instance.commits) < state.group.quorum:
        return
    accepted = instance.accepted
    commits = [ballot.sealed for ballot in instance.commits.values() if ballot.digest == accepted.digest]
    if len(commits) >= state.group.quorum:
        certificate = make_certificate(commits[: state.group.quorum])
        _settle(state, commits[0], accepted.block.height)
        deliver(state, accepted.block, accepted.encoded, accepted.digest, certificate)


def _accept(state: State, instance: Instance, digest: bytes) -> None:
    """Raises `Refused`; the proposal is then refused for good. Returns without effect if it is too early to say."""
    required = state.required.get(instance.height)
    if not instance.encoded or not state.base < instance.height <= state.horizon:
        return  # the block is missing, or decided before this view, or perhaps of an epoch that we do not know yet
    if required is None:
        if not state.clock.now_ms or instance.height > state.head.height + state.group.parameters.window:
            return  # we have just started and the first tick tells the time; or the primary is ahead of us
        block = decode_block(instance.encoded)
        instance.refused = True
        _check(state, instance.height, block)
        instance.refused = False
        if not block.transactions and not _empty_is_due(state, block):
            return
        if not instance.verified and not _all_known(state, digest, block):
            return
    elif required != digest:
        instance.refused = True
        raise Refused("not_the_required", f"another block at {instance.height} than the new view takes over")
    _stand_behind(state, instance, Accepted(digest, instance.encoded, decode_block(instance.encoded)))


def _check(state: State, height: int, block: Block) -> None:
    if block.height != height:
        raise Refused("wrong_height", f"block of height {block.height} proposed at {height}")
    if block.proposer != state.primary:
        raise Refused("wrong_proposer", f"block {block.height} says that {block.proposer[:12] or 'nobody'} made it")
    if block.time_ms > max(state.head.time_ms, state.clock.now_ms + MAX_CLOCK_SKEW_MS):
        raise Refused("time_ahead", f"block {height} is {block.time_ms - state.clock.now_ms} ms ahead of our clock")


def _empty_is_due(state: State, block: Block) -> bool:
    """Whether an empty block is wanted can be said only of the next height, when all before it is executed."""
    if block.height != state.executed + 1:
        return False
    if not empty_block_due(state, max(state.head.time_ms, block.time_ms)):
        raise Refused("empty_block", f"block {block.height} is empty and the application wants none yet")
    return True


def _all_known(state: State, digest: bytes, block: Block) -> bool:
    """Whether all transactions have been checked already; if not, asks the application."""
    unknown = tuple(t for t in block.transactions if not state.pool.holds(t))
    if unknown:
        state.do(Verify(digest, unknown))
    return not unknown


def _commit_if_prepared(state: State, instance: Instance, digest: bytes) -> None:
    if Phase.COMMIT in instance.said or instance.pre_prepare is None or not (state.active and state.votes_here):
        return
    if instance.pre_prepare.digest != digest or 1 + len(instance.prepares) < state.group.quorum:
        return
    prepares = [ballot.sealed for ballot in instance.prepares.values() if ballot.digest == digest]
    if 1 + len(prepares) < state.group.quorum:
        return
    votes = [instance.pre_prepare.sealed, *prepares[: state.group.quorum - 1]]
    state.prepared[instance.height] = Claim(instance.height, state.view, digest, votes)
    _settle(state, votes[-1], instance.height)
    _cast(state, instance, Phase.COMMIT, digest, proof=make_certificate(votes))


def _settle(state: State, sealed: bytes, height: int) -> None:
    """Needs no more votes like this one."""
    state.settled[sealed[HEADER_BYTES:]] = height


# ---- voting


def _stand_behind(state: State, instance: Instance, accepted: Accepted) -> None:
    instance.accepted = accepted
    state.pool.propose(accepted.block.transactions)
    if not state.votes_here:
        return
    state.keep_body(accepted.digest, instance.height, accepted.encoded)
    phase = Phase.PRE_PREPARE if state.primary == state.me else Phase.PREPARE
    _cast(state, instance, phase, accepted.digest, accepted.encoded)


def _cast(
    state: State, instance: Instance, phase: Phase, digest: bytes, encoded: bytes = b"", proof: bytes = b""
) -> None:
    """Gives a vote: the only place where one is signed for the first time. **Persist, then send.**

    After a restart within the view, the vote may have been given before; then it is the same one, said again.
    """
    slot = (state.view, instance.height, phase)
    given = state.votes.setdefault(slot, digest)
    assert given == digest, f"a second vote for {slot}"
    state.do(Persist(VoteRecord(state.group.epoch, state.view, instance.height, phase, digest, encoded, proof)))
    state.do(Broadcast(say(state, instance, phase, digest, encoded)))
    state.clock.progress_ms = state.clock.elapsed_ms


def say(state: State, instance: Instance, phase: Phase, digest: bytes, encoded: bytes = b"") -> bytes:
    """Signs our vote, counts it, and returns the frame that carries it."""
    vote = _KINDS[phase](state.group.epoch, state.view, instance.height, digest)
    sealed = seal_message(state.key, state.group, vote)
    ballot, frame = Ballot(digest, sealed), sealed
    if phase is Phase.PRE_PREPARE:
        instance.pre_prepare = ballot
        frame = state.seal(Proposal(state.group.epoch, sealed, encoded))
    else:
        (instance.prepares if phase is Phase.PREPARE else instance.commits)[state.me] = ballot
    instance.said[phase] = frame
    return frame


def ours_again(state: State) -> list[bytes]:
    """Our messages for the heights being decided, in the order in which they were first sent."""
    return [frame for height in sorted(state.instances) for frame in state.instances[height].said.values()]


# ---- blocks that a new view takes over


def take_over(state: State) -> None:
    """On entering a view: stands behind what it requires, as far as we hold the blocks; `want_bodies` asks for more."""
    for height, digest in sorted(state.required.items()):
        if state.head.height < height <= state.high:
            _find_body(state, state.instance(height), digest)


def _find_body(state: State, instance: Instance, digest: bytes) -> None:
    null = null_block(instance.height)
    if digest == state.group.block_digest(null):
        instance.encoded = null
    elif digest in state.bodies:
        instance.encoded = state.bodies[digest][1]
    else:
        state.do(ReadBody("", instance.height, digest))
    if instance.encoded:
        consider(state, instance.height)


def want_bodies(state: State) -> None:
    """Asks everybody for the required blocks that we still miss, but for those that an honest one has delivered: it
    votes on them no more, and `catchup` gets them with their certificates."""
    delivered = state.reached_by_others
    for height, digest in sorted(state.required.items()):
        instance = state.instances.get(height)
        if height > delivered and instance is not None and not instance.encoded:
            state.broadcast(FetchBody(state.group.epoch, height, digest))


def on_body_read(state: State, event: BodyRead) -> None:
    if event.block:
        _supply(state, event.digest, event.block)


def on_body(state: State, sender: str, message: Body) -> None:
    """Taken for its digest, whoever sends it."""
    check_member(state.group, sender, message)
    if not _supply(state, state.group.block_digest(message.block), message.block):
        raise Refused("unwanted_body", f"{sender[:12]} sent a block that we did not ask for")


def _supply(state: State, digest: bytes, block: bytes) -> bool:
    """Whether a required block was missing, and here it is."""
    for height, wanted in list(state.required.items()):
        instance = state.instances.get(height)
        if wanted == digest and instance is not None and not instance.encoded:
            instance.encoded = block
            state.keep_body(digest, height, block)
            consider(state, height)
            return True
    return False
