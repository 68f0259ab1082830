"""Getting blocks that others already have.

Heights that peers claim only tell whom to ask. A block is taken for its certificate, whoever sends it. One request is
under way at a time; a peer that is silent or sends what does not hold costs one turn, and the next one is asked.
"""

from tallystick.consensus.pbft.certificate import verify_certificate
from tallystick.consensus.pbft.io import BlocksRead, ReadBlocks, Send
from tallystick.consensus.pbft.limits import (
    BEHIND_MS,
    FETCH_TIMEOUT_MS,
    MAX_ANSWER_BYTES,
    MAX_ANSWERS_PER_TICK,
    MAX_BLOCKS_PER_ANSWER,
)
from tallystick.consensus.pbft.messages import Blocks, CertifiedBlock, Fetch, Status, seal_message
from tallystick.consensus.pbft.state import Outstanding, State, deliver
from tallystick.errors import Refused


def own_status(state: State) -> bytes:
    return seal_message(state.key, state.group, Status(state.group.epoch, state.view, state.head.height))


def on_status(state: State, sender: str, message: Status) -> None:
    state.peers[sender] = message.height


def fetch_if_behind(state: State) -> None:
    """On a tick: asks for blocks if a gap has lasted too long for messages under way to fill it."""
    if state.fetch is not None and state.elapsed_ms >= state.fetch.until_ms:
        state.fetch = None
    if state.fetch is None and state.elapsed_ms >= state.progress_ms + BEHIND_MS:
        _ask_next(state)


def _ask_next(state: State) -> None:
    """Asks the next peer, in turn, that claims a height above ours."""
    order = state.group.validators
    after = order.index(state.last_asked) + 1 if state.last_asked else 0
    ahead = [peer for peer in order[after:] + order[:after] if state.peers.get(peer, 0) > state.head.height]
    if not ahead:
        return
    peer, first = ahead[0], state.head.height + 1
    last = min(state.peers[peer], state.head.height + MAX_BLOCKS_PER_ANSWER)
    state.fetch = Outstanding(peer, first, last, state.elapsed_ms + FETCH_TIMEOUT_MS)
    state.last_asked = peer
    state.do(Send(peer, seal_message(state.key, state.group, Fetch(state.group.epoch, first, last))))


# ---- answering


def on_fetch(state: State, sender: str, message: Fetch) -> None:
    if not 1 <= message.first <= message.last:
        raise Refused("bad_range", f"{sender[:12]} asks for blocks {message.first} to {message.last}")
    state.answers[sender] += 1
    if state.answers[sender] > MAX_ANSWERS_PER_TICK:
        raise Refused("too_many_fetches", f"{sender[:12]} asks for blocks faster than we serve them")
    last = min(message.last, message.first + MAX_BLOCKS_PER_ANSWER - 1, state.head.height)
    if message.first <= last:
        state.do(ReadBlocks(sender, message.first, last, MAX_ANSWER_BYTES))


def on_blocks_read(state: State, event: BlocksRead) -> None:
    answer = Blocks(state.group.epoch, [CertifiedBlock(*pair) for pair in event.blocks])
    state.do(Send(event.peer, seal_message(state.key, state.group, answer)))


# ---- taking


def on_blocks(state: State, sender: str, message: Blocks) -> None:
    asked = state.fetch
    if asked is None or asked.peer != sender:
        raise Refused("unsolicited_blocks", f"{sender[:12]} sent blocks that we did not ask it for")
    state.fetch = None
    try:
        _take_all(state, asked, message.blocks)
    except Refused:
        state.peers[sender] = 0  # until it claims a height again
        raise
    finally:
        _ask_next(state)


def _take_all(state: State, asked: Outstanding, answer: list[CertifiedBlock]) -> None:
    """Delivers what is new in `answer`; agreement may have brought some of it while the answer was under way."""
    if not answer:
        raise Refused("no_blocks", f"{asked.peer[:12]} claims blocks from {asked.first} on and sent none")
    for height, certified in enumerate(answer, asked.first):
        block = verify_certificate(state.group, certified.block, certified.certificate)
        if block.height != height:
            raise Refused("wrong_height", f"{asked.peer[:12]} sent block {block.height} in the place of {height}")
        if height > state.head.height:
            # The certificate vouches for the parent too: a quorum checked it.
            assert block.parent == state.head.digest, f"certified block {height} does not extend our head: a fork"
            deliver(state, block, certified.block, state.group.block_digest(certified.block), certified.certificate)
