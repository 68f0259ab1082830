"""One validator's part in agreement, as a state machine without sockets, disk or clock: events in, effects out.

The order of effects and what the shell owes in return is the contract in `io`.
"""

from collections.abc import Mapping

from tallystick.canon.identity import Key
from tallystick.consensus.pbft import catchup, forwarding, normal
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import (
    BlocksRead,
    Broadcast,
    Connected,
    Durable,
    Effect,
    Event,
    Examined,
    Executed,
    Received,
    Send,
    Submitted,
    Tick,
)
from tallystick.consensus.pbft.limits import RETRANSMIT_MS, STATUS_MS
from tallystick.consensus.pbft.messages import (
    Blocks,
    Commit,
    Fetch,
    Forward,
    OnChannel,
    Prepare,
    Proposal,
    Status,
    open_message,
)
from tallystick.consensus.pbft.state import Evidence, State, start
from tallystick.errors import Refused


class Replica:
    """Owns a `State` and changes it one event at a time.

    Raises:
        Refused: `not_a_validator`, if `key` is not one of the group's.
    """

    def __init__(self, group: Group, key: Key, durable: Durable) -> None:
        if key.identity not in group.validators:
            raise Refused("not_a_validator", f"key {key.identity[:12]} is no validator of chain {group.chain}")
        self._state = start(group, key, durable)
        normal.restore(self._state, durable.votes)

    def step(self, event: Event) -> list[Effect]:
        """Takes in `event` and returns what must be done, in order.

        Never raises for anything that a peer sent; that is counted in `rejections`.

        Raises:
            Refused: only for `Submitted`, and then nothing has changed.
        """
        state = self._state
        match event:
            case Received():
                self._receive(event)
            case Tick():
                self._tick(event)
            case Submitted():
                forwarding.submit(state, event.transaction)
            case Examined():
                forwarding.on_examined(state, event)
            case Executed():
                self._executed(event)
            case Connected():
                self._greet(event.peer)
            case BlocksRead():
                catchup.on_blocks_read(state, event)
        effects, state.effects = state.effects, []
        return effects

    @property
    def height(self) -> int:
        """Of the last delivered block."""
        return self._state.head.height

    @property
    def view(self) -> int:
        return self._state.view

    @property
    def primary(self) -> str:
        return self._state.primary

    @property
    def waiting(self) -> int:
        """Transactions that wait to be ordered."""
        return len(self._state.pool.waiting)

    @property
    def rejections(self) -> Mapping[str, int]:
        """How often input from others was refused, by reason code."""
        return self._state.rejections

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        return tuple(self._state.evidence)

    def _receive(self, event: Received) -> None:
        state = self._state
        assert state.executed == state.head.height, "the shell owes Executed before more frames"
        try:
            sender, message = open_message(state.group, event.frame)
            if sender != event.peer:
                raise Refused("wrong_channel", f"{event.peer[:12]}'s channel brought a message of {sender[:12]}")
            _dispatch(state, sender, message, event.frame)
        except Refused as refused:
            state.rejections[refused.code] += 1

    def _executed(self, event: Executed) -> None:
        state = self._state
        assert event.height == state.head.height, f"executed {event.height}, delivered {state.head.height}"
        state.executed, state.deadline_ms = event.height, event.deadline_ms
        try:
            normal.consider(state)
        except Refused as refused:
            state.rejections[refused.code] += 1

    def _tick(self, event: Tick) -> None:
        state = self._state
        state.now_ms, state.elapsed_ms = event.now_ms, event.elapsed_ms
        state.answers.clear()
        normal.propose_if_due(state)
        forwarding.recheck_if_due(state)
        forwarding.flush(state)
        catchup.fetch_if_behind(state)
        if state.elapsed_ms >= state.status_ms:
            state.status_ms = state.elapsed_ms + STATUS_MS
            state.do(Broadcast(catchup.own_status(state)))
        if state.elapsed_ms >= max(state.progress_ms, state.retransmitted_ms) + RETRANSMIT_MS:
            state.retransmitted_ms = state.elapsed_ms
            for frame in normal.ours_again(state):
                state.do(Broadcast(frame))

    def _greet(self, peer: str) -> None:
        """Tells a peer that was away where we stand, what we last said and what waits."""
        for frame in (catchup.own_status(self._state), *normal.ours_again(self._state)):
            self._state.do(Send(peer, frame))
        forwarding.tell(self._state, peer)


def _dispatch(state: State, sender: str, message: OnChannel, frame: bytes) -> None:
    match message:
        case Proposal():
            normal.on_proposal(state, sender, message)
        case Prepare():
            normal.on_prepare(state, sender, message, frame)
        case Commit():
            normal.on_commit(state, sender, message, frame)
        case Forward():
            forwarding.on_forward(state, message)
        case Status():
            catchup.on_status(state, sender, message)
        case Fetch():
            catchup.on_fetch(state, sender, message)
        case Blocks():
            catchup.on_blocks(state, sender, message)
