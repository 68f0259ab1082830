"""What must hold, whatever happens: sixteen invariants, numbered as in docs/simulation.md.

Each is checked at the event that could break it. 13 is about the end of a run (`run`), 16 about two runs of one
seed (the tests). The watch knows everything that honest nodes do, and nothing that faulty ones say enters it.
"""

from typing import TYPE_CHECKING, Final

import msgspec

from tallystick.canon import votes
from tallystick.canon.encoding import from_bytes
from tallystick.canon.quorum import faults
from tallystick.canon.votes import Commit, Vote, open_vote
from tallystick.consensus.pbft import limits
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import (
    EpochRecord,
    Phase,
    Received,
    Record,
    Restore,
    ViewRecord,
    VoteRecord,
)
from tallystick.consensus.pbft.limits import TRANSFER_GAP
from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused
from tallystick.lab.consensus.disk import Row
from tallystick.lab.consensus.frames import opened, tag_of
from tallystick.lab.consensus.replicated import NOTHING_NEW, Reply
from tallystick.lab.consensus.signatures import EARLY_FRAMES
from tallystick.lab.consensus.transcript import describe_frame, describe_record
from tallystick.lab.consensus.world import Violation

if TYPE_CHECKING:
    from tallystick.lab.consensus.clients import Client
    from tallystick.lab.consensus.cluster import Cluster
    from tallystick.lab.consensus.node import Node

_PHASES: Final = {"PrePrepare": Phase.PRE_PREPARE, "Prepare": Phase.PREPARE, "Commit": Phase.COMMIT}
_SEALED: Final = msgspec.msgpack.Decoder(list[bytes])
LOOK_EVERY: Final = 16
"""Batches of work of one node between two looks at its memory; in one seed of `CLOSE_LOOKS` each batch has one."""
CLOSE_LOOKS: Final = 4
ROTATIONS: Final = 2
"""How often each validator may be primary and be replaced while a request of an honest client waits."""


class Watch:
    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster
        self.chain: dict[int, bytes] = {}
        """Digest of the chain up to each height, as the first honest node delivered it."""
        self.names: dict[int, bytes] = {}
        """Digest of the block alone."""
        self.log: dict[tuple[str, int], str] = {}
        """What executing the chain answers to each request."""
        self.histories: dict[int, bytes] = {}
        self.roots: dict[int, bytes] = {}
        self.groups: dict[int, Group] = {}
        self.accusations: set[str] = set()
        self.views_opened = 0
        self.replaced: set[tuple[int, int]] = set()
        """Epochs and views that an honest node has entered after giving up the primary before."""
        self.healed = False
        """Whether everything works, but for faulty nodes: waiting is measured from then on."""
        self.epochs = 0
        self.transfers = 0
        self.mutes = 0
        self._said: dict[tuple[str, tuple[str, int, int, int]], bytes] = {}
        """What each honest validator has voted for in each slot."""
        self._stood: dict[tuple[int, int], dict[bytes, int]] = {}
        """By epoch and height: the highest view in which an honest validator voted for a digest."""
        self._committed: dict[tuple[int, int], tuple[int, bytes]] = {}
        """By epoch and height: the lowest view whose certificate an honest node has, and what it names."""
        self._certificates: set[bytes] = set()
        self._marks: dict[int, tuple[int, int, int, int]] = {}
        """By node: epoch, view, low watermark and height when all of a batch's work was last on disk."""
        self._live: dict[int, tuple[int, int, int, int]] = {}
        """The same after the last event; what was not on disk yet is lost with the life."""
        self._seen: dict[int, set[bytes]] = {}
        self._leaving: dict[int, dict[str, tuple[int, int]]] = {}
        """By node: for which epoch and view each peer has told it that it leaves."""
        self._looks: dict[int, int] = {}
        self._look_every = 1 if cluster.plan.seed % CLOSE_LOOKS == 0 else LOOK_EVERY

    # ---- what the nodes report

    def started(self, node: "Node") -> None:
        self._seen[node.index] = set()
        self._leaving[node.index] = {}
        if node.honest:
            marks = self._9_nothing_goes_back(node, self._marks.get(node.index))
            self._marks[node.index] = self._live[node.index] = marks

    def told_to_leave(self, node: "Node", peer: str, frame: bytes) -> None:
        try:
            epoch, view = opened(frame)[1:3]
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            return  # noise
        leaving = self._leaving[node.index]
        leaving[peer] = max(leaving.get(peer, (0, 0)), (epoch, view))

    def forgot(self, node: "Node") -> None:
        """Its disk is gone: it starts again from nothing, but must never contradict what it said before."""
        self._marks.pop(node.index, None)
        self.mutes += 1

    def persisting(self, node: "Node", record: Record) -> None:
        match record:
            case VoteRecord():
                before = node.disk.votes.get((record.epoch, record.view, record.height, record.phase), record)
                if node.honest and before.digest != record.digest:
                    raise Violation(7, f"{node.name} would vote twice, differently: {describe_record(record)}")
            case EpochRecord():
                self.epochs = max(self.epochs, record.epoch)
            case ViewRecord():
                self.views_opened += bool(record.new_view)
                if node.honest and record.new_view:
                    self.replaced.add((record.epoch, record.view))
                if node.honest and not record.new_view:
                    self._13_f_alone_move_nobody(node, record)
        if self.cluster.world.story is not None:
            self.cluster.world.tell(node.name, f"  persists {describe_record(record)}")

    def sent(self, node: "Node", frame: bytes) -> None:
        """A frame leaves an honest node."""
        seen = self._seen[node.index]
        if frame in seen:
            return
        if len(seen) > 512:
            seen.clear()
        seen.add(frame)
        chain = self.cluster.genesis.chain
        match tag_of(frame):
            case "prepare" | "commit" | "checkpoint":
                self._vote_left(node, *open_vote(chain, frame))
            case "proposal":
                self._vote_left(node, *open_vote(chain, opened(frame)[2]))
            case "new_view":
                self._new_view_left(node, frame)

    def _new_view_left(self, node: "Node", frame: bytes) -> None:
        """Its pre-prepares are on disk if the whole is. Another's new view may be passed on."""
        for sealed in opened(frame)[-1]:
            sender, vote = open_vote(self.cluster.genesis.chain, sealed)
            if sender == node.key.identity:
                self._7_one_vote(node, vote)
                self._6_prepared_survives(vote)
                if frame not in node.disk.ever:
                    raise Violation(7, f"{node.name} opens a view before that is on disk")

    def _vote_left(self, node: "Node", sender: str, vote: Vote) -> None:
        assert sender == node.key.identity
        self._7_one_vote(node, vote)
        self._7_on_disk_before_it_leaves(node, vote)
        self._9_between_the_watermarks(node, vote)
        self._6_prepared_survives(vote)

    def delivering(self, node: "Node", row: Row) -> None:
        if self.cluster.world.story is not None:
            block = row.block
            told = f"  delivers {block.height} {block.digest.hex()[:6]}, {len(block.transactions)} requests"
            self.cluster.world.tell(node.name, told + (", a checkpoint" if row.checkpoint else ""))
        if not node.honest:
            return
        self._4_order(node, row.block.height)
        self._1_agreement(node, row.block.height, row.block.digest, row.named)
        self._5_certificate(node, row)

    def executed(self, node: "Node", block: CommittedBlock, replies: list[Reply]) -> None:
        if not node.honest:
            return
        if block.height not in self.histories:
            self._2_validity(node, block)
            self._3_exactly_once(block, replies)
            self.cluster.world.trace(block.digest)
        self._8_same_state(node, block.height)
        if self.cluster.genesis.is_checkpoint(block.height):
            self._15_ledger(node)

    def restored(self, node: "Node", restore: Restore) -> None:
        self.transfers += 1
        if self.cluster.world.story is not None:
            self.cluster.world.tell(node.name, f"  takes the snapshot of {restore.head.height}")
        if node.honest:
            self._1_agreement(node, restore.head.height, restore.head.digest, None)
            self._8_same_state(node, restore.head.height)
            self._15_ledger(node)

    def stepped(self, node: "Node") -> None:
        """An event has changed something in a node."""
        if node.honest:
            self._live[node.index] = self._9_nothing_goes_back(node, self._live.get(node.index))

    def settled(self, node: "Node") -> None:
        """A node has finished a batch of work, and it is on disk."""
        if not node.honest:
            return
        self._marks[node.index] = self._live[node.index]
        looks = self._looks.get(node.index, 0)
        self._looks[node.index] = looks + 1
        if looks % self._look_every == 0:
            self._10_bounded(node)

    def regrouped(self, node: "Node", group: Group) -> None:
        if node.honest:
            self._1_one_group_in_an_epoch(node, group)

    def accused(self, node: "Node", culprit: str, first: bytes, second: bytes) -> None:
        self.accusations.add(culprit)
        if node.honest:
            self._12_accountability(node, culprit, first, second)

    def accepted(self, client: "Client", reply: Reply) -> None:
        self._11_replies(client, reply)
        self._14_fairness(client)

    def halted(self, node: "Node", reason: str) -> None:
        self.cluster.world.tell(node.name, f"HALTS: {reason}")
        if node.honest:
            raise Violation(8, f"{node.name}, which is honest, halts: {reason}")

    def heard(self, source: "Node", target: "Node", frame: bytes) -> None:
        """For the story alone."""
        self.cluster.world.tell(target.name, f"<- {source.index} {describe_frame(self.cluster, frame)}")

    # ---- the invariants

    def _1_agreement(self, node: "Node", height: int, digest: bytes, named: bytes | None) -> None:
        if self.chain.setdefault(height, digest) != digest:
            raise Violation(1, f"fork at height {height}: {node.name} delivers another block than a node before it")
        if named is not None:
            self.names.setdefault(height, named)

    def _1_one_group_in_an_epoch(self, node: "Node", group: Group) -> None:
        if self.groups.setdefault(group.epoch, group) != group:
            raise Violation(1, f"{node.name} is in epoch {group.epoch} with others than the nodes before it")

    def _2_validity(self, node: "Node", block: CommittedBlock) -> None:
        for transaction in block.transactions:
            try:
                node.app.check(transaction)
            except Refused as refused:
                raise Violation(2, f"block {block.height} holds what no client signed: {refused.code}") from refused

    def _3_exactly_once(self, block: CommittedBlock, replies: list[Reply]) -> None:
        """The application answers a repeated request from its cache; what must never come twice is a block of them."""
        for reply in replies:
            slot = (reply.client, reply.number)
            if reply.result not in NOTHING_NEW and self.log.setdefault(slot, reply.result) != reply.result:
                raise Violation(3, f"request {reply.number} of {reply.client[:12]} is executed again at {block.height}")

    def _4_order(self, node: "Node", height: int) -> None:
        if height != node.app.height + 1:
            raise Violation(4, f"{node.name} delivers {height} after {node.app.height}")

    def _5_certificate(self, node: "Node", row: Row) -> None:
        """Checked here by counting, not by the engine's own function, which may share its mistake."""
        certificate, height = row.block.certificate, row.block.height
        sealed = from_bytes(certificate, _SEALED, limit=1 << 20, what="certificate")
        opened_votes = [open_vote(self.cluster.genesis.chain, vote) for vote in sealed]
        epochs = {vote.epoch for _, vote in opened_votes}
        views = {vote.view for _, vote in opened_votes if isinstance(vote, Commit)}
        if len(epochs) != 1 or len(views) != 1:
            raise Violation(
                5, f"the certificate of {height} at {node.name} is of {len(epochs)} epochs, {len(views)} views"
            )
        epoch, view = epochs.pop(), views.pop()
        group = self.groups.get(epoch)
        if group is None:
            raise Violation(5, f"the certificate of {height} at {node.name} is of epoch {epoch}, which has not begun")
        if any(not isinstance(v, Commit) or (v.height, v.digest) != (height, row.named) for _, v in opened_votes):
            raise Violation(5, f"the certificate of {height} at {node.name} holds other votes than commits of it")
        signers, n = {sender for sender, _ in opened_votes}, len(group.validators)
        if signers - set(group.validators):
            raise Violation(5, f"the certificate of {height} at {node.name} is signed by strangers")
        if 2 * len(signers) - n <= faults(n) or height <= group.start:
            raise Violation(
                5, f"{len(signers)} of {n} certify {height} at {node.name}: two such sets may share no honest one"
            )
        self._6_committed(epoch, view, height, row.named)

    def _6_committed(self, epoch: int, view: int, height: int, named: bytes) -> None:
        lowest, _ = self._committed.get((epoch, height), (view + 1, b""))
        if view < lowest:
            self._committed[epoch, height] = (view, named)
            for digest, highest in self._stood.get((epoch, height), {}).items():
                if digest != named and highest > view:
                    raise Violation(
                        6, f"height {height} is committed in view {view}, and another voted for in {highest}"
                    )

    def _6_prepared_survives(self, vote: Vote) -> None:
        """What is committed in a view is all that an honest validator votes for at that height in later views."""
        if isinstance(vote, votes.Checkpoint):
            return
        place = (vote.epoch, vote.height)
        stood = self._stood.setdefault(place, {})
        stood[vote.digest] = max(vote.view, stood.get(vote.digest, 0))
        view, named = self._committed.get(place, (vote.view + 1, b""))
        later = vote.view > view or (vote.view == view and isinstance(vote, Commit))
        if later and vote.digest != named:
            raise Violation(6, f"a vote for another block at {vote.height} in view {vote.view}; view {view} decided")

    def _7_one_vote(self, node: "Node", vote: Vote) -> None:
        slot = votes.slot(vote)
        if self._said.setdefault((node.key.identity, slot), vote.digest) != vote.digest:
            raise Violation(7, f"{node.name} votes twice, differently: {slot}")

    def _7_on_disk_before_it_leaves(self, node: "Node", vote: Vote) -> None:
        phase = _PHASES.get(type(vote).__name__)
        if phase is None or isinstance(vote, votes.Checkpoint):
            return
        if (vote.epoch, vote.view, vote.height, phase) not in node.disk.ever:
            raise Violation(7, f"{node.name}: {phase} of {vote.height} in view {vote.view} leaves before it is on disk")

    def _8_same_state(self, node: "Node", height: int) -> None:
        if self.histories.setdefault(height, node.app.history) != node.app.history:
            raise Violation(8, f"{node.name} has another state at {height} than a node before it")
        if self.cluster.genesis.is_checkpoint(height):
            snapshot = node.app.snapshot()
            if self.roots.setdefault(height, snapshot) != snapshot:
                raise Violation(8, f"{node.name} has another snapshot at {height} than a node before it")

    def _9_nothing_goes_back(self, node: "Node", before: tuple[int, int, int, int] | None) -> tuple[int, int, int, int]:
        """Returns where the node stands."""
        replica = node.replica
        assert replica is not None
        epoch, view, low, height = marks = (replica.epoch, replica.view, replica.low, replica.height)
        if low > height:
            raise Violation(9, f"{node.name} is at {height}, below its low watermark {low}")
        if before is not None and ((epoch, view) < before[:2] or low < before[2] or height < before[3]):
            raise Violation(9, f"{node.name} went back: epoch, view, low mark, height were {before} and are {marks}")
        return marks

    def _9_between_the_watermarks(self, node: "Node", vote: Vote) -> None:
        """A node that dies while it sends has no marks any more; those that it had are in the next life's."""
        if isinstance(vote, votes.Checkpoint):
            return  # who catches up by blocks executes to checkpoints before it hears that they are stable
        if node.replica is not None and vote.height > node.replica.high:
            raise Violation(9, f"{node.name} votes at {vote.height}, above its high watermark {node.replica.high}")

    def _10_bounded(self, node: "Node") -> None:
        replica = node.replica
        assert replica is not None
        members = 2 * max(len(group.validators) for group in self.groups.values())
        load = replica.load
        for what, bound in bounds(members, load["peers"], self.cluster.genesis.span).items():
            if load[what] > bound:
                raise Violation(10, f"{node.name} holds {load[what]} {what}, more than {bound}")

    def _11_replies(self, client: "Client", reply: Reply) -> None:
        truth = self.log.get((reply.client, reply.number))
        if truth != reply.result:
            raise Violation(
                11, f"a client believes {reply.result!r} of its request {reply.number}; the log says {truth!r}"
            )

    def _12_accountability(self, node: "Node", culprit: str, first: bytes, second: bytes) -> None:
        try:
            named, _ = votes.culprit(self.cluster.genesis.chain, first, second)
        except Refused as refused:
            raise Violation(
                12, f"{node.name} accuses {culprit[:12]} with what proves nothing: {refused.code}"
            ) from refused
        if named != culprit or any(self.cluster.nodes[i].honest for i in self.cluster.indices.get(culprit, ())):
            raise Violation(12, f"{node.name} accuses {culprit[:12]}, which is honest")

    def _13_f_alone_move_nobody(self, node: "Node", record: ViewRecord) -> None:
        """Who leaves a view because of a message, and not for lost patience, follows f + 1 others or more."""
        if not isinstance(node.cause, Received):
            return
        leaving = self._leaving[node.index]
        others = sum(place >= (record.epoch, record.view) for place in leaving.values())
        if others <= faults(len(node.groups[0].validators)):
            raise Violation(13, f"{node.name} leaves for view {record.view} because {others} others did")

    def _14_fairness(self, client: "Client") -> None:
        replaced = len(self.replaced) - client.replaced_before
        if self.healed and replaced > ROTATIONS * self.cluster.plan.n:
            raise Violation(14, f"{replaced} primaries were replaced while request {client.number} waited")

    def _15_ledger(self, node: "Node") -> None:
        if wrong := node.app.miscounted():
            raise Violation(15, f"{node.name}: {wrong}")


def bounds(members: int, peers: int, span: int) -> dict[str, int]:
    """What a replica may hold, by the names of `Replica.load`, if the last two epochs have that many members.

    One that catches up by blocks may be further from its last stable checkpoint than one that votes.
    """
    early = peers * EARLY_FRAMES
    return {
        "instances": span,
        "votes": 3 * members * span,
        "settled": 4 * span,
        "certified": span + TRANSFER_GAP * span + limits.MAX_BLOCKS_PER_ANSWER,
        "checkpoint_votes": (3 + TRANSFER_GAP) * members,
        "view_changes": members,
        "peers": members,
        "guests": limits.MAX_GUESTS,
        "early": early,
        "early_bytes": peers * limits.MAX_EARLY_BYTES,
        "forwarded": members * limits.MAX_FORWARDED,
        "forwarded_bytes": members * limits.MAX_FORWARDED_BYTES,
        "demands": (members + limits.MAX_GUESTS) * limits.MAX_DEMANDS,
        "replay": members * EARLY_FRAMES,
        "inbound": limits.MAX_BLOCKS_PER_ANSWER,
        "pool": limits.MAX_POOL_TRANSACTIONS,
        "pool_bytes": limits.MAX_POOL_BYTES,
        "unshared": limits.MAX_POOL_TRANSACTIONS,
        "accused": members * limits.MAX_EVIDENCE,
    }
