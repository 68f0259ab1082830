"""Taking over the application's state at a stable checkpoint, when too much is missing to execute it all.

A chain of checkpoints, each signed by a quorum of the validators that the one before names, leads from what we know to
the target; its content has the root of the snapshot, the root checks the manifest, the manifest each chunk. So chunks
come from whoever has them, several peers at a time, and those that have come outlast a restart.
"""

from collections import deque
from collections.abc import Sequence

from tallystick.canon.chunks import check_chunk, check_manifest
from tallystick.consensus.pbft import checkpoints
from tallystick.consensus.pbft.certificate import (
    decode_content,
    group_after,
    group_of_checkpoint,
    height_of,
    verify_checkpoint,
)
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import (
    CheckpointRecord,
    EpochRecord,
    Head,
    Restore,
    SaveChunk,
    StartTransfer,
    Transfer,
)
from tallystick.consensus.pbft.limits import (
    MAX_CHUNKS_UNDER_WAY,
    STALLED_MS,
    TRANSFER_GAP,
)
from tallystick.consensus.pbft.messages import CheckpointContent, Checkpoints, Chunk, FetchChunk
from tallystick.consensus.pbft.state import Stable, State, Transferring
from tallystick.errors import Refused

# ---- finding a target


def on_checkpoints(state: State, sender: str, message: Checkpoints) -> None:
    """Takes proofs of checkpoints: of those that we have executed as stable, of one far ahead as a target."""
    found = _walk(state, message.proofs)
    if found is not None and found.target.height > state.head.height + _gap(state) and _is_better(state, found):
        _aim_at(state, found)


def _gap(state: State) -> int:
    """How far ahead a snapshot must be to be worth more than the blocks up to it: twice as far, too, as the chain went
    on while the last one came, or a node that fetches them slowly would fetch one after another."""
    return 0 if _blocks_are_gone(state) else max(TRANSFER_GAP * state.group.parameters.interval, 2 * state.ran_on)


def _aim_at(state: State, found: Transferring) -> None:
    """Goes for another target."""
    found.heard_ms, found.seen = state.clock.elapsed_ms, state.reached_by_others
    state.transfer = found
    state.inbound.clear()
    state.fetch = None


def _blocks_are_gone(state: State) -> bool:
    """Whether an honest peer says that it does not hold our next block: it took over a snapshot itself, or cut its
    history short."""
    return sum(peer.lacks == state.head.height + 1 for peer in state.peers.values()) > state.group.faults


def _is_better(state: State, found: Transferring) -> bool:
    """A transfer gives way to a later checkpoint when too few hold its snapshot or nobody answers any more; and while
    nothing has come of it, if its target was old from the start, or one has dropped it and all others are silent. Else
    anybody could busy us with old checkpoints, proven and useless."""
    now = state.transfer
    if now is None:
        return True
    stalled = now.heard_ms is not None and state.clock.elapsed_ms >= now.heard_ms + STALLED_MS
    old = now.target.height + 2 * state.group.parameters.interval < now.seen
    silent = bool(now.gone) and not state.asking.quick(_able(state, now), state.clock.elapsed_ms)
    useless = not now.manifest and (old or silent)
    return (stalled or useless or _is_dropped(state, now)) and found.target.height > now.target.height


def _walk(state: State, proofs: Sequence[bytes]) -> Transferring | None:
    """Follows a chain of checkpoints from the last stable one; returns its end, if that is ahead of us.

    Only checkpoints at which the validators changed lead there, and all of them in order: others prove as much, and
    would stay in our history for ever.
    """
    known, reached, changes, target = state.trusted, state.stable.height, list[bytes](), None
    for proof in proofs:
        if height_of(proof) <= state.stable.height:
            continue
        signers = group_of_checkpoint(known, proof)
        content = verify_checkpoint(signers, proof)
        if content.height <= reached:
            raise Refused("not_in_order", f"checkpoint {content.height} comes after the one at {reached}")
        known, reached = group_after(signers, content), content.height
        if content.height <= state.executed:
            _settle(state, proof, signers, content)
            continue
        target = Transferring(content, signers, (*changes, proof))
        if known.validators != signers.validators:
            changes.append(proof)
    return target


def _settle(state: State, proof: bytes, signers: Group, content: CheckpointContent) -> None:
    """We executed to it and missed the votes. After a restart we may not know any more what we got there."""
    ours = state.contents.get(content.height)
    if ours is not None and decode_content(ours) != content:
        state.halt(f"the state after block {content.height} is not what a quorum of validators computed")
        return
    checkpoints.make_stable(state, proof, signers)


# ---- fetching


def on_tick(state: State) -> None:
    """Asks peers in turn for what is missing, a few chunks at a time; first for the manifest, with chunk 0."""
    transfer = state.transfer
    if transfer is None or state.halted:
        return
    if transfer.target.height <= state.head.height:
        state.transfer = None  # agreement was faster
        return
    transfer.seen = transfer.seen or state.reached_by_others
    if transfer.heard_ms is None:
        transfer.heard_ms = state.clock.elapsed_ms
    overdue = {i: peer for i, (peer, until_ms) in transfer.asked.items() if state.clock.elapsed_ms >= until_ms}
    for peer in sorted(set(overdue.values())):
        state.asking.was_late(peer, state.clock.elapsed_ms, state.group)
    for index in overdue:
        _put_back(transfer, index)
    if not transfer.missing and not transfer.asked:
        _finish(state, transfer)
        return
    while transfer.missing and len(transfer.asked) < MAX_CHUNKS_UNDER_WAY:
        chosen = _next_peer(state, transfer)
        if chosen is None:
            break
        _ask(state, transfer, chosen, transfer.missing.popleft())
    if not transfer.asked and _is_dropped(state, transfer):
        state.transfer = None  # a status will bring another target


def _next_peer(state: State, transfer: Transferring) -> str | None:
    """Whose turn it is to be asked for a chunk; None if there is nobody to ask."""
    able = _able(state, transfer)
    quick = state.asking.quick(able, state.clock.elapsed_ms)
    if not able or (not quick and _is_dropped(state, transfer)):
        return None
    return min(quick or able, key=lambda identity: (state.turns.get(identity, 0), identity))


def _able(state: State, transfer: Transferring) -> list[str]:
    """Peers that may hold the snapshot."""
    return sorted(identity for identity in state.peers if identity != state.me and identity not in transfer.gone)


def _is_dropped(state: State, transfer: Transferring) -> bool:
    """Whether those who may still hold the snapshot are so few that none of them need be honest. One honest peer that
    does not is no sign: it may never have had it."""
    left = [identity for identity in state.group.validators if identity not in transfer.gone and identity != state.me]
    return len(left) <= state.group.faults


def _ask(state: State, transfer: Transferring, peer: str, index: int) -> None:
    state.turns[peer] = 1 + max(state.turns.values(), default=0)
    transfer.asked[index] = (peer, state.clock.elapsed_ms + state.asking.timeout_ms)
    state.send(peer, FetchChunk(state.group.epoch, transfer.target.height, index))


def _put_back(transfer: Transferring, index: int) -> None:
    del transfer.asked[index]
    transfer.missing.append(index)


def on_chunk(state: State, sender: str, message: Chunk) -> None:
    """A chunk that is still missing is taken from anybody: it may be an answer that came too late."""
    transfer, index = state.transfer, message.index
    if transfer is None or message.height != transfer.target.height or not _wants(transfer, index):
        raise Refused("unsolicited_chunk", f"{sender[:12]} sent a chunk that we do not want")
    try:
        _take(state, transfer, message)
    except Refused:
        transfer.gone.add(sender)
        if index in transfer.asked and transfer.asked[index][0] == sender:
            _put_back(transfer, index)
        raise
    asked, _ = transfer.asked.pop(index, ("", 0))
    state.asking.helped(sender, in_time=asked == sender)
    transfer.heard_ms = state.clock.elapsed_ms
    if index in transfer.missing:
        transfer.missing.remove(index)
    on_tick(state)


def _wants(transfer: Transferring, index: int) -> bool:
    return index in transfer.asked or index in transfer.missing


def _take(state: State, transfer: Transferring, message: Chunk) -> None:
    if not transfer.manifest:
        if not message.manifest:
            raise Refused("no_snapshot", "the peer does not hold that snapshot any more")
        count = check_manifest(message.manifest, transfer.target.root)
        if count:
            check_chunk(message.manifest, 0, message.data)
        transfer.manifest = message.manifest
        transfer.missing = deque(range(1, count))
        state.do(StartTransfer(transfer.proofs, transfer.manifest))
        if not count:
            return
    check_chunk(transfer.manifest, message.index, message.data)
    state.do(SaveChunk(message.index, message.data))


def resume(state: State, saved: Transfer) -> None:
    """Goes on with a transfer that a stop interrupted."""
    transfer = _walk(state, saved.proofs)
    if transfer is None:
        return
    count = check_manifest(saved.manifest, transfer.target.root)
    transfer.manifest = saved.manifest
    transfer.missing = deque(index for index in range(count) if index not in saved.chunks)
    state.transfer = transfer


# ---- taking over


def _finish(state: State, transfer: Transferring) -> None:
    content, signers = transfer.target, transfer.signers
    following = group_after(signers, content)
    ends = tuple(content.validators) != signers.validators
    head = Head(content.height, content.head, content.time_ms)
    epoch = EpochRecord(following.epoch, following.start, following.since, following.validators)
    changes = transfer.proofs if ends else transfer.proofs[:-1]
    state.history |= {height_of(proof): proof for proof in changes}
    state.transfer = None
    wanted = checkpoints.wanted_snapshots(state)
    checkpoint = CheckpointRecord(signers.epoch, content.height, transfer.proofs[-1], ends, wanted)
    state.ran_on = max(0, state.reached_by_others - transfer.seen)
    state.do(Restore(head, epoch, checkpoint, tuple(state.history.values())))
    state.head, state.stable, state.trusted = head, Stable(content.height, transfer.proofs[-1]), following
    if following.epoch != state.group.epoch:
        checkpoints.enter_epoch(state, signers if following.epoch != signers.epoch else None, following)
    for held in (state.instances, state.prepared, state.required):
        for height in [h for h in held if h <= head.height]:
            del held[height]
    state.bodies = {name: body for name, body in state.bodies.items() if body[0] > head.height}
    checkpoints.collect_garbage(state)
