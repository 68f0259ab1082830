"""Keys, hand-made messages and an instant network for tests of the PBFT state machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tallystick.canon.identity import Key
from tallystick.consensus.pbft.certificate import make_certificate
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import (
    BlocksRead,
    Broadcast,
    Deliver,
    Durable,
    Effect,
    Event,
    Examine,
    Examined,
    Executed,
    Persist,
    ReadBlocks,
    Received,
    Send,
    Tick,
)
from tallystick.consensus.pbft.messages import (
    Block,
    Commit,
    Message,
    OnChannel,
    Prepare,
    PrePrepare,
    Proposal,
    encode_block,
    open_message,
    seal_message,
)
from tallystick.consensus.pbft.replica import Replica

NOW_MS = 1_700_000_000_000
KEYS = [Key.from_seed(bytes([i]) * 32) for i in range(10)]
STRANGER = Key.from_seed(b"s" * 32)


def group_of(n: int, chain: str = "test", epoch: int = 0) -> Group:
    return Group(chain, tuple(key.identity for key in KEYS[:n]), epoch)


FOUR = group_of(4)


def block_on(group: Group, head: bytes | None = None, **changes: object) -> bytes:
    """An encoded first block (or child of `head`) by validator 0, with `changes` to its fields."""
    block = Block(1, head or group.genesis, NOW_MS, group.validators[0], [b"transaction"])
    return encode_block(replace_fields(block, changes))


def replace_fields(block: Block, changes: dict[str, object]) -> Block:
    fields = {name: getattr(block, name) for name in block.__struct_fields__}
    return Block(**(fields | changes))


def proposal(group: Group, key: Key, block: bytes, *, view: int = 0, height: int = 1, digest: bytes = b"") -> bytes:
    vote = PrePrepare(group.epoch, view, height, digest or group.block_digest(block))
    sealed = seal_message(key, group, vote)
    return seal_message(key, group, Proposal(group.epoch, sealed, block))


def prepare(group: Group, key: Key, digest: bytes, *, view: int = 0, height: int = 1) -> bytes:
    return seal_message(key, group, Prepare(group.epoch, view, height, digest))


def commit(group: Group, key: Key, digest: bytes, *, view: int = 0, height: int = 1) -> bytes:
    return seal_message(key, group, Commit(group.epoch, view, height, digest))


def certify(group: Group, block: bytes, keys: Sequence[Key], *, view: int = 0, height: int = 1) -> bytes:
    digest = group.block_digest(block)
    return make_certificate(commit(group, key, digest, view=view, height=height) for key in keys)


def chain_of(group: Group, length: int) -> list[tuple[bytes, bytes]]:
    """`length` certified blocks from genesis."""
    pairs: list[tuple[bytes, bytes]] = []
    parent = group.genesis
    for height in range(1, length + 1):
        block = block_on(group, parent, height=height, transactions=[b"transaction %d" % height])
        pairs.append((block, certify(group, block, KEYS[: group.quorum], height=height)))
        parent = group.block_digest(block)
    return pairs


@dataclass
class Node:
    """A replica with the smallest shell that keeps the contract; everything it did is in `effects`."""

    replica: Replica
    key: Key
    blocks: list[tuple[bytes, bytes]] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    elapsed_ms: int = 0
    deadline_ms: int | None = None

    def step(self, event: Event) -> list[Effect]:
        """Steps, answers what asks for an answer, and returns all effects in order."""
        effects = self.replica.step(event)
        self.effects += effects
        answers: list[Event] = []
        for effect in effects:
            match effect:
                case Deliver():
                    self.blocks.append((effect.encoded, effect.block.certificate))
                case Examine():
                    answers.append(Examined(effect.transactions, (), effect.again))
                case ReadBlocks():
                    pairs = tuple(self.blocks[effect.first - 1 : effect.last])
                    answers.append(BlocksRead(effect.peer, pairs))
        if any(isinstance(effect, Deliver) for effect in effects):
            answers.insert(0, Executed(self.replica.height, self.deadline_ms))
        for answer in answers:
            effects = effects + self.step(answer)
        return effects

    def tick(self, later_ms: int = 0, now_ms: int = NOW_MS) -> list[Effect]:
        self.elapsed_ms += later_ms
        return self.step(Tick(now_ms, self.elapsed_ms))

    def receive(self, sender: Key, frame: bytes) -> list[Effect]:
        return self.step(Received(sender.identity, frame))

    def refusals(self, sender: Key, frame: bytes) -> dict[str, int]:
        """What is newly counted when `frame` comes in."""
        before = dict(self.replica.rejections)
        self.receive(sender, frame)
        return {c: n - before.get(c, 0) for c, n in self.replica.rejections.items() if n != before.get(c, 0)}


def node(group: Group, index: int, durable: Durable | None = None) -> Node:
    """Validator `index`, after its first tick."""
    durable = durable or Durable()
    made = Node(Replica(group, KEYS[index], durable), KEYS[index], deadline_ms=durable.deadline_ms)
    made.tick()
    made.effects.clear()
    return made


def spoken(group: Group, effects: Sequence[Effect]) -> list[OnChannel]:
    """The messages that leave with `effects`."""
    return [open_message(group, e.frame)[1] for e in effects if isinstance(e, Send | Broadcast)]


def said(group: Group, effects: Sequence[Effect], kind: type[Message]) -> list[Message]:
    return [message for message in spoken(group, effects) if isinstance(message, kind)]


def saved(effects: Sequence[Effect]) -> Durable:
    """What the disk holds after `effects` on an empty one."""
    durable = Durable()
    for effect in effects:
        if isinstance(effect, Persist):
            durable = replace(durable, votes=(*durable.votes, effect.record))
        elif isinstance(effect, Deliver):
            block = effect.block
            votes = tuple(vote for vote in durable.votes if vote.height > block.height)
            durable = Durable(block.height, block.digest, block.time_ms, None, votes)
    return durable


def settle(nodes: Sequence[Node], effects: Sequence[tuple[Node, Effect]]) -> None:
    """Delivers every frame at once, in order, until nobody has anything to say."""
    queue = list(effects)
    while queue:
        source, effect = queue.pop(0)
        if not isinstance(effect, Send | Broadcast):
            continue
        for target in nodes:
            if target is source or (isinstance(effect, Send) and target.key.identity != effect.peer):
                continue
            answers = target.receive(source.key, effect.frame)
            queue += [(target, answer) for answer in [*answers, *target.tick()]]
