"""Who takes part, and how many of them make a quorum."""

from dataclasses import dataclass

from tallystick.canon.hashing import digest
from tallystick.canon.identity import parse_identity
from tallystick.canon.quorum import quorum
from tallystick.consensus.pbft.limits import MAX_VALIDATORS
from tallystick.errors import Refused


@dataclass(frozen=True)
class Group:
    """The validators of one chain in one epoch, in the order in which they take turns as primary."""

    chain: str
    validators: tuple[str, ...]
    epoch: int = 0
    """Counts changes of membership; part of everything that is signed."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.validators) <= MAX_VALIDATORS:
            raise Refused("bad_group", f"{len(self.validators)} validators; a group has 1 to {MAX_VALIDATORS}")
        if len(set(self.validators)) != len(self.validators):
            raise Refused("bad_group", "a validator is listed twice; each identity has one vote")
        for validator in self.validators:
            parse_identity(validator, "validator")

    @property
    def quorum(self) -> int:
        """Votes that decide; any two sets of this size share an honest member."""
        return quorum(len(self.validators))

    def primary(self, view: int) -> str:
        return self.validators[view % len(self.validators)]

    @property
    def domain(self) -> str:
        """The domain in which every message of this chain's consensus is sealed."""
        return f"tallystick/{self.chain}/consensus"

    @property
    def genesis(self) -> bytes:
        """The parent of the first block."""
        return digest(f"tallystick/{self.chain}/genesis")

    def block_digest(self, block: bytes) -> bytes:
        """Names an encoded block. The view is not in it: a later primary may have to propose the same block again."""
        return digest(f"tallystick/{self.chain}/block", block)
