"""Faulty validators: up to f of them, each doing one of these things to every frame that it sends.

Most are the honest program with its frames changed on their way out and signed anew, so that they stay in step with the
others and their lies are about something (ByzzFuzz, OOPSLA 2023). `twin` is the honest program running twice under one
key (Twins, OPODIS 2021): equivocation, double votes and amnesia without a line written for them.
"""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from tallystick.canon.sealed import HEADER_BYTES, seal
from tallystick.canon.votes import Checkpoint, Commit, Prepare, PrePrepare, open_vote, vote_domain
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.messages import Proposal, decode_block, encode_block, null_block, seal_message
from tallystick.lab.consensus.frames import opened, resealed, tag_of
from tallystick.lab.consensus.mutation import Mutator

if TYPE_CHECKING:
    from tallystick.lab.consensus.node import Node

Tamper = Callable[["Node", int, bytes], list[tuple[int, bytes]]]
"""What becomes of a frame on its way to one peer: frames with delays."""


# ---- changed frames


def mutant(random: Random) -> Tamper:
    return Mutator(random, random.choice((0.05, 0.3, 0.8)))


def false_certificates(random: Random) -> Tamper:
    return Mutator(random, 0.9, frozenset({"view_change", "new_view", "blocks", "checkpoints"}))


class FalseCheckpoints:
    """Votes for what nobody executed to, and proofs of checkpoints in which one thing is not what was voted for."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._votes = Mutator(random, 0.9, frozenset({"checkpoint"}))

    def __call__(self, node: "Node", target: int, frame: bytes) -> list[tuple[int, bytes]]:
        if tag_of(frame) == "checkpoint" and self._random.random() < 0.4:
            tag, epoch, *rest = opened(frame)
            return [(0, resealed(node, [tag, max(0, epoch - 1), *rest]))]
        if tag_of(frame) != "checkpoints":
            return self._votes(node, target, frame)
        tag, epoch, proofs = opened(frame)
        return [(0, resealed(node, [tag, epoch, [self._changed(node, proof) for proof in proofs]]))]

    def _changed(self, node: "Node", proof: bytes) -> bytes:
        content, votes = msgspec.msgpack.decode(proof)
        fields = msgspec.msgpack.decode(content)
        place = self._random.randrange(len(fields))
        match fields[place]:
            case int(number):
                fields[place] = number + 1
            case bytes():
                fields[place] = self._random.randbytes(32)
            case list(validators):
                fields[place] = [node.key.identity, *validators[1:]]
        return msgspec.msgpack.encode([msgspec.msgpack.encode(fields), votes])


class Poisoner:
    """Spoils what others fetch from it, so that it still looks like what they asked for."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, node: "Node", target: int, frame: bytes) -> list[tuple[int, bytes]]:
        tag = tag_of(frame)
        if tag not in {"blocks", "body", "chunk"} or self._random.random() < 0.2:
            return [(0, frame)]
        fields = opened(frame)
        if tag == "blocks":
            fields[2] = [[self._later(block), certificate] for block, certificate in fields[2]]
        elif tag == "body":
            fields[2] = self._later(fields[2])
        else:
            fields[-1] = bytes(reversed(fields[-1]))
        return [(0, resealed(node, fields))]

    def _later(self, encoded: bytes) -> bytes:
        block = decode_block(encoded)
        return encode_block(msgspec.structs.replace(block, time_ms=block.time_ms + 1, transactions=[]))


# ---- bad primaries and bad voters


class Equivocator:
    """As primary it proposes one block to some and another to the rest; as a voter it votes for what each has seen."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._other: dict[bytes, bytes] = {}
        """The digest of the second block, by that of the first."""
        self._blocks: dict[bytes, bytes] = {}
        self._side = random.randrange(2)

    def __call__(self, node: "Node", target: int, frame: bytes) -> list[tuple[int, bytes]]:
        tag = tag_of(frame)
        group = node.groups[0]
        if tag == "proposal":
            self._prepare_second(group, frame)
        if target % 2 == self._side or tag not in {"proposal", "prepare", "commit"}:
            return [(0, frame)]
        return [(0, self._second(node, group, tag, frame))]

    def _prepare_second(self, group: Group, frame: bytes) -> None:
        _, _, pre_prepare, encoded = opened(frame)
        digest = open_vote(group.chain, pre_prepare)[1].digest
        if digest in self._other:
            return
        block = decode_block(encoded)
        second = encode_block(msgspec.structs.replace(block, time_ms=block.time_ms + 1))
        self._other[digest] = group.block_digest(second)
        self._blocks[digest] = second

    def _second(self, node: "Node", group: Group, tag: str, frame: bytes) -> bytes:
        if tag == "proposal":
            _, epoch, pre_prepare, _ = opened(frame)
            vote = open_vote(group.chain, pre_prepare)[1]
            assert isinstance(vote, PrePrepare)
            lie = seal_message(node.key, group, msgspec.structs.replace(vote, digest=self._other[vote.digest]))
            return seal_message(node.key, group, Proposal(epoch, lie, self._blocks[vote.digest]))
        vote = open_vote(group.chain, frame)[1]
        assert isinstance(vote, Prepare | Commit)
        if vote.digest not in self._other:
            return frame
        return seal_message(node.key, group, msgspec.structs.replace(vote, digest=self._other[vote.digest]))


class Silent:
    """Says nothing of some kinds."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds

    def __call__(self, node: "Node", target: int, frame: bytes) -> list[tuple[int, bytes]]:
        return [] if not self._kinds or tag_of(frame) in self._kinds else [(0, frame)]


def silent(random: Random) -> Tamper:
    return Silent(
        random.choice(
            (frozenset(), frozenset({"proposal"}), frozenset({"proposal", "new_view"}), frozenset({"commit"}))
        )
    )


class Slow:
    """Does everything just before others lose patience."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds

    def __call__(self, node: "Node", target: int, frame: bytes) -> list[tuple[int, bytes]]:
        if tag_of(frame) not in self._kinds:
            return [(0, frame)]
        return [(node.cluster.plan.timeout_ms * 9 // 10, frame)]


def slow(random: Random) -> Tamper:
    return Slow(
        random.choice((frozenset({"proposal"}), frozenset({"proposal", "prepare", "commit"}), frozenset({"new_view"})))
    )


class Selective:
    """Talks with a bare quorum and leaves the others in the dark, now these, now those."""

    def __init__(self, random: Random) -> None:
        self._salt = random.randrange(1_000)
        self._kinds = random.choice((frozenset({"proposal"}), frozenset({"proposal", "prepare", "commit", "new_view"})))

    def __call__(self, node: "Node", target: int, frame: bytes) -> list[tuple[int, bytes]]:
        if tag_of(frame) not in self._kinds:
            return [(0, frame)]
        group = node.groups[0]
        others = [i for v in group.validators if v != node.key.identity for i in node.cluster.indices[v]]
        turn = (self._salt + node.cluster.world.now // 2_000) % len(others)
        chosen = (others[turn:] + others[:turn])[: group.quorum - 1]
        return [(0, frame)] if target in chosen else []


class FarAhead:
    """Votes for heights and views that are far away, many of them, to fill the memory of others."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, node: "Node", target: int, frame: bytes) -> list[tuple[int, bytes]]:
        if (
            tag_of(frame) not in {"prepare", "commit", "checkpoint", "status", "view_change"}
            or self._random.random() > 0.2
        ):
            return [(0, frame)]
        fields = opened(frame)
        lies = []
        for _ in range(24):
            changed = list(fields)
            changed[2] += self._random.choice((0, 1, 5, 1_000, 2**50))
            if isinstance(changed[3], int) and not isinstance(changed[3], bool):
                changed[3] += self._random.choice((0, 1, 2, 3, 10, 1_000, 2**50))
            changed[1] += self._random.choice((0, 0, 0, 1, 7, 2**50))
            lies.append((0, resealed(node, changed)))
        return [(0, frame), *lies]


class Forger:
    """Shows votes of others as if they were for another height or view: their signatures must not hold for that."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, node: "Node", target: int, frame: bytes) -> list[tuple[int, bytes]]:
        if tag_of(frame) != "view_change":
            return [(0, frame)]
        fields = opened(frame)
        claims = fields[-1]
        if not claims:
            return [(0, frame)]
        field = self._random.choice(("height", "view"))
        by = self._random.choice((1, 1, 2))
        forged = [self._moved(claim, field, by) for claim in claims]
        return [(0, resealed(node, [*fields[:-1], forged]))]

    def _moved(self, claim: list[Any], field: str, by: int) -> list[Any]:
        height, view, digest, votes = claim
        if field == "height":
            return [height + by, view, digest, [self._revote(vote, 3, by) for vote in votes]]
        return [height, view + by, digest, [self._revote(vote, 2, by) for vote in votes]]

    def _revote(self, vote: bytes, place: int, by: int) -> bytes:
        fields = opened(vote)
        fields[place] += by
        return vote[:HEADER_BYTES] + msgspec.msgpack.encode(fields)


class Usurper:
    """As primary of a new view it does not propose what follows from the view changes, but nothing, or null blocks."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, node: "Node", target: int, frame: bytes) -> list[tuple[int, bytes]]:
        if tag_of(frame) != "new_view":
            return [(0, frame)]
        group = node.groups[0]
        *fields, pre_prepares = opened(frame)
        listed = [open_vote(group.chain, sealed)[1] for sealed in pre_prepares]
        kept = listed if self._random.random() < 0.5 else listed[:-1]
        null = [
            msgspec.structs.replace(vote, digest=group.block_digest(null_block(vote.height)))
            for vote in kept
            if not isinstance(vote, Checkpoint)
        ]
        return [(0, resealed(node, [*fields, [seal_message(node.key, group, vote) for vote in null]]))]


class Inventor:
    """As primary it puts a request into its blocks that no client signed."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, node: "Node", target: int, frame: bytes) -> list[tuple[int, bytes]]:
        if tag_of(frame) != "proposal":
            return [(0, frame)]
        group = node.groups[0]
        _, epoch, pre_prepare, encoded = opened(frame)
        vote, block = open_vote(group.chain, pre_prepare)[1], decode_block(encoded)
        if not block.transactions:
            return [(0, frame)]
        forged = bytearray(block.transactions[0])
        forged[40] ^= 1
        second = encode_block(msgspec.structs.replace(block, transactions=[bytes(forged), *block.transactions[1:]]))
        lie = seal_message(node.key, group, msgspec.structs.replace(vote, digest=group.block_digest(second)))
        return [(0, seal_message(node.key, group, Proposal(epoch, lie, second)))]


class Babbler:
    """Sends bytes that are no messages, and other nodes' messages as its own."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._heard: list[bytes] = []

    def __call__(self, node: "Node", target: int, frame: bytes) -> list[tuple[int, bytes]]:
        random = self._random
        if random.random() > 0.2:
            return [(0, frame)]
        match random.randrange(5):
            case 0:
                noise = random.randbytes(random.choice((1, 50, 97, 400)))
            case 1:
                noise = frame[: random.randrange(len(frame))]
            case 2:
                noise = frame + b"\0"
            case 3:
                noise = seal(node.key, vote_domain(node.cluster.genesis.chain), random.randbytes(40))
            case _:
                noise = seal(node.key, vote_domain("another"), frame[HEADER_BYTES:])
        return [(0, frame), (0, noise)]


ATTACKS: dict[str, Callable[[Random], Tamper | None]] = {
    "mutant": mutant,
    "equivocator": Equivocator,
    "silent": silent,
    "slow": slow,
    "selective": Selective,
    "false_certificates": false_certificates,
    "false_checkpoints": FalseCheckpoints,
    "poisoner": Poisoner,
    "forger": Forger,
    "inventor": Inventor,
    "usurper": Usurper,
    "far_ahead": FarAhead,
    "babbler": Babbler,
    # What these do is not in their frames: see `cluster`.
    "twin": lambda random: None,
    "hasty": lambda random: None,
    "liar": lambda random: None,
    "censor": lambda random: None,
    "amnesiac": lambda random: None,
}
