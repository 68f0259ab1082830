"""Money of one's own: transfers, and moving it between balance and stake."""

from typing import Final

from tallystick.errors import Refused
from tallystick.ledger.draft import Draft
from tallystick.ledger.transactions import Deposit, Transfer, Withdraw

MAX_ACCOUNTS: Final = 1_000_000
"""Beyond these no transfer makes a new one. An account stays for good, since it remembers which nonces are used, and
the whole state goes into a snapshot at each checkpoint: who made accounts without end could stop all validators."""


def transfer(draft: Draft, sender: str, body: Transfer) -> None:
    require_balance(draft, sender, body.amount)
    if len(draft.state.accounts) >= MAX_ACCOUNTS and draft.known(body.to) is None:
        raise Refused("too_many_accounts", f"transfer: {body.to[:12]} has no account, and there are {MAX_ACCOUNTS}")
    draft.change(sender, balance=-body.amount)
    draft.change(body.to, balance=body.amount)


def deposit(draft: Draft, sender: str, body: Deposit) -> None:
    require_balance(draft, sender, body.amount)
    draft.change(sender, balance=-body.amount, stake=body.amount)


def withdraw(draft: Draft, sender: str, body: Withdraw) -> None:
    require_amount(body.amount)
    account = draft.account(sender)
    if body.amount > account.stake:
        raise Refused("insufficient_stake", f"withdraw: {body.amount} of a stake of {account.stake}")
    if body.amount > account.free:
        raise Refused(
            "stake_in_use",
            f"withdraw: {account.locked} of the stake of {account.stake} back a task or an office; leave it first",
        )
    draft.change(sender, balance=body.amount, stake=-body.amount)


def require_amount(amount: int) -> None:
    if amount == 0:
        raise Refused("zero_amount", "amount: nothing to move; give at least 1")


def require_balance(draft: Draft, sender: str, amount: int) -> None:
    require_amount(amount)
    balance = draft.account(sender).balance
    if amount > balance:
        raise Refused("insufficient_balance", f"amount: {amount} of a balance of {balance}")
