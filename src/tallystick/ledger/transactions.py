"""What can be asked of the ledger: one struct per kind of transaction, and the signed form they travel in.

A transaction is MessagePack, sealed with its sender's key for one chain (`canon/sealed.py`). Its nonce must be larger
than the last one executed for that sender, so a transaction is executed at most once however often it is sent.
Names of blobs, roots, commitments and identities are 64 lower-case hex characters; amounts are in the smallest unit.
"""

from typing import Annotated, Final

import msgspec

from tallystick.canon.encoding import from_bytes, to_bytes
from tallystick.canon.hashing import blob_name, digest
from tallystick.canon.identity import SIGNATURE_BYTES, Key, verifies
from tallystick.canon.sealed import Opened, open_sealed, read_sealed, seal
from tallystick.canon.votes import MAX_VOTE_BYTES

MAX_TRANSACTION_BYTES: Final = 64 * 1024
MAX_AMOUNT: Final = 2**62

Amount = Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Index = Annotated[int, msgspec.Meta(ge=0, lt=2**20)]
Millis = Annotated[int, msgspec.Meta(ge=1, le=2**40)]
Permille = Annotated[int, msgspec.Meta(ge=0, le=1000)]
Stake = Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT)]
Address = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
"""`host:port` where other validators reach one."""
Url = Annotated[str, msgspec.Meta(max_length=1024)]
"""Where workers and clients reach a validator over HTTP; empty if nowhere."""
Certificate = Annotated[str, msgspec.Meta(max_length=16 * 1024)]
"""A validator's TLS certificate, PEM."""
SealedVote = Annotated[bytes, msgspec.Meta(max_length=MAX_VOTE_BYTES)]
Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Base of the transaction kinds: only what msgspec needs to tell them apart."""


class Transfer(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="transfer"):
    """Moves `amount` from the sender's balance to `to`."""

    to: Name
    amount: Amount
    memo: Annotated[bytes, msgspec.Meta(max_length=256)] = b""
    """For the receiver, such as what is paid for. No rule reads it."""


class Deposit(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="deposit"):
    """Moves `amount` from the sender's balance to its stake."""

    amount: Amount


class Withdraw(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="withdraw"):
    """Moves `amount` from the sender's stake back to its balance; refused while a task or office needs it."""

    amount: Amount


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """The terms of a task, chosen by the client and the same for everyone in it."""

    stake: Amount
    """What a worker must have at stake to be assigned work, and loses when it is caught."""
    forfeit: Amount
    """What a worker loses that commits and then does not open its commitment."""
    audit_permille: Permille
    """Share of the contributions that validators re-run before a round is final."""
    validator_permille: Permille
    """Share of the reward that pays for audits; the rest pays for accepted contributions."""
    finder_permille: Permille
    """Share of a slashed stake that goes to those who found the fault; the rest is burned."""
    commit_ms: Millis
    """How long an assigned worker has to commit."""
    reveal_ms: Millis
    """How long a committed worker has to reveal."""
    expires_ms: Millis
    """How long after opening the task is given up and its escrow returned."""


class OpenTask(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="open_task"):
    """Offers a training task and puts `reward` from the sender's balance in escrow. The task's id is the
    transaction's hash."""

    spec: Name
    """The blob that holds the training specification: program, data, schedule, seed."""
    initial_root: Name
    """State root before step 0."""
    steps: Annotated[int, msgspec.Meta(ge=1, le=10**7)]
    micro_batches: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    """Micro-batches in each step."""
    reward: Amount
    policy: Policy


class Enroll(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="enroll"):
    """Makes the sender available for assignment in `task`; also how a suspended worker comes back."""

    task: Name


class Leave(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="leave"):
    """Takes the sender out of `task` from the next round on."""

    task: Name


class Commitment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    micro_batch: Index
    commitment: Name


class Commit(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="commit"):
    """Binds the sender to its contributions without showing them."""

    task: Name
    step: Annotated[int, msgspec.Meta(ge=0)]
    entries: Annotated[list[Commitment], msgspec.Meta(min_length=1, max_length=256)]


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    micro_batch: Index
    root: Name
    """Merkle root of the contribution."""
    salt: Name
    blob: Name
    """Where the contribution itself can be fetched."""


class Reveal(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="reveal"):
    """Opens commitments. An opening that does not fit its commitment is a fault of the sender, and proven by it."""

    task: Name
    step: Annotated[int, msgspec.Meta(ge=0)]
    entries: Annotated[list[Opening], msgspec.Meta(min_length=1, max_length=256)]


UNAVAILABLE: Final = "0" * 64
"""The verdict on a contribution whose blob cannot be fetched or does not hold what its root says."""


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    micro_batch: Index
    worker: Name
    root: Name
    """Root of the contribution as the validator computed it, or `UNAVAILABLE`."""


class Audit(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="audit"):
    """A validator's own results for contributions that the audit draw asked for."""

    task: Name
    step: Annotated[int, msgspec.Meta(ge=0)]
    verdicts: Annotated[list[Verdict], msgspec.Meta(min_length=1, max_length=256)]


class Attest(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="attest"):
    """A validator's result for the whole step: the state root after it."""

    task: Name
    step: Annotated[int, msgspec.Meta(ge=0)]
    root: Name
    total: Name
    """The blob that holds the summed gradients, from which anyone at this step's state reaches `root`."""
    loss: Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
    """Sum of the micro-batches' losses, in units of 2**-20."""


class Anchor(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="anchor"):
    """Puts `digest` on the ledger under the sender's name, so that nobody can later claim not to have been second."""

    digest: Name


class AddValidator(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="add_validator"):
    """A validator's endorsement of a newcomer. It becomes one when a quorum has endorsed the same."""

    identity: Name
    address: Address
    url: Url
    certificate: Certificate
    stake: Stake
    """Which the newcomer has deposited; locked as its bond."""


class RemoveValidator(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="remove_validator"):
    """A validator's endorsement of another's leaving, or of its own."""

    identity: Name


Change = AddValidator | RemoveValidator


class RotateKey(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="rotate_key"):
    """Gives the sender's office, bond and money to a new key of the same validator."""

    identity: Name
    """The new one."""
    certificate: Certificate
    proof: Signature
    """The new key's consent: see `prove_rotation`."""


class Accuse(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="accuse"):
    """Two sealed votes of one validator that exclude each other (`canon/votes.py`): a complete proof of its fault."""

    first: SealedVote
    second: SealedVote


Item = Transfer | Deposit | Withdraw | Enroll | Leave | Commit | Reveal | Audit | Attest | Anchor
"""What a batch may hold. A task is named by the hash of its own transaction, and what concerns validators costs
signatures to execute, so these come alone."""


class Batch(Body, frozen=True, forbid_unknown_fields=True, array_like=True, tag="batch"):
    """Many items under one signature and one nonce, executed in order. Each is refused or not by its own rule, and
    what is refused has no influence on the others."""

    items: Annotated[list[Item], msgspec.Meta(min_length=1, max_length=256)]


SingleBody = Item | OpenTask | AddValidator | RemoveValidator | RotateKey | Accuse
AnyBody = SingleBody | Batch


class Transaction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    nonce: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    body: AnyBody


class SignedTransaction(msgspec.Struct, frozen=True):
    """A transaction whose signature has been checked, here or by those who committed its block."""

    hash: str
    """SHA-256 of the sealed bytes: what people look a transaction up by."""
    sender: str
    nonce: int
    body: AnyBody


def _domain(chain: str) -> str:
    return f"tallystick/{chain}/transaction"


def sign_transaction(key: Key, chain: str, nonce: int, body: AnyBody) -> bytes:
    return seal(key, _domain(chain), to_bytes(Transaction(nonce, body)))


def open_transaction(data: bytes, chain: str) -> SignedTransaction:
    """Checks size and signature, and only then parses.

    Raises:
        Refused: `too_large`, `truncated`, `bad_signature` or `malformed`.
    """
    return _parsed(data, open_sealed(data, _domain(chain), limit=MAX_TRANSACTION_BYTES, what="transaction"))


def read_transaction(data: bytes) -> SignedTransaction:
    """Opens a transaction of a committed block, whose signature a quorum of validators checked before it voted for the
    block; it is not checked again.

    Raises:
        Refused: `too_large`, `truncated` or `malformed`.
    """
    return _parsed(data, read_sealed(data, limit=MAX_TRANSACTION_BYTES, what="transaction"))


def _parsed(data: bytes, opened: Opened) -> SignedTransaction:
    parsed = from_bytes(opened.payload, Transaction, limit=MAX_TRANSACTION_BYTES, what="transaction")
    return SignedTransaction(blob_name(data), opened.sender, parsed.nonce, parsed.body)


def commitment_to(task: str, step: int, micro_batch: int, worker: str, root: str, salt: str) -> str:
    """The hash that binds `worker` to a contribution. Its identity is inside, so a copy opens for nobody else."""
    place = f"{task}/{step}/{micro_batch}".encode()
    return digest("tallystick/commitment", place, bytes.fromhex(worker), bytes.fromhex(root), bytes.fromhex(salt)).hex()


def prove_rotation(new: Key, chain: str, old: str) -> bytes:
    """The new key's signature that it takes the place of `old`: nobody can give their office to a key that they do
    not hold, and so to nobody who would then be slashed for it."""
    return new.sign(_rotation(chain, old, new.identity))


def proves_rotation(proof: bytes, chain: str, old: str, new: str) -> bool:
    return verifies(new, _rotation(chain, old, new), proof)


def _rotation(chain: str, old: str, new: str) -> bytes:
    return digest(f"tallystick/{chain}/rotate-key", bytes.fromhex(old), bytes.fromhex(new))
