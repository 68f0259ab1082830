"""Answering what peers ask for, each within its share of our time.

Reading blocks costs us disk and a signature over megabytes. So one demand of a peer is answered at a time, and what its
answers weigh is a debt that it works off as time passes. A demand that comes while it has too much of that waits; it is
not refused, for a node that catches up has no other way and would take us for silent. What its statuses draw from us is
a debt apart, with as large a share: a node that demands much must still hear of new views and checkpoints, and one that
was told of a large view, by everybody at once, must still get its blocks.
"""

from tallystick.consensus.pbft.io import BlocksRead, BodyRead, ChunkRead, ReadBlocks, ReadBody, ReadChunk, Send
from tallystick.consensus.pbft.limits import (
    ANSWER_OVERHEAD_BYTES,
    ANSWERED_BYTES,
    ANSWERS_MS,
    MAX_ANSWER_BYTES,
    MAX_BLOCKS_PER_ANSWER,
    MAX_DEMANDS,
    READ_MS,
)
from tallystick.consensus.pbft.messages import (
    Blocks,
    Body,
    CertifiedBlock,
    Chunk,
    Demand,
    Fetch,
    FetchBody,
    FetchChunk,
    OnChannel,
    check_member,
)
from tallystick.consensus.pbft.state import Peer, State
from tallystick.errors import Refused

# ---- demands


def on_fetch(state: State, sender: str, message: Fetch) -> None:
    if not 1 <= message.first <= message.last:
        raise Refused("bad_range", f"{sender[:12]} asks for blocks {message.first} to {message.last}")
    _demand(state, sender, message)


def on_fetch_chunk(state: State, sender: str, message: FetchChunk) -> None:
    _demand(state, sender, message)
    peer = state.peer(sender)
    peer.reads, peer.reads_until_ms = message.height, state.clock.elapsed_ms + READ_MS


def on_fetch_body(state: State, sender: str, message: FetchBody) -> None:
    check_member(state.group, sender, message)
    _demand(state, sender, message)


def _demand(state: State, sender: str, demand: Demand) -> None:
    peer = state.peer(sender)
    if demand in peer.demands:
        return
    if len(peer.demands) == MAX_DEMANDS:
        raise Refused("too_many_demands", f"{sender[:12]} asks faster than we answer; {MAX_DEMANDS} demands wait")
    peer.demands.append(demand)
    _serve(state, sender, peer)


def on_tick(state: State) -> None:
    """Time has passed: debts shrink, and who waited is answered. Nobody waits without a debt."""
    clock = state.clock
    passed_ms, clock.served_ms = clock.elapsed_ms - clock.served_ms, clock.elapsed_ms
    for peers in (state.peers, state.guests):
        for identity, peer in peers.items():
            if peer.debt or peer.told:
                worked_off = passed_ms * _share(state) // ANSWERS_MS
                peer.debt, peer.told = max(0, peer.debt - worked_off), max(0, peer.told - worked_off)
                _serve(state, identity, peer)


def _share(state: State) -> int:
    """Those who left with the last epoch ask as well, and f of them may be faulty."""
    return ANSWERED_BYTES // max(len(group.validators) for group in (state.group, state.previous) if group)


def _serve(state: State, identity: str, peer: Peer) -> None:
    while peer.demands and not peer.reading and peer.debt < _share(state):
        _read(state, identity, peer, peer.demands.popleft())


def _read(state: State, identity: str, peer: Peer, demand: Demand) -> None:
    match demand:
        case Fetch(first=first):
            last = min(demand.last, first + MAX_BLOCKS_PER_ANSWER - 1, state.head.height)
            if first > last:
                return
            state.do(ReadBlocks(identity, first, last, MAX_ANSWER_BYTES))
        case FetchChunk():
            state.do(ReadChunk(identity, demand.height, demand.index))
        case FetchBody():
            held = state.bodies.get(demand.digest)
            if held is not None:
                _answer(state, identity, peer, Body(state.group.epoch, held[1]))
                return
            state.do(ReadBody(identity, demand.height, demand.digest))
    peer.reading = True


# ---- answers


def on_blocks_read(state: State, event: BlocksRead) -> None:
    blocks = [CertifiedBlock(*pair) for pair in event.blocks]
    _on_read(state, event.peer, Blocks(state.group.epoch, blocks))


def on_chunk_read(state: State, event: ChunkRead) -> None:
    _on_read(state, event.peer, Chunk(state.group.epoch, event.height, event.index, event.manifest, event.data))


def on_body_read(state: State, event: BodyRead) -> None:
    _on_read(state, event.peer, Body(state.group.epoch, event.block) if event.block else None)


def _on_read(state: State, identity: str, message: OnChannel | None) -> None:
    peer = state.guests.get(identity) or state.peers.get(identity)
    if peer is None:
        return  # it has left meanwhile
    peer.reading = False
    if message is not None:
        _answer(state, identity, peer, message)
    else:
        peer.debt += ANSWER_OVERHEAD_BYTES
    _serve(state, identity, peer)


def _answer(state: State, identity: str, peer: Peer, message: OnChannel) -> None:
    frame = state.seal(message)
    peer.debt += len(frame) + ANSWER_OVERHEAD_BYTES
    state.do(Send(identity, frame))


# ---- what a status shows that its sender misses


def may_be_told(state: State, identity: str) -> bool:
    """Else its next status asks again."""
    return state.peer(identity).told < _share(state)


def tell(state: State, identity: str, frame: bytes) -> None:
    state.peer(identity).told += len(frame) + ANSWER_OVERHEAD_BYTES
    state.do(Send(identity, frame))
