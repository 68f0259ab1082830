"""Who takes part in one epoch, how many of them make a quorum, and when the next epoch begins."""

import functools
from dataclasses import dataclass

from tallystick.canon.hashing import digest
from tallystick.canon.identity import parse_identity
from tallystick.canon.quorum import faults, quorum
from tallystick.consensus.pbft.limits import MAX_INTERVAL, MAX_VALIDATORS
from tallystick.errors import Refused


@dataclass(frozen=True)
class Parameters:
    """What all validators of a chain must share to agree on what is valid; fixed at genesis."""

    interval: int = 32
    """Heights between two checkpoints, K in the paper. The log holds at most twice as many."""
    epoch_length: int = 256
    """Heights after which an epoch ends even if its validators stay: the primary changes with it."""
    window: int = 8
    """Most heights that a primary works on at a time."""

    def __post_init__(self) -> None:
        fits = 1 <= self.window <= self.interval <= min(self.epoch_length, MAX_INTERVAL)
        if not fits or self.epoch_length % self.interval:
            reason = f"need 1 <= window <= interval <= {MAX_INTERVAL}, and epoch_length a multiple of interval"
            here = f"interval {self.interval}, epoch_length {self.epoch_length}, window {self.window}"
            raise Refused("bad_parameters", f"{here}: {reason}")


@dataclass(frozen=True)
class Group:
    """The validators of one chain in one epoch, in the order in which they take turns as primary.

    An epoch holds the heights after `start`, up to a checkpoint at which the application names other validators or
    `epoch_length` is reached. Views count from 0 in each epoch, and the epoch's number shifts the order, so that the
    office of primary goes around by itself.
    """

    chain: str
    validators: tuple[str, ...]
    epoch: int = 0
    """Part of everything that is signed."""
    start: int = 0
    """The height before the epoch's first."""
    since: int = 0
    """The checkpoint at which these validators took office; 0 for those of genesis."""
    parameters: Parameters = Parameters()

    def __post_init__(self) -> None:
        if not 1 <= len(self.validators) <= MAX_VALIDATORS:
            raise Refused("bad_group", f"{len(self.validators)} validators; a group has 1 to {MAX_VALIDATORS}")
        if len(set(self.validators)) != len(self.validators):
            raise Refused("bad_group", "a validator is listed twice; each identity has one vote")
        for validator in self.validators:
            parse_identity(validator, "validator")

    @functools.cached_property
    def quorum(self) -> int:
        """Votes that decide; any two sets of this size share an honest member."""
        return quorum(len(self.validators))

    @functools.cached_property
    def faults(self) -> int:
        """How many may be faulty; one voice more includes an honest one."""
        return faults(len(self.validators))

    def primary(self, view: int) -> str:
        return self.validators[(self.epoch + view) % len(self.validators)]

    def is_checkpoint(self, height: int) -> bool:
        return height % self.parameters.interval == 0

    def checkpoint_after(self, height: int) -> int:
        """The first checkpoint above `height`. Nothing beyond it can be agreed on before it has been executed:
        only then is it known who agrees."""
        return (height // self.parameters.interval + 1) * self.parameters.interval

    @property
    def span(self) -> int:
        """From the low watermark to the high one, L in the paper."""
        return 2 * self.parameters.interval

    def successor(self, height: int, validators: tuple[str, ...]) -> "Group":
        """The group of the heights after checkpoint `height`, at which the application named `validators`."""
        if validators == self.validators and height - self.start < self.parameters.epoch_length:
            return self
        since = self.since if validators == self.validators else height
        return Group(self.chain, validators, self.epoch + 1, height, since, self.parameters)

    @property
    def genesis(self) -> bytes:
        """What stands for the digest of the chain before its first block."""
        return digest(f"tallystick/{self.chain}/genesis")

    def block_digest(self, block: bytes) -> bytes:
        """Names an encoded block. The view is not in it: a later primary may have to propose the same block again."""
        return digest(f"tallystick/{self.chain}/block", block)

    def chain_digest(self, before: bytes, block: bytes) -> bytes:
        """Names the chain that ends in the block named `block`, after the chain named `before`."""
        return digest(f"tallystick/{self.chain}/head", before, block)

    def checkpoint_digest(self, content: bytes) -> bytes:
        return digest(f"tallystick/{self.chain}/checkpoint", content)
