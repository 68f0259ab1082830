"""Proofs that convince anybody, offline, of what a quorum did: committed a block, stood behind one, or executed to a
checkpoint. All are made of sealed votes as they were received. Nothing but the arguments enters.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import msgspec

from tallystick.canon.encoding import from_bytes, to_bytes
from tallystick.canon.votes import Checkpoint, Commit, Prepare, PrePrepare, Vote, open_vote
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.limits import MAX_CERTIFICATE_BYTES, MAX_CHECKPOINT_BYTES, MAX_VALIDATORS
from tallystick.consensus.pbft.messages import (
    Block,
    CheckpointContent,
    Claim,
    StableCheckpoint,
    decode_block,
    open_member_vote,
)
from tallystick.errors import Refused

_VOTES: Final = msgspec.msgpack.Decoder(Annotated[list[bytes], msgspec.Meta(max_length=MAX_VALIDATORS)])


def make_certificate(sealed_commits: Iterable[bytes]) -> bytes:
    """A certificate is the sealed commits themselves, as they were received."""
    return to_bytes(list(sealed_commits))


def votes_in(certificate: bytes) -> list[bytes]:
    votes: list[bytes] = from_bytes(certificate, _VOTES, limit=MAX_CERTIFICATE_BYTES, what="certificate")
    return votes


def verify_certificate(group: Group, block: bytes, certificate: bytes) -> Block:
    """Checks that a quorum of `group` committed `block` (encoded), all in one view, and returns it decoded.

    An auditor with the genesis file can run it, given the group of the block's epoch (`trust.ChainOfTrust`).

    Raises:
        Refused: `too_few_votes`, `duplicate_signer`, `wrong_vote`, or what opening a vote or block raises.
    """
    decoded = decode_block(block)
    votes = _open_all(group, votes_in(certificate))
    name = group.block_digest(block)
    for sender, vote in votes:
        if not isinstance(vote, Commit) or (vote.height, vote.digest) != (decoded.height, name):
            raise Refused("wrong_vote", f"{sender[:12]}'s vote is not a commit of block {decoded.height}")
    _check_quorum(group, votes)
    if len({view_of(vote) for _, vote in votes}) != 1:
        raise Refused("wrong_vote", f"the commits of block {decoded.height} are of different views")
    return decoded


def group_of_block(known: Group, certificate: bytes) -> Group:
    """The group whose quorum must have signed `certificate`, if `known`'s validators were in office at that block.

    Epochs also end without a change of validators, so who knows only the changes (`trust.ChainOfTrust`) learns the
    epoch's number here. Any number that a quorum signed will do: each height is in one epoch, and honest validators
    know it.

    Raises:
        Refused: `too_few_votes`, or what opening a vote raises.
    """
    votes = votes_in(certificate)
    if not votes:
        raise Refused("too_few_votes", "a certificate without votes")
    _, vote = open_vote(known.chain, votes[0])
    return Group(known.chain, known.validators, vote.epoch, known.start, known.since, known.parameters)


def verify_claim(group: Group, claim: Claim) -> None:
    """Checks that a quorum stood behind a claim's digest at its height in its view.

    Either with the primary's pre-prepare and the prepares of others, a *prepared* certificate, or with commits.

    Raises:
        Refused: `too_few_votes`, `duplicate_signer`, `wrong_vote`, or what opening a vote raises.
    """
    votes = _open_all(group, claim.votes)
    for sender, vote in votes:
        if isinstance(vote, Checkpoint) or (vote.view, vote.height, vote.digest) != (
            claim.view,
            claim.height,
            claim.digest,
        ):
            raise Refused("wrong_vote", f"{sender[:12]}'s vote is not for height {claim.height}, view {claim.view}")
        if isinstance(vote, PrePrepare) != (sender == group.primary(claim.view) and not isinstance(vote, Commit)):
            raise Refused("wrong_vote", f"{sender[:12]} pre-prepared or prepared out of its office")
    kinds = {type(vote) for _, vote in votes}
    if not (kinds == {Commit} or (kinds <= {PrePrepare, Prepare} and PrePrepare in kinds)):
        raise Refused("wrong_vote", f"the votes for height {claim.height} are neither all commits nor a prepared set")
    _check_quorum(group, votes)


# ---- checkpoints


def encode_checkpoint(content: bytes, votes: Iterable[bytes]) -> bytes:
    return to_bytes(StableCheckpoint(content, list(votes)))


def decode_content(content: bytes) -> CheckpointContent:
    decoded: CheckpointContent = from_bytes(content, CheckpointContent, limit=4096, what="checkpoint")
    return decoded


def verify_checkpoint(group: Group, proof: bytes) -> CheckpointContent:
    """Checks that a quorum of `group` executed to a checkpoint of its epoch, and returns what came out.

    Raises:
        Refused: `too_few_votes`, `duplicate_signer`, `wrong_vote`, `gap_in_history`, `malformed` or what opening a
            vote raises.
    """
    stable: StableCheckpoint = from_bytes(proof, StableCheckpoint, limit=MAX_CHECKPOINT_BYTES, what="checkpoint")
    content = decode_content(stable.content)
    votes = _open_all(group, stable.votes)
    expected = Checkpoint(group.epoch, content.height, group.checkpoint_digest(stable.content))
    if content.epoch != group.epoch or any(vote != expected for _, vote in votes):
        raise Refused("wrong_vote", f"the votes are not for the checkpoint at {content.height} of epoch {group.epoch}")
    _check_quorum(group, votes)
    if content.since != group.since:
        changes = f"its validators took office at {content.since}, those we know at {group.since}"
        raise Refused("gap_in_history", f"checkpoint {content.height}: {changes}")
    return content


def group_of_checkpoint(known: Group, proof: bytes) -> Group:
    """The group whose quorum must have signed `proof`, if `known`'s validators have not been replaced before it.

    Raises:
        Refused: `malformed`.
    """
    stable: StableCheckpoint = from_bytes(proof, StableCheckpoint, limit=MAX_CHECKPOINT_BYTES, what="checkpoint")
    content = decode_content(stable.content)
    return Group(known.chain, known.validators, content.epoch, content.start, known.since, known.parameters)


def height_of(proof: bytes) -> int:
    """Of a stable checkpoint whose proof has been checked."""
    stable: StableCheckpoint = from_bytes(proof, StableCheckpoint, limit=MAX_CHECKPOINT_BYTES, what="checkpoint")
    return decode_content(stable.content).height


def group_after(group: Group, content: CheckpointContent) -> Group:
    """Who agrees on the heights after a checkpoint of `group`."""
    return group.successor(content.height, tuple(content.validators))


# ---- votes


def view_of(vote: Vote) -> int:
    return 0 if isinstance(vote, Checkpoint) else vote.view


def _open_all(group: Group, sealed: Sequence[bytes]) -> list[tuple[str, Vote]]:
    if len(sealed) < group.quorum:
        raise Refused("too_few_votes", f"{len(sealed)} votes of epoch {group.epoch}, need {group.quorum}")
    return [open_member_vote(group, vote) for vote in sealed]


def _check_quorum(group: Group, votes: Sequence[tuple[str, Vote]]) -> None:
    signers = {sender for sender, _ in votes}
    if len(signers) != len(votes):
        raise Refused("duplicate_signer", "a validator's vote is there twice; each has one")
    if len(signers) < group.quorum:
        raise Refused("too_few_votes", f"{len(signers)} votes of epoch {group.epoch}, need {group.quorum}")
