"""How transactions reach the primary: each goes to it at once, and a little later to all validators if it still waits,
so that all watch what the primary does with it and losing one machine loses none that is older. Most are decided by
then, and cost nobody a message.

What comes from peers is examined by the application before it takes a place in the pool. Of a peer whose transactions
are not admitted so many are examined between two ticks and the rest later, so that it cannot keep us busy; those of
others at once and in order, for an account's later transaction makes its earlier ones void. What waits too long is
examined again, because it may have become void, and then forwarded again: at once if it was submitted here, later if it
was relayed. A peer that waits so for what we have executed passed that block over, perhaps with a snapshot, and will
never see it; if the application admits it once more, it is ordered once more, or that peer would lose patience.
"""

from collections.abc import Iterator

from tallystick.consensus.pbft.io import Broadcast, Examine, Examined, Relay, Send
from tallystick.consensus.pbft.limits import (
    EXAMINED_IN_VAIN,
    MAX_BLOCK_TRANSACTIONS,
    MAX_FORWARD_BYTES,
    MAX_FORWARDED,
    MAX_FORWARDED_BYTES,
    RECHECK_MS,
    SHARE_PART,
)
from tallystick.consensus.pbft.messages import Forward, seal_message
from tallystick.consensus.pbft.state import Peer, State
from tallystick.errors import Refused


def submit(state: State, transaction: bytes) -> None:
    """Raises `Refused`: `bad_transaction_size` or `mempool_full`."""
    now = state.clock.elapsed_ms
    if state.pool.add(transaction, now, ours=True):
        state.pool.unshared[transaction] = now + min(state.timeout_ms // SHARE_PART, RECHECK_MS)
        state.outbox.append(transaction)


def on_forward(state: State, sender: str, message: Forward) -> None:
    """Raises `Refused`: `too_many_forwards`. What is lost so is forwarded again by its first holder."""
    peer = state.peer(sender)
    try:
        for transaction in message.transactions:
            if len(peer.forwarded) == MAX_FORWARDED or peer.forwarded_bytes + len(transaction) > MAX_FORWARDED_BYTES:
                reason = f"{sender[:12]} forwards faster than we examine; {len(peer.forwarded)} wait already"
                raise Refused("too_many_forwards", reason)
            if message.again:
                state.pool.forget(transaction)
            peer.forwarded.append(transaction)
            peer.forwarded_bytes += len(transaction)
    finally:
        _examine_some(state, sender, peer)


def on_tick(state: State) -> None:
    for identity, peer in state.peers.items():
        peer.in_vain = 0
        if peer.forwarded:
            _examine_some(state, identity, peer)


def _examine_some(state: State, identity: str, peer: Peer) -> None:
    """Has the next of what a peer forwarded examined, no more than may be in vain before the next tick; `on_examined`
    goes on. One that was committed lately is no news."""
    room, news = EXAMINED_IN_VAIN // len(state.group.validators) - peer.in_vain, list[bytes]()
    while peer.forwarded and len(news) < room:
        transaction = peer.forwarded.popleft()
        peer.forwarded_bytes -= len(transaction)
        if not state.pool.knows(transaction):
            news.append(transaction)
    if news:
        state.do(Examine(tuple(news), again=False, peer=identity))


def on_examined(state: State, event: Examined) -> None:
    for transaction, code in event.refused:
        state.rejections[code] += 1
        state.pool.drop(transaction)
    if event.again:
        # At once: `views` asks halfway to the end of its patience, and the next tick may be past that.
        _broadcast(state, [t for t in event.accepted if state.pool.holds(t)], again=True)
        return
    in_vain = len(event.refused) + sum(not _take(state, transaction) for transaction in event.accepted)
    peer = state.peers.get(event.peer)
    if peer is not None:
        peer.in_vain += in_vain
        if peer.forwarded:
            _examine_some(state, event.peer, peer)


def _take(state: State, transaction: bytes) -> bool:
    try:
        state.pool.add(transaction, state.clock.elapsed_ms, ours=False)
    except Refused as refused:
        state.rejections[refused.code] += 1
        return False
    return True


def flush(state: State) -> None:
    """Sends what has gathered in the outbox to the primary, and what was sent to it alone and still waits to all."""
    if state.outbox:
        gathered, state.outbox = state.outbox, []
        if state.primary != state.me:
            for frame in _frames(state, gathered, again=False):
                state.do(Relay(state.primary, frame))
    if state.pool.unshared:
        _broadcast(state, state.pool.share(state.clock.elapsed_ms), again=False)


def _broadcast(state: State, transactions: list[bytes], *, again: bool) -> None:
    for frame in _frames(state, transactions, again):
        state.do(Broadcast(frame))


def tell(state: State, peer: str) -> None:
    """Sends a peer that was away what has waited longest; it may be the primary that everybody waits for."""
    for frame in _frames(state, state.pool.front(), again=False):
        state.do(Send(peer, frame))


def _frames(state: State, transactions: list[bytes], again: bool) -> Iterator[bytes]:
    """`transactions` in as few messages as the bounds allow."""
    batch: list[bytes] = []
    size = 0
    for transaction in transactions:
        if len(batch) == MAX_BLOCK_TRANSACTIONS or size + len(transaction) > MAX_FORWARD_BYTES:
            yield seal_message(state.key, state.group, Forward(state.group.epoch, again, batch))
            batch, size = [], 0
        batch.append(transaction)
        size += len(transaction)
    if batch:
        yield seal_message(state.key, state.group, Forward(state.group.epoch, again, batch))


def examine_all(state: State) -> None:
    """After a restore: the blocks that were passed over may hold what waits here."""
    state.patience.until_ms = None
    if state.pool.waiting:
        state.do(Examine(tuple(state.pool.waiting), again=False))


def recheck_if_due(state: State) -> None:
    if state.clock.elapsed_ms < state.clock.recheck_ms:
        return
    state.clock.recheck_ms = state.clock.elapsed_ms + RECHECK_MS
    overdue = state.pool.overdue(state.clock.elapsed_ms)
    if overdue:
        state.do(Examine(overdue, again=True))
