"""Getting blocks that others already have, and telling others what they miss.

What peers claim in a status only tells whom to ask. A block is taken for its certificate, whoever sends it. One request
is under way at a time; a peer that is silent or sends what does not hold costs one turn, and the next one is asked. Who
was silent is asked last for a while, and an answer that comes late is as good. No request reaches beyond the next
checkpoint: who certifies the blocks after it is known when it has been executed.
"""

from tallystick.consensus.pbft import serving
from tallystick.consensus.pbft.certificate import verify_certificate
from tallystick.consensus.pbft.io import MuteRecord, Persist
from tallystick.consensus.pbft.limits import BEHIND_MS, MAX_BLOCKS_PER_ANSWER, MAX_PROOFS_PER_ANSWER
from tallystick.consensus.pbft.messages import Blocks, CertifiedBlock, Checkpoints, Fetch, Status
from tallystick.consensus.pbft.state import Fetching, State, deliver
from tallystick.errors import Refused

# ---- where everybody stands


def own_status(state: State) -> bytes:
    status = Status(state.group.epoch, state.view, state.active, state.head.height, state.stable.height)
    return state.seal(status)


def on_status(state: State, sender: str, message: Status) -> None:
    peer = state.peer(sender)
    peer.epoch, peer.height = message.epoch, message.height
    _end_silence(state)
    if message.stable < state.stable.height and serving.may_be_told(state, sender):
        serving.tell(state, sender, state.seal(Checkpoints(state.group.epoch, _proofs_above(state, message.stable))))
    trails = (message.epoch, message.view, message.active) < (state.group.epoch, state.view, True)
    if message.epoch == state.group.epoch and trails and state.new_view and serving.may_be_told(state, sender):
        serving.tell(state, sender, state.new_view)


def _proofs_above(state: State, height: int) -> list[bytes]:
    """Checkpoints at which the validators changed, then the last stable one: a chain of trust from `height` on.

    If it is too long for one message, the receiver's next status tells where to go on.
    """
    changes = [proof for at, proof in state.history.items() if height < at < state.stable.height]
    return [*changes, state.stable.proof][:MAX_PROOFS_PER_ANSWER]


def _end_silence(state: State) -> None:
    """A node that lost its memory learns from a quorum which epoch it is.

    If it was in epoch e, a quorum had committed the end of epoch e - 1, so among any quorum's answers one is e - 1 or
    later. It follows the chain until a quorum is no further than itself: then it is proven to be in e - 1 at least, and
    two epochs later is one that none of its lost signatures can name. Who claims to be far ahead is not counted.
    """
    if state.mute is None or state.mute.until:
        return
    others = [peer for identity, peer in state.peers.items() if identity in state.group.validators]
    if sum(0 <= peer.epoch <= state.group.epoch for peer in others) >= state.group.quorum:
        state.mute = MuteRecord(state.group.epoch + 2)
        state.do(Persist(state.mute))


# ---- asking


def fetch_if_behind(state: State) -> None:
    """On a tick: asks for blocks if a gap has lasted too long for messages under way to fill it."""
    if state.fetch is not None and state.clock.elapsed_ms >= state.fetch.until_ms:
        state.asking.was_late(state.fetch.peer, state.clock.elapsed_ms, state.group)
        state.overdue[state.fetch.peer] = state.fetch
        state.fetch = None
    if state.clock.elapsed_ms >= state.clock.progress_ms + BEHIND_MS:
        _ask_next(state)


def _ask_next(state: State) -> None:
    """Asks the next peer, in turn, that claims a height above ours."""
    if state.fetch is not None or state.inbound or state.transfer is not None or state.halted:
        return
    height, ahead = state.head.height, _ahead(state)
    if not ahead:
        return
    peer, first = (state.asking.quick(ahead, state.clock.elapsed_ms) or ahead)[0], height + 1
    last = min(state.peers[peer].height, height + MAX_BLOCKS_PER_ANSWER, state.group.checkpoint_after(height))
    state.fetch = Fetching(peer, first, last, state.clock.elapsed_ms + state.asking.timeout_ms)
    state.last_asked = peer
    state.send(peer, Fetch(state.group.epoch, first, last))


def _ahead(state: State) -> list[str]:
    """Peers that claim a height above ours, in turn."""
    order = sorted(state.peers)
    after = order.index(state.last_asked) + 1 if state.last_asked in state.peers else 0
    return [peer for peer in order[after:] + order[:after] if state.peers[peer].height > state.head.height]


# ---- taking


def on_blocks(state: State, sender: str, message: Blocks) -> None:
    in_time = state.fetch is not None and state.fetch.peer == sender
    asked = state.fetch if in_time else state.overdue.pop(sender, None)
    if asked is None:
        raise Refused("unsolicited_blocks", f"{sender[:12]} sent blocks that we did not ask it for")
    if in_time:
        state.fetch = None
    state.catching_up = True
    try:
        _take_all(state, asked, message.blocks)
        state.asking.helped(sender, in_time=in_time)
    except Refused:
        state.peer(sender).height = 0  # until it claims a height again
        raise
    finally:
        deliver_inbound(state)


def _take_all(state: State, asked: Fetching, answer: list[CertifiedBlock]) -> None:
    """Queues what is new in `answer`; agreement may have brought some of it while the answer was under way, and may
    have brought us into the next epoch, whose blocks were not asked for."""
    if not answer:
        state.peer(asked.peer).lacks = asked.first
        raise Refused("no_blocks", f"{asked.peer[:12]} claims blocks from {asked.first} on and sent none")
    if asked.first <= state.group.start:
        return
    for height, certified in enumerate(answer, asked.first):
        block = verify_certificate(state.group, certified.block, certified.certificate)
        if block.height != height or height > asked.last:
            raise Refused("wrong_height", f"{asked.peer[:12]} sent block {block.height} in the place of {height}")
        state.inbound.append((certified.block, certified.certificate, block))


def deliver_inbound(state: State) -> None:
    """Delivers the next of the blocks that came, when the one before is executed; then asks for more."""
    while state.inbound and state.inbound[0][2].height <= state.head.height:
        state.inbound.popleft()
    if not state.inbound:
        if state.catching_up:
            state.catching_up = False
            _ask_next(state)
    elif state.executed == state.head.height and not state.halted:
        encoded, certificate, block = state.inbound.popleft()
        deliver(state, block, encoded, state.group.block_digest(encoded), certificate)
