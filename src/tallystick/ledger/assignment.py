"""Who does what, and what is audited: arithmetic on a key, with nothing but integers and SHA-256.

Everything here is keyed with the digest of a block, which nobody knew before that block was proposed, and
happens after the block's last transaction.
"""

from collections.abc import Sequence
from typing import Final

from tallystick.canon.hashing import digest

DEAL: Final = "tallystick/deal"
AUDIT: Final = "tallystick/audit"


def key_of(domain: str, beacon: bytes, task: str, step: int) -> bytes:
    """The key of a deal or a draw; a round has at most one of each in a block."""
    return digest(domain, beacon, bytes.fromhex(task), step.to_bytes(8, "big"))


def ticket(key: bytes, label: bytes) -> bytes:
    """A number that orders `label` among others, the same for everyone who has the key."""
    return digest("tallystick/ticket", key, label)


def deal(key: bytes, weights: Sequence[tuple[str, int]], slots: int) -> list[str]:
    """Deals `slots` slots over workers, in proportion to their weights, and returns the worker of each slot.

    Systematic sampling: workers lie side by side on a line of length `total`, each as long as its weight, in an order
    drawn by ticket; `slots` equally spaced points start from a drawn offset, and a point belongs to the worker it
    falls on. With q = slots * weight / total, a worker so gets floor(q) or ceil(q) slots, and q on average. The
    method of largest remainders has the first property but not the second: with more workers than slots it would
    give the same few workers everything. Which slot goes to whom is then a keyed shuffle.

    >>> sorted(deal(b"key", [("a", 1), ("b", 3)], 8))
    ['a', 'a', 'b', 'b', 'b', 'b', 'b', 'b']
    """
    order = sorted(weights, key=lambda entry: ticket(key, entry[0].encode()))
    total = sum(weight for _, weight in order)
    offset = int.from_bytes(ticket(key, b"offset"), "big") % total  # bias below 2^-190: totals are below 2^62
    dealt, point, reach = [], 0, 0
    for worker, weight in order:
        reach += weight * slots  # the line, scaled by `slots` to stay in integers
        while point < slots and offset + point * total < reach:
            dealt.append(worker)
            point += 1
    return shuffled(key, dealt)


def shuffled(key: bytes, entries: Sequence[str]) -> list[str]:
    """Entries in the order of the tickets of their positions."""
    order = sorted(range(len(entries)), key=lambda position: ticket(key, position.to_bytes(8, "big")))
    return [entries[position] for position in order]


def sample(key: bytes, candidates: Sequence[int], permille: int) -> list[int]:
    """Draws `permille` of the candidates, rounded up so that a draw is never empty, in ascending order."""
    count = -(-len(candidates) * permille // 1000)
    return sorted(sorted(candidates, key=lambda index: ticket(key, index.to_bytes(8, "big")))[:count])
