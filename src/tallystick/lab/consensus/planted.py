"""Tests of the tests: mistakes that real systems made, planted in the real core one at a time.

Each is a context manager that patches one function or constant of the core from outside, so the product has no switch
for it. A campaign over ordinary seeds must find each (docs/simulation.md has how soon). The sources are named there.
"""

from collections.abc import Iterator, Sequence

import msgspec

from tallystick.canon import hashing
from tallystick.canon import sealed as envelope
from tallystick.canon import votes as canon_votes
from tallystick.canon.identity import Key
from tallystick.canon.votes import Commit, Prepare, PrePrepare
from tallystick.consensus.pbft import (
    catchup,
    certificate,
    checkpoints,
    forwarding,
    group,
    messages,
    normal,
    replica,
    restart,
    state,
    transfer,
    views,
)
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import Broadcast, Durable, Persist, Phase
from tallystick.consensus.pbft.messages import Block, NewView, ViewChange
from tallystick.consensus.pbft.pool import Pool
from tallystick.consensus.pbft.state import Ballot, Instance, State
from tallystick.errors import Refused
from tallystick.lab.consensus.planting import BUGS, planted, swapped

__all__ = ["BUGS"]

# ---- arithmetic


@planted
def quorum_of_two_thirds_rounded_down() -> Iterator[None]:
    """Proof of Training's own code: 2 * floor(n / 3) + 1, which is too few for n = 5, 8 and 50."""
    with swapped((group, "quorum", lambda n: 2 * (n // 3) + 1)):
        yield


@planted
def quorum_without_overlap() -> Iterator[None]:
    """A published proposal (Celo): two quorums share one node, which may be the faulty one, and not f + 1."""
    with swapped((group, "quorum", lambda n: n // 2 + 1)):
        yield


# ---- durability


@planted
def commit_before_persist() -> Iterator[None]:
    """A vote leaves before it is on disk."""

    def cast(
        state: State, instance: Instance, phase: Phase, digest: bytes, encoded: bytes = b"", proof: bytes = b""
    ) -> None:
        original(state, instance, phase, digest, encoded, proof)
        persist, broadcast = state.effects[-2:]
        if isinstance(persist, Persist) and isinstance(broadcast, Broadcast):
            state.effects[-2:] = [broadcast, persist]

    original = normal._cast
    with swapped((normal, "_cast", cast)):
        yield


@planted
def votes_forgotten_on_restart() -> Iterator[None]:
    """A restarted node does not look at what it voted for (amnesia)."""
    with swapped((restart, "_take_up_vote", lambda state, record: None)):
        yield


@planted
def view_forgotten_on_restart() -> Iterator[None]:
    """A restarted node starts again in view 0."""
    with swapped((restart, "_take_up_view", lambda state, durable: None)):
        yield


@planted
def lost_memory_votes_at_once() -> Iterator[None]:
    """A validator whose disk was lost votes as if it were new."""
    with swapped((State, "votes_here", property(lambda self: self.me in self.group.validators))):
        yield


# ---- view change


@planted
def view_change_wipes_prepared_state() -> Iterator[None]:
    """raijin #8: a view change carries nothing of what was prepared."""
    with swapped((views, "_claims", lambda state: [])):
        yield


@planted
def new_view_not_recomputed() -> Iterator[None]:
    """FISCO-BCOS FIB-124: backups take the new primary's list as it is."""

    def check(group: Group, sender: str, message: NewView) -> views.Opening:
        try:
            return original(group, sender, message)
        except Refused as refused:
            if refused.code != "wrong_new_view":
                raise
        changes = [messages.open_view_change(group, sealed)[1] for sealed in message.view_changes]
        base = max(change.base for change in changes)
        listed = [canon_votes.open_vote(group.chain, sealed)[1] for sealed in message.pre_prepares]
        return views.Opening(base, tuple(vote.digest for vote in listed))

    original = views.check_new_view
    with swapped((views, "check_new_view", check)):
        yield


@planted
def bad_claim_hides_good_ones() -> Iterator[None]:
    """concord-bft #50: one invalid prepared certificate makes valid ones of others at its height count for nothing."""

    def choose(group: Group, changes: Sequence[ViewChange]) -> views.Opening:
        bad = {c.height for change in changes for c in change.claims if not views._holds(group, c)}
        kept = [
            msgspec.structs.replace(change, claims=[c for c in change.claims if c.height not in bad])
            for change in changes
        ]
        return original(group, kept)

    original = views.choose
    with swapped((views, "choose", choose)):
        yield


@planted
def lowest_view_wins() -> Iterator[None]:
    """The claim of the earliest view is proposed again, and not that of the latest."""

    def choose(group: Group, changes: Sequence[ViewChange]) -> views.Opening:
        first: dict[int, int] = {}
        for change in changes:
            for claim in change.claims:
                if views._holds(group, claim):
                    first[claim.height] = min(first.get(claim.height, claim.view), claim.view)
        kept = [
            msgspec.structs.replace(change, claims=[c for c in change.claims if c.view == first.get(c.height)])
            for change in changes
        ]
        return original(group, kept)

    original = views.choose
    with swapped((views, "choose", choose)):
        yield


@planted
def claims_not_verified() -> Iterator[None]:
    """exochain #110, FISCO-BCOS FIB-127: a claim is believed without looking at its votes."""
    with swapped((views, "_holds", lambda group, claim: True)):
        yield


@planted
def null_blocks_of_each_node() -> Iterator[None]:
    """bluzelle #358: what fills a gap differs from node to node, so that no new view is ever valid."""
    counter = iter(range(1, 1 << 40))
    with swapped((views, "null_block", lambda height: messages.encode_block(Block(height, next(counter), "", [])))):
        yield


@planted
def view_changes_not_repeated() -> Iterator[None]:
    """fabric #1917: view changes are sent once, so that a short cut wedges the cluster."""

    def again(self: replica.Replica) -> list[bytes]:
        leaving = self._state.own_view_change
        return [frame for frame in original(self) if frame != leaving]

    original = replica.Replica._ours_again
    with swapped((replica.Replica, "_ours_again", again)):
        yield


@planted
def one_vote_moves_the_view() -> Iterator[None]:
    """Any single validator, faulty or not, takes everybody along into a later view."""

    def join(state: State) -> None:
        above = sorted(message.view for _, message in state.view_changes.values() if message.view > state.view)
        if above and state.votes_here:
            views.leave_for(state, above[-1])

    with swapped((views, "_join", join)):
        yield


@planted
def backups_start_no_timer() -> Iterator[None]:
    """fabric #639: a backup does not wait for requests that it knows of, so a primary may ignore them for ever."""

    def watch(state: State) -> None:
        oldest, state.pool.waiting = state.pool.waiting, {}
        try:
            original(state)
        finally:
            state.pool.waiting = oldest

    original = views._watch
    with swapped((views, "_watch", watch)):
        yield


@planted
def primary_for_ever() -> Iterator[None]:
    """Proof of Training's own code: the primary is hard-wired."""
    with swapped((views, "leave_for", lambda state, view: None)):
        yield


@planted
def freshness_of_what_is_proposed_again() -> Iterator[None]:
    """indy-plenum #1488: a block that a new view must propose again is refused because it is old."""

    def accept(state: State, instance: Instance, digest: bytes) -> None:
        if instance.height in state.required and instance.encoded:
            block = messages.decode_block(instance.encoded)
            if block.proposer and block.time_ms < state.clock.now_ms - state.timeout_ms // 2:
                raise Refused("too_old", "the proposal is not fresh")
        original(state, instance, digest)

    original = normal._accept
    with swapped((normal, "_accept", accept)):
        yield


# ---- what is signed, and what is asked of it


@planted
def signatures_over_the_digest_alone() -> Iterator[None]:
    """Proof of Training's own code: a vote's signature names neither kind, epoch, view nor height."""

    def unbound(domain: str, *parts: bytes) -> bytes:
        payload = parts[0] if len(parts) == 1 else b""
        if payload[1:2] and any(kind in payload[:14] for kind in (b"prepare", b"commit", b"checkpoint")):
            return original(domain, payload[-32:])
        return original(domain, *parts)

    original = hashing.digest
    with swapped((envelope, "digest", unbound)):
        yield


@planted
def requests_not_checked_by_backups() -> Iterator[None]:
    """Backups prepare whatever the primary proposes, signed by its client or not."""
    with swapped((normal, "_all_known", lambda state, digest, block: True)):
        yield


@planted
def votes_of_any_view_counted() -> Iterator[None]:
    """FISCO-BCOS #5167: votes of another view are counted as of one's own."""

    def instance_for(state: State, sender: str, vote: PrePrepare | Prepare | Commit, frame: bytes) -> Instance | None:
        return original(state, sender, msgspec.structs.replace(vote, view=state.view) if state.active else vote, frame)

    original = normal._instance_for
    with swapped((normal, "_instance_for", instance_for)):
        yield


@planted
def honest_validator_framed() -> Iterator[None]:
    """Votes of one validator in two views are taken as evidence against it."""
    first: dict[tuple[str, str, int, int], tuple[bytes, bytes]] = {}

    def count(state: State, ballots: dict[str, Ballot], sender: str, vote: Prepare | Commit, sealed: bytes) -> None:
        slot = (sender, type(vote).__name__, vote.epoch, vote.height)
        digest, before = first.setdefault(slot, (vote.digest, sealed))
        if digest != vote.digest:
            state.accuse(sender, slot, before, sealed)
        original(state, ballots, sender, vote, sealed)

    original = normal._count
    with swapped((normal, "_count", count)):
        yield


# ---- order, checkpoints, epochs


@planted
def delivery_without_order() -> Iterator[None]:
    """FISCO-BCOS #5167: a committed block is applied without asking whether it is the next one."""

    def deliver_next(s: State) -> None:
        ready = [
            instance
            for instance in s.instances.values()
            if instance.accepted is not None
            and sum(ballot.digest == instance.accepted.digest for ballot in instance.commits.values()) >= s.group.quorum
        ]
        if ready and s.executed == s.head.height and ready[0].accepted is not None:
            accepted = ready[0].accepted
            commits = [ballot.sealed for ballot in ready[0].commits.values() if ballot.digest == accepted.digest]
            proof = certificate.make_certificate(commits)
            state.deliver(s, accepted.block, accepted.encoded, accepted.digest, proof)

    with swapped((normal, "deliver_next", deliver_next)):
        yield


@planted
def checkpoint_names_the_state_alone() -> Iterator[None]:
    """fabric #291: a checkpoint's votes do not name height, epoch and validators that belong to the state."""

    def unbound(self: Group, content: bytes) -> bytes:
        return original(self, certificate.decode_content(content).root)

    original = Group.checkpoint_digest
    with swapped((Group, "checkpoint_digest", unbound)):
        yield


@planted
def no_watermarks() -> Iterator[None]:
    """celo #519, sawtooth-pbft #65: votes are kept for any height, however far away."""
    with swapped((State, "high", property(lambda self: 2**53))):
        yield


@planted
def early_frames_without_bound() -> Iterator[None]:
    """iroha #4944: frames of future views are kept without a bound."""

    def hold(self: State, sender: str, frame: bytes, code: str) -> Refused:
        self.peer(sender).early.append(frame)
        return Refused(state.HELD, "held")

    with swapped((State, "hold_early", hold)):
        yield


@planted
def queue_outlives_the_epoch() -> Iterator[None]:
    """FISCO-BCOS 3.17: what was held in one epoch is used in the next."""

    def enter(s: State, previous: Group | None, following: Group) -> None:
        held, given = dict(s.instances), dict(s.votes)
        original(s, previous, following)
        s.instances |= {height: instance for height, instance in held.items() if height > s.head.height}
        s.votes |= {slot: digest for slot, digest in given.items() if slot[1] > s.head.height}

    original = checkpoints.enter_epoch
    with swapped((checkpoints, "enter_epoch", enter)):
        yield


@planted
def blocks_without_certificate() -> Iterator[None]:
    """FISCO-BCOS FIB-127, CometBFT ASA-2025-001: what a peer sends to one who trails is believed."""
    with swapped((catchup, "verify_certificate", lambda group, block, proof: messages.decode_block(block))):
        yield


@planted
def snapshot_without_check() -> Iterator[None]:
    """CometBFT ASA-2025-002: parts of a snapshot are put together without comparing them with what is certified."""
    unchecked = (transfer, "check_chunk", lambda manifest, index, data: None)
    with swapped(unchecked):
        yield


@planted
def nobody_catches_up() -> Iterator[None]:
    """sawtooth-pbft and others: who missed a message never gets it."""
    with swapped((catchup, "fetch_if_behind", lambda state: None)):
        yield


@planted
def requests_forgotten_by_a_new_view() -> Iterator[None]:
    """fabric #1485: requests in custody are lost with the view in which they were proposed."""
    with swapped((Pool, "give_back", lambda self: None)):
        yield


# ---- what this simulator found in this core; each was mended, and must be found again


@planted
def proposals_below_the_base_of_the_view() -> Iterator[None]:
    """A primary that trails proposes anew at heights below the checkpoint that its own new view starts from."""

    def prepare(s: State, opening: views.Opening, pre_prepares: Sequence[bytes], frame: bytes) -> None:
        original(s, opening, pre_prepares, frame)
        s.base = s.group.start

    original = views.prepare_view
    with swapped((views, "prepare_view", prepare)):
        yield


@planted
def first_epoch_unknown_after_restart() -> Iterator[None]:
    """After a restart in epoch 1 the votes of epoch 0 for its last checkpoint are asked of the wrong epoch."""

    def restore(genesis: Group, key: Key, durable: Durable, timeout_ms: int) -> State:
        restored = original(genesis, key, durable, timeout_ms)
        if durable.previous is None:
            restored.previous = None
        return restored

    original = restart.restore
    with swapped((restart, "restore", restore)):
        yield


@planted
def checkpoint_votes_outlive_their_epoch() -> Iterator[None]:
    """A vote in the name of an ended epoch is counted for a checkpoint of the next, and spoils its proof."""

    def enter(s: State, previous: Group | None, following: Group) -> None:
        held = dict(s.checkpoint_votes)
        original(s, previous, following)
        s.checkpoint_votes |= {height: found for height, found in held.items() if height > following.start}

    original = checkpoints.enter_epoch
    with swapped((checkpoints, "enter_epoch", enter)):
        yield


@planted
def queue_outlives_a_transfer() -> Iterator[None]:
    """Whoever took over a snapshot waits for transactions that the blocks it passed over hold, and if it stands still
    for a moment it blames the primary without asking whether they are still good."""

    def watch(s: State) -> None:
        until = s.patience.until_ms
        original(s)
        if s.patience.nudged and until is not None:
            s.patience.until_ms = until

    original = views._watch
    with swapped((forwarding, "examine_all", lambda s: None), (views, "_watch", watch)):
        yield
