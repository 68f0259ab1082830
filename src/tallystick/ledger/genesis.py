"""What a network starts from: its validators, how they agree, and the first balances, as one canonical document.

The chain id ends in a hash of the document, so a signature made for one network is worth nothing in another, even if
somebody gives both the same name.
"""

from collections import Counter
from typing import Annotated, Final

import msgspec
from immutables import Map

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.hashing import digest
from tallystick.canon.identity import parse_identity
from tallystick.errors import Refused
from tallystick.ledger.state import MAX_VALIDATORS, Account, State, Validator
from tallystick.ledger.transactions import MAX_AMOUNT, Address, Amount, Certificate, Stake, Url

MAX_GENESIS_BYTES: Final = 4 * 2**20
CHAIN_HASH_CHARACTERS: Final = 32
"""128 bits: nobody can make another document with the chain id of a given one."""

Heights = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
ChainName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]+\Z", min_length=1, max_length=32)]


class ValidatorInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identity: str
    address: Address
    url: Url
    certificate: Certificate
    stake: Stake
    """Bonded for as long as it holds the office."""


class Agreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all validators must share to agree on what is valid (docs/consensus.md). The ledger does not look at it."""

    interval: Heights = 32
    """Between two checkpoints."""
    epoch_length: Heights = 256
    """After which the office of primary goes on; a multiple of `interval`."""
    window: Heights = 8
    """That a primary works on at a time."""


class Genesis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    chain: ChainName
    """A name for people; `chain_id` is the one for signatures."""
    time_ms: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    agreement: Agreement
    validators: Annotated[tuple[ValidatorInfo, ...], msgspec.Meta(min_length=1, max_length=MAX_VALIDATORS)]
    balances: dict[str, Amount]


def dump_genesis(genesis: Genesis) -> bytes:
    return to_json(genesis)


def load_genesis(data: bytes) -> Genesis:
    """Reads and checks a genesis document.

    Raises:
        Refused: `too_large`, `malformed`, `not_canonical`, `bad_identity`, `repeated_validator` or `too_much_money`.
    """
    genesis = from_json(data, Genesis, limit=MAX_GENESIS_BYTES, what="genesis")
    check_genesis(genesis)
    return genesis


def check_genesis(genesis: Genesis) -> None:
    """What types cannot say.

    Raises:
        Refused: `bad_identity`, `repeated_validator` or `too_much_money`.
    """
    for info in genesis.validators:
        parse_identity(info.identity, "genesis: validator")
    for identity in genesis.balances:
        parse_identity(identity, "genesis: balance")
    identity, seen = Counter(info.identity for info in genesis.validators).most_common(1)[0]
    if seen > 1:
        raise Refused("repeated_validator", f"genesis: validator {identity[:12]} is listed {seen} times; list it once")
    if minted(genesis) > MAX_AMOUNT:
        raise Refused("too_much_money", f"genesis: {minted(genesis)} units in all, at most {MAX_AMOUNT} can be counted")


def minted(genesis: Genesis) -> int:
    """All the money there will ever be: no rule mints any more."""
    return sum(genesis.balances.values()) + sum(info.stake for info in genesis.validators)


def chain_id(genesis: Genesis) -> str:
    """Such as `home-4f1d...`: the name, then a hash of the whole document."""
    return f"{genesis.chain}-{digest('tallystick/genesis', to_json(genesis)).hex()[:CHAIN_HASH_CHARACTERS]}"


def genesis_state(genesis: Genesis) -> State:
    """The state at height 0."""
    accounts = {identity: Account(balance=amount) for identity, amount in genesis.balances.items()}
    for info in genesis.validators:
        balance = genesis.balances.get(info.identity, 0)
        accounts[info.identity] = Account(balance=balance, stake=info.stake, locked=info.stake)
    return State(
        chain=chain_id(genesis),
        height=0,
        time_ms=genesis.time_ms,
        accounts=Map(accounts),
        tasks=Map(),
        open_tasks=(),
        validators=tuple(
            Validator(info.identity, info.stake, info.address, info.url, info.certificate)
            for info in genesis.validators
        ),
        minted=minted(genesis),
        burned=0,
    )
