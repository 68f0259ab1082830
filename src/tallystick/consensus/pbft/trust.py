"""Who agreed on which heights, as far as somebody who knows only the genesis document can tell."""

from collections.abc import Iterable

from tallystick.consensus.pbft.certificate import (
    group_after,
    group_of_block,
    group_of_checkpoint,
    verify_certificate,
    verify_checkpoint,
)
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.messages import Block
from tallystick.errors import Refused


class ChainOfTrust:
    """Follows checkpoints from genesis on, each signed by a quorum of the validators that the ones before lead to.

    It needs those at which the validators changed, and tells of no height beyond the checkpoint that comes after the
    last one it was shown: there the validators may have changed, and a liar would keep quiet about it. With fewer
    validators before than after, votes that decided nothing would look like a quorum.

    Args:
        proofs: stable checkpoints, in order.

    Raises:
        Refused: what `extend` raises.
    """

    def __init__(self, genesis: Group, proofs: Iterable[bytes] = ()) -> None:
        self._terms = [(0, genesis)]
        """From above which height on which validators agree."""
        self.height = 0
        """Of the last checkpoint."""
        for proof in proofs:
            self.extend(proof)

    @property
    def group(self) -> Group:
        """Of the heights after the last checkpoint."""
        return self._terms[-1][1]

    @property
    def proven(self) -> int:
        """The height up to which it is known who agreed."""
        return self.group.checkpoint_after(self.height)

    @property
    def changes(self) -> int:
        """How often the validators changed."""
        return len(self._terms) - 1

    def extend(self, proof: bytes) -> None:
        """Takes the next stable checkpoint.

        Raises:
            Refused: `not_in_order`, or what `verify_checkpoint` raises; then nothing has changed.
        """
        signers = group_of_checkpoint(self.group, proof)
        content = verify_checkpoint(signers, proof)
        if content.height <= self.height:
            raise Refused("not_in_order", f"checkpoint {content.height} comes after the one at {self.height}")
        following = group_after(signers, content)
        self.height = content.height
        if following.validators != signers.validators:
            self._terms.append((content.height, following))

    def verify_block(self, height: int, block: bytes, certificate: bytes) -> tuple[Block, Group]:
        """Checks that `block` (encoded) was committed at `height`, and returns it with those whose quorum did that.

        Raises:
            Refused: `unproven_height`, `wrong_height`, or what `verify_certificate` raises.
        """
        if not 1 <= height <= self.proven:
            raise Refused("unproven_height", f"block {height}: the checkpoints say who agreed up to {self.proven}")
        known = next(group for since, group in reversed(self._terms) if since < height)
        group = group_of_block(known, certificate)
        decoded = verify_certificate(group, block, certificate)
        if decoded.height != height:
            raise Refused("wrong_height", f"block {decoded.height} in the place of {height}")
        return decoded, group
