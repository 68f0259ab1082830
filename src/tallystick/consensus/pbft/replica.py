"""One validator's part in agreement, as a state machine without sockets, disk or clock: events in, effects out.

The order of effects and what the shell owes in return is the contract in `io`.
"""

from collections.abc import Mapping

from tallystick.canon.identity import Key
from tallystick.canon.votes import Checkpoint, Commit, Prepare, PrePrepare
from tallystick.consensus.pbft import catchup, checkpoints, forwarding, normal, restart, serving, transfer, views
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import (
    BlocksRead,
    BodyRead,
    Broadcast,
    ChunkRead,
    Connected,
    Durable,
    Effect,
    Event,
    Examined,
    Executed,
    Guests,
    Received,
    Restored,
    Send,
    Submitted,
    Tick,
    Verified,
)
from tallystick.consensus.pbft.limits import MAX_DOUBLINGS, RETRANSMIT_MS, STATUS_MS, TIMEOUT_MS
from tallystick.consensus.pbft.messages import (
    Blocks,
    Body,
    Checkpoints,
    Chunk,
    Fetch,
    FetchBody,
    FetchChunk,
    Forward,
    NewView,
    OnChannel,
    Proposal,
    Status,
    ViewChange,
    open_message,
)
from tallystick.consensus.pbft.state import HELD, State
from tallystick.errors import Refused


class Replica:
    """Owns a `State` and changes it one event at a time.

    Args:
        genesis: the chain's first group.
        key: of a validator; or of one that is none yet, or no more, and then only follows.
        durable: what the disk holds.
        timeout_ms: patience with a primary, before it is doubled.

    Raises:
        Refused: what is stored does not hold together.
    """

    def __init__(self, genesis: Group, key: Key, durable: Durable, *, timeout_ms: int = TIMEOUT_MS) -> None:
        self._state = restart.restore(genesis, key, durable, timeout_ms)

    def step(self, event: Event) -> list[Effect]:
        """Takes in `event` and returns what must be done, in order.

        Never raises for anything that a peer sent; that is counted in `rejections`.

        Raises:
            Refused: only for `Submitted`, and then nothing has changed.
        """
        state = self._state
        if state.halted:
            return []
        if isinstance(event, Submitted):
            forwarding.submit(state, event.transaction)
        else:
            self._count_refusals(event)
        if state.replay:
            self._hear_what_was_held()
        effects, state.effects = state.effects, []
        return effects

    # ---- what can be seen from outside

    @property
    def height(self) -> int:
        """Of the last delivered block."""
        return self._state.head.height

    @property
    def group(self) -> Group:
        """Of the current epoch."""
        return self._state.group

    @property
    def previous(self) -> Group | None:
        """Of the epoch before: its members may still be owed votes, and owe some."""
        return self._state.previous

    @property
    def epoch(self) -> int:
        return self._state.group.epoch

    @property
    def view(self) -> int:
        return self._state.view

    @property
    def active(self) -> bool:
        """False while the replica waits for a new primary."""
        return self._state.active

    @property
    def votes(self) -> bool:
        """Whether this node is a validator of the epoch that may vote."""
        return self._state.votes_here

    @property
    def primary(self) -> str:
        return self._state.primary

    @property
    def low(self) -> int:
        """The low watermark."""
        return self._state.low

    @property
    def high(self) -> int:
        """The high watermark."""
        return self._state.high

    @property
    def stable(self) -> int:
        """Height of the last stable checkpoint that can be proven."""
        return self._state.stable.height

    @property
    def may_leave(self) -> bool:
        """Whether a validator of the epoch before may stop for good: the checkpoint at which that epoch ended is stable
        here, so whoever lacks votes for it can be shown those of a quorum."""
        return self._state.stable.height >= self._state.group.start

    @property
    def transferring(self) -> bool:
        """Whether a snapshot is being fetched."""
        return self._state.transfer is not None

    @property
    def waiting(self) -> int:
        """Transactions that wait to be ordered."""
        return len(self._state.pool.waiting)

    @property
    def has_more_to_do(self) -> bool:
        """Whether a tick would go on at once with what one tick leaves for the next."""
        return any(peer.forwarded for peer in self._state.peers.values())

    @property
    def rejections(self) -> Mapping[str, int]:
        """How often input from others was refused, by reason code."""
        return self._state.rejections

    @property
    def load(self) -> Mapping[str, int]:
        """Sizes of everything that others can make this node hold."""
        state = self._state
        return {
            "instances": len(state.instances),
            "votes": sum(len(i.prepares) + len(i.commits) + len(i.unread) for i in state.instances.values()),
            "settled": len(state.settled),
            "bodies": len(state.bodies),
            "certified": len(state.certified),
            "checkpoint_votes": sum(map(len, state.checkpoint_votes.values())),
            "view_changes": len(state.view_changes),
            "peers": len(state.peers),
            "guests": len(state.guests),
            "early": sum(len(peer.early) for peer in state.peers.values()),
            "early_bytes": sum(peer.early_bytes for peer in state.peers.values()),
            "forwarded": sum(len(peer.forwarded) for peer in state.peers.values()),
            "forwarded_bytes": sum(peer.forwarded_bytes for peer in state.peers.values()),
            "demands": sum(len(peer.demands) for peer in (*state.peers.values(), *state.guests.values())),
            "replay": len(state.replay),
            "inbound": len(state.inbound),
            "pool": len(state.pool.waiting),
            "pool_bytes": state.pool.size,
            "unshared": len(state.pool.unshared),
            "accused": len(state.accused),
        }

    # ---- events

    def _count_refusals(self, event: Event) -> None:
        try:
            self._handle(event)
        except Refused as refused:
            if refused.code != HELD:
                self._state.rejections[refused.code] += 1

    def _handle(self, event: Event) -> None:
        state = self._state
        match event:
            case Received():
                self._receive(event.peer, event.frame)
            case Tick():
                self._tick(event)
            case Verified():
                normal.on_verified(state, event)
            case Examined():
                forwarding.on_examined(state, event)
            case Executed():
                self._executed(event)
            case Restored():
                assert event.height == state.head.height, f"restored {event.height}, wanted {state.head.height}"
                state.executed, state.deadline_ms, state.change_due = event.height, event.deadline_ms, False
                forwarding.examine_all(state)
            case Connected():
                self._greet(event.peer)
            case Guests():
                state.welcome(event.identities)
            case BlocksRead():
                serving.on_blocks_read(state, event)
            case ChunkRead():
                serving.on_chunk_read(state, event)
            case BodyRead() if event.peer:
                serving.on_body_read(state, event)
            case BodyRead():
                normal.on_body_read(state, event)

    def _receive(self, peer: str, frame: bytes) -> None:
        state = self._state
        assert state.executed == state.head.height, "the shell owes Executed or Restored before more frames"
        if normal.may_pass_over(state, peer, frame):
            return
        sender, message = open_message(state.group, frame)
        asks = isinstance(message, Status | Fetch | FetchChunk) and sender in state.guests
        if not state.is_member(sender) and not asks:
            raise Refused("not_a_validator", f"{sender[:12]} is no validator of epoch {state.group.epoch}")
        # A new view convinces by what it holds, and a primary's word against itself by whom it is from: anybody may
        # bring them.
        if sender != peer and not isinstance(message, NewView | PrePrepare):
            raise Refused("wrong_channel", f"{peer[:12]}'s channel brought a message of {sender[:12]}")
        group, view, active, stable = state.group, state.view, state.active, state.stable
        try:
            _dispatch(state, sender, message, frame)
        finally:
            if (group, view, active) != (state.group, state.view, state.active):
                self._release_held()
        if stable is not state.stable:
            normal.consider_all(state)  # the end of the epoch may have waited for this

    def _executed(self, event: Executed) -> None:
        state = self._state
        assert event.height == state.head.height, f"executed {event.height}, delivered {state.head.height}"
        state.executed, state.deadline_ms, state.change_due = event.height, event.deadline_ms, event.change_due
        epoch = state.group.epoch
        if event.outcome is not None:
            checkpoints.on_outcome(state, event.outcome)
        if state.halted:
            return
        if epoch != state.group.epoch:
            self._release_held()
        catchup.deliver_inbound(state)
        normal.deliver_next(state)
        normal.consider_all(state)

    def _release_held(self) -> None:
        """We entered a view or epoch: what came before us is heard now, and checked as if it came now."""
        for identity, peer in self._state.peers.items():
            self._state.replay.extend((identity, frame) for frame in peer.early)
            peer.early.clear()
            peer.early_bytes = 0

    def _hear_what_was_held(self) -> None:
        state = self._state
        while state.replay and state.executed == state.head.height and not state.halted:
            self._count_refusals(Received(*state.replay.popleft()))

    def _tick(self, event: Tick) -> None:
        state, clock = self._state, self._state.clock
        first = not clock.now_ms
        clock.now_ms, clock.elapsed_ms = event.now_ms, event.elapsed_ms
        if state.executed != state.head.height:
            return
        forwarding.on_tick(state)
        serving.on_tick(state)
        group, view, active = state.group, state.view, state.active
        if first:
            normal.consider_all(state)
        normal.propose_if_due(state)
        views.on_tick(state)
        forwarding.recheck_if_due(state)
        forwarding.flush(state)
        catchup.fetch_if_behind(state)
        if state.transfer is not None:
            transfer.on_tick(state)
        if (group, view, active) != (state.group, state.view, state.active):
            self._release_held()
        if clock.elapsed_ms >= clock.status_ms:
            clock.status_ms = clock.elapsed_ms + STATUS_MS
            state.do(Broadcast(catchup.own_status(state)))
        self._repeat_if_silent()

    def _repeat_if_silent(self) -> None:
        """Sends again what may have been lost, ever less often while nothing comes of it."""
        clock = self._state.clock
        if clock.progress_ms + RETRANSMIT_MS > clock.retransmit_ms:  # there was progress since the last time
            clock.retransmit_ms, clock.repetitions = clock.progress_ms + RETRANSMIT_MS, 0
        if clock.elapsed_ms < clock.retransmit_ms:
            return
        clock.repetitions += 1
        clock.retransmit_ms = clock.elapsed_ms + (RETRANSMIT_MS << min(clock.repetitions, MAX_DOUBLINGS // 2))
        for frame in self._ours_again():
            self._state.do(Broadcast(frame))
        normal.want_bodies(self._state)

    def _ours_again(self) -> list[bytes]:
        """Everything that we said and that is not settled."""
        state = self._state
        leaving = [state.own_view_change] if not state.active and state.own_view_change else []
        return [*leaving, *normal.ours_again(state), *checkpoints.votes_again(state)]

    def _greet(self, peer: str) -> None:
        """Tells a peer that was away where we stand, what we last said and what waits."""
        for frame in (catchup.own_status(self._state), *self._ours_again()):
            self._state.do(Send(peer, frame))
        forwarding.tell(self._state, peer)


def _dispatch(state: State, sender: str, message: OnChannel, frame: bytes) -> None:
    match message:
        case Proposal():
            normal.on_proposal(state, sender, message, frame)
        case PrePrepare():
            normal.on_shown(state, sender, message, frame)
        case Prepare():
            normal.on_prepare(state, sender, message, frame)
        case Commit():
            normal.on_commit(state, sender, message, frame)
        case Checkpoint():
            checkpoints.on_checkpoint(state, sender, message, frame)
        case ViewChange():
            views.on_view_change(state, sender, message, frame)
        case NewView():
            views.on_new_view(state, sender, message, frame)
        case FetchBody():
            serving.on_fetch_body(state, sender, message)
        case Body():
            normal.on_body(state, sender, message)
        case Forward():
            forwarding.on_forward(state, sender, message)
        case Status():
            catchup.on_status(state, sender, message)
        case Fetch():
            serving.on_fetch(state, sender, message)
        case Blocks():
            catchup.on_blocks(state, sender, message)
        case Checkpoints():
            transfer.on_checkpoints(state, sender, message)
        case FetchChunk():
            serving.on_fetch_chunk(state, sender, message)
        case Chunk():
            transfer.on_chunk(state, sender, message)
