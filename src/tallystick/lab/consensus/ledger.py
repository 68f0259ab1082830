"""The real ledger as the application of a simulated cluster: money, tasks with deadlines, validators that come, go and
are slashed. What it does is `ledger.execute`; here is only what a simulation needs around it.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import msgspec
from msgspec.structs import replace

from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused
from tallystick.lab.consensus.application import FUNDS, Membership, Transfer
from tallystick.lab.consensus.node import UNIX_MS
from tallystick.lab.consensus.replicated import Reply
from tallystick.ledger import genesis, transactions
from tallystick.ledger.execute import execute_block, next_deadline_ms, require_new
from tallystick.ledger.state import Account, State, dump_state, load_state
from tallystick.ledger.transactions import (
    AnyBody,
    Deposit,
    Enroll,
    OpenTask,
    Policy,
    RemoveValidator,
    sign_transaction,
)
from tallystick.network.opened import OpenedTransactions

BOND: Final = 1_000
"""What each validator answers with."""
STAKE: Final = 10
"""What a worker locks in a task."""
EXPIRES_MS: Final = 2_500
"""After which a task is over, whatever came of it."""
_POLICY: Final = Policy(STAKE, STAKE, 500, 100, 100, commit_ms=400, reveal_ms=400, expires_ms=EXPIRES_MS)


class Order(msgspec.Struct, frozen=True):
    """A wish that only the ledger knows."""

    number: int
    body: AnyBody


def open_task(number: int) -> Order:
    return Order(number, OpenTask("0" * 64, "1" * 64, 1, 4, FUNDS // 4, _POLICY))


def instead_of(transfer: Transfer, turn: int, task: str) -> "Transfer | Order":
    """Every few transfers a client wishes for something else: a task; or a stake, and work in `task`, which it is dealt
    and never does, so that deadlines pass."""
    bodies: dict[int, AnyBody] = {1: Deposit(STAKE), 2: Enroll(task)}
    if turn % 5 == 0:
        return open_task(transfer.number)
    body = bodies.get(turn % 5)
    return transfer if body is None else Order(transfer.number, body)


def sign(key: Key, chain: str, wish: "Transfer | Membership | Order") -> bytes:
    """The nonce is the wish's number. A lone membership wish is one voice of the many that it takes."""
    match wish:
        case Transfer():
            body: AnyBody = transactions.Transfer(wish.to, wish.amount, wish.note)
        case Membership():
            body = RemoveValidator(wish.leave)
        case Order():
            body = wish.body
    return sign_transaction(key, chain, wish.number, body)


def first_state(chain: str, validators: Sequence[str], later: Iterable[str], people: Iterable[str]) -> State:
    """Height 0, at the moment when the run begins: by clocks that are behind, block 1 comes before it.

    Args:
        later: who may become validators, with the stake that it takes.
        people: everybody else who has an account.
    """
    offices = tuple(genesis.ValidatorInfo(v, "127.0.0.1:1", "", "none", BOND) for v in validators)
    balances = dict.fromkeys((*validators, *people), FUNDS)
    state = genesis.genesis_state(genesis.Genesis("lab", UNIX_MS, genesis.Agreement(), offices, balances))
    accounts = state.accounts
    for identity in later:
        accounts = accounts.set(identity, Account(balance=FUNDS, stake=BOND))
    held = sum(account.balance + account.stake for account in accounts.values())
    return replace(state, chain=chain, accounts=accounts, minted=held)


_opened: Final = functools.cache(OpenedTransactions)
"""By chain; one for all nodes of a run, which all open the same."""


@dataclass
class LedgerApplication:
    """`Replicated`, by the rules that the network goes by."""

    state: State

    # ---- what the engine asks

    @property
    def height(self) -> int:
        return self.state.height

    def check(self, transaction: bytes) -> None:
        _opened(self.state.chain).open(transaction)

    def admit(self, transaction: bytes) -> None:
        opened = _opened(self.state.chain).open(transaction)
        try:
            require_new(self.state.accounts.get(opened.sender), opened)
        except Refused as refused:
            raise Refused("stale" if refused.code == "stale_nonce" else refused.code, refused.reason) from None

    def next_deadline_ms(self) -> int | None:
        return next_deadline_ms(self.state)

    def validators(self) -> tuple[str, ...]:
        return tuple(validator.identity for validator in self.state.validators)

    def execute(self, block: CommittedBlock) -> list[Reply]:
        executed = execute_block(
            self.state,
            height=block.height,
            time_ms=block.time_ms,
            beacon=block.digest,
            transactions=block.transactions,
            read=_opened(self.state.chain).read,
        )
        self.state = executed.state
        return [
            self._reply(transaction, result.sender, result.code)
            for transaction, result in zip(block.transactions, executed.results, strict=True)
        ]

    def snapshot(self) -> bytes:
        return dump_state(self.state)

    def restore(self, snapshot: bytes) -> None:
        self.state = load_state(snapshot)

    # ---- what the simulator asks

    @property
    def history(self) -> bytes:
        return blake2b(dump_state(self.state), digest_size=16).digest()

    def last(self, client: str) -> Reply | None:
        account = self.state.accounts.get(client)
        return None if account is None else Reply(client, account.nonce, account.last.code)

    def miscounted(self) -> str:
        state = self.state
        held = sum(account.balance + account.stake for account in state.accounts.values())
        escrow = sum(task.escrow for task in state.tasks.values())
        if held + escrow + state.burned == state.minted:
            return ""
        return f"{held} held, {escrow} in escrow, {state.burned} burned, {state.minted} minted"

    def _reply(self, transaction: bytes, sender: str, code: str) -> Reply:
        """A request that comes twice is answered as it was the first time, if it was its sender's last."""
        if not sender:
            return Reply("", 0, code)
        number = _opened(self.state.chain).read(transaction).nonce
        if code != "stale_nonce":
            return Reply(sender, number, code)
        account = self.state.accounts.get(sender)
        again = account is not None and account.last.hash == blob_name(transaction)
        return Reply(sender, number, account.last.code if account is not None and again else "stale")
