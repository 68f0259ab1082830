"""Commit certificates: what convinces anybody, offline, that a quorum committed a block."""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from tallystick.canon.encoding import from_bytes, to_bytes
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.limits import MAX_CERTIFICATE_BYTES, MAX_VALIDATORS
from tallystick.consensus.pbft.messages import Block, Commit, decode_block, open_vote
from tallystick.errors import Refused

_COMMITS: Final = Annotated[list[bytes], msgspec.Meta(max_length=MAX_VALIDATORS)]


def make_certificate(sealed_commits: Iterable[bytes]) -> bytes:
    """A certificate is the sealed commits themselves, as they were received."""
    return to_bytes(list(sealed_commits))


def verify_certificate(group: Group, block: bytes, certificate: bytes) -> Block:
    """Checks that a quorum of `group` committed `block` (encoded), all in one view, and returns it decoded.

    Nothing but the arguments enters: an auditor with the genesis file can run it.

    Raises:
        Refused: `too_few_commits`, `duplicate_signer`, `wrong_commit`, or what opening a vote or block raises.
    """
    decoded = decode_block(block)
    commits = from_bytes(certificate, _COMMITS, limit=MAX_CERTIFICATE_BYTES, what="certificate")
    if len(commits) < group.quorum:
        raise Refused("too_few_commits", f"{len(commits)} commits for block {decoded.height}, need {group.quorum}")
    name = group.block_digest(block)
    signers: dict[str, int] = {}
    for sealed in commits:
        sender, vote = open_vote(group, sealed)
        if not isinstance(vote, Commit) or (vote.height, vote.digest) != (decoded.height, name):
            raise Refused("wrong_commit", f"{sender[:12]}'s vote is not a commit of block {decoded.height}")
        if sender in signers:
            raise Refused("duplicate_signer", f"{sender[:12]} signed the certificate of {decoded.height} twice")
        signers[sender] = vote.view
    if len(set(signers.values())) != 1:
        raise Refused("wrong_commit", f"the commits of block {decoded.height} are of different views")
    return decoded
