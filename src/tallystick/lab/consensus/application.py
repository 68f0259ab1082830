"""The application that the cluster replicates: accounts, numbered requests with cached replies, who the validators are.

It is as small as can be and still tell when anything is executed twice, in another order, or nowhere. What a client
sees is the reply; what replicas must share, byte for byte, is the snapshot.
"""

import functools
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Annotated, Final

import msgspec

from tallystick.canon.encoding import from_bytes, to_bytes
from tallystick.canon.identity import IDENTITY_BYTES, Key
from tallystick.canon.sealed import HEADER_BYTES, open_sealed, seal
from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused
from tallystick.lab.consensus.replicated import Reply

MAX_REQUEST_BYTES: Final = 4096
FUNDS: Final = 1_000
"""What each client has at first."""
AHEAD: Final = 4
"""How many numbers beyond the last executed one a request may wait with."""

_Name = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class Transfer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="transfer"):
    number: _Count
    to: _Name
    amount: _Count
    note: Annotated[bytes, msgspec.Meta(max_length=MAX_REQUEST_BYTES)] = b""


class Membership(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="membership"):
    """Only the operator's. Whoever is in `leave` is replaced by `join`; one of the two may be empty."""

    number: _Count
    leave: str
    join: str


Request = Transfer | Membership


class Account(msgspec.Struct, array_like=True):
    number: int = 0
    """Of the last executed request."""
    funds: int = FUNDS
    reply: str = ""


class Snapshot(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    height: int
    time_ms: int
    history: bytes
    operator: str
    validators: tuple[str, ...]
    accounts: list[tuple[str, Account]]


def sign_request(key: Key, chain: str, request: Request) -> bytes:
    return seal(key, _domain(chain), to_bytes(request))


def _domain(chain: str) -> str:
    return f"tallystick/{chain}/transaction"


@functools.lru_cache(65_536)
def check_request(chain: str, transaction: bytes) -> tuple[str, Request]:
    """Form and signature: depends on nothing but the bytes, so all replicas answer alike. Raises `Refused`."""
    opened = open_sealed(transaction, _domain(chain), limit=MAX_REQUEST_BYTES, what="request")
    return opened.sender, from_bytes(opened.payload, Request, limit=MAX_REQUEST_BYTES, what="request")


@functools.lru_cache(65_536)
def _unchecked(transaction: bytes) -> tuple[str, Request]:
    """What a request says, with no look at its signature: that was done before the block was prepared."""
    payload = transaction[HEADER_BYTES:]
    return transaction[:IDENTITY_BYTES].hex(), from_bytes(payload, Request, limit=MAX_REQUEST_BYTES, what="request")


@dataclass
class Application:
    """`Replicated`, as small as can be."""

    chain: str
    operator: str
    members: tuple[str, ...]
    accounts: dict[str, Account] = field(default_factory=dict)
    height: int = 0
    time_ms: int = 0
    history: bytes = bytes(16)
    """Hash of all results so far, in order."""
    heartbeat_ms: int = 0
    """When above 0, a block is due this long after the last one, transactions or not."""

    # ---- what the engine asks

    def check(self, transaction: bytes) -> None:
        check_request(self.chain, transaction)

    def admit(self, transaction: bytes) -> None:
        sender, request = check_request(self.chain, transaction)
        last = self.accounts[sender].number if sender in self.accounts else 0
        if request.number <= last:
            raise Refused("stale", f"request {request.number} of {sender[:12]}; {last} is executed")
        if request.number > last + AHEAD:
            raise Refused("too_early", f"request {request.number} of {sender[:12]}; {last + 1} is next")

    def next_deadline_ms(self) -> int | None:
        return self.time_ms + self.heartbeat_ms if self.heartbeat_ms else None

    def validators(self) -> tuple[str, ...]:
        return self.members

    def execute(self, block: CommittedBlock) -> list[Reply]:
        self.height, self.time_ms = block.height, block.time_ms
        hashed = blake2b(self.history, digest_size=16)
        hashed.update(block.digest + block.time_ms.to_bytes(8, "big"))
        replies = []
        for transaction in block.transactions:
            reply = self._apply(transaction)
            replies.append(reply)
            hashed.update(f"{reply.client} {reply.number} {reply.result}\n".encode())
        self.history = hashed.digest()
        return replies

    def snapshot(self) -> bytes:
        accounts = [(name, self.accounts[name]) for name in sorted(self.accounts)]
        return to_bytes(
            Snapshot(self.height, self.time_ms, self.history, self.operator, self.members, accounts),
        )

    def restore(self, snapshot: bytes) -> None:
        taken: Snapshot = from_bytes(snapshot, Snapshot, limit=1 << 24, what="snapshot")
        self.height, self.time_ms, self.history = taken.height, taken.time_ms, taken.history
        self.operator, self.members = taken.operator, taken.validators
        self.accounts = dict(taken.accounts)

    # ---- what the simulator asks

    def last(self, client: str) -> Reply | None:
        account = self.accounts.get(client)
        return None if account is None else Reply(client, account.number, account.reply)

    def miscounted(self) -> str:
        held = [account.funds for account in self.accounts.values()]
        if sum(held) == len(held) * FUNDS and min(held, default=0) >= 0:
            return ""
        return f"{len(held)} accounts hold {sum(held)} together, not {len(held) * FUNDS}"

    # ---- rules

    def _apply(self, transaction: bytes) -> Reply:
        try:
            sender, request = _unchecked(transaction)
        except Refused as refused:
            return Reply("", 0, refused.code)
        account = self.accounts.setdefault(sender, Account())
        if request.number <= account.number:
            return Reply(sender, request.number, account.reply if request.number == account.number else "stale")
        if request.number != account.number + 1:
            return Reply(sender, request.number, "gap")
        account.number = request.number
        account.reply = (
            self._transfer(account, request) if isinstance(request, Transfer) else self._member(sender, request)
        )
        return Reply(sender, request.number, account.reply)

    def _transfer(self, account: Account, request: Transfer) -> str:
        if request.amount > account.funds:
            return "insufficient"
        account.funds -= request.amount
        self.accounts.setdefault(request.to, Account()).funds += request.amount
        return f"ok {account.funds}"

    def _member(self, sender: str, request: Membership) -> str:
        if sender != self.operator:
            return "not_operator"
        if (request.leave and request.leave not in self.members) or request.join in self.members:
            return "no_such_change"
        if request.leave and request.join:
            self.members = tuple(request.join if m == request.leave else m for m in self.members)
        elif request.leave:
            self.members = tuple(m for m in self.members if m != request.leave)
        else:
            self.members = (*self.members, request.join)
        return f"members {len(self.members)}"
