"""Our validators as CometBFT sees them: an identity is an Ed25519 key, and so is a CometBFT validator.

A validator votes in CometBFT with the key of its identity, so the two sets need no table between them. All have the
same power, because the ledger counts heads (`canon/quorum.py`), and a set that CometBFT weighs differently could
commit what the ledger would call a minority.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from tallystick.consensus.cometbft.port import Offense
from tallystick.consensus.cometbft.values import Misbehavior, MisbehaviorType, PublicKey, ValidatorUpdate
from tallystick.errors import Refused

POWER: Final = 1
ADDRESS_BYTES: Final = 20


def address_of(identity: str) -> bytes:
    """How CometBFT names a validator: the first 20 bytes of the SHA-256 of its public key."""
    return sha256(bytes.fromhex(identity)).digest()[:ADDRESS_BYTES]


def update_of(identity: str, power: int = POWER) -> ValidatorUpdate:
    return ValidatorUpdate(PublicKey(ed25519=bytes.fromhex(identity)), power)


def changes(before: Iterable[str], after: Iterable[str]) -> tuple[ValidatorUpdate, ...]:
    """What CometBFT has to be told when the set changes, in one order for all nodes. Takes effect two blocks later.

    Raises:
        Refused: `no_validators`; CometBFT halts for good without any.
    """
    old, new = set(before), set(after)
    if not new:
        raise Refused("no_validators", "the ledger has no validators left; CometBFT cannot go on without one")
    return tuple(update_of(identity, POWER if identity in new else 0) for identity in sorted(old ^ new))


def require_same_set(listed: Sequence[ValidatorUpdate], validators: Sequence[str]) -> None:
    """Checks the validators of CometBFT's genesis document against ours. It may leave them out.

    Raises:
        Refused: `wrong_validators`
    """
    wanted = {(bytes.fromhex(identity), POWER) for identity in validators}
    found = {(entry.pub_key.ed25519 if entry.pub_key else None, entry.power) for entry in listed}
    if listed and (found != wanted or len(listed) != len(wanted)):
        raise Refused(
            "wrong_validators",
            f"CometBFT's genesis document lists {len(listed)} validators, which are not our {len(wanted)} with power "
            f"{POWER} each; write it with `tallystick abci genesis`",
        )


def offenses(misbehavior: Iterable[Misbehavior], answerable: Iterable[str]) -> tuple[Offense, ...]:
    """Double votes of those among `answerable` that CometBFT has proven, in one order for all nodes.

    A light client attack is a double vote that was shown to a light client only. A validator that does not answer for
    its votes any more has no bond left to lose.
    """
    kinds = (MisbehaviorType.DUPLICATE_VOTE, MisbehaviorType.LIGHT_CLIENT_ATTACK)
    proven = [
        (entry.validator.address, entry.height) for entry in misbehavior if entry.validator and entry.type in kinds
    ]
    names = {address_of(identity): identity for identity in answerable} if proven else {}
    return tuple(sorted({Offense(names[address], height) for address, height in proven if address in names}))
