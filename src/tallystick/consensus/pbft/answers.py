"""What the rules of an application answer when the replica asks about transactions: the same in every shell."""

from tallystick.consensus.pbft.io import Examine, Examined, Verified, Verify
from tallystick.consensus.port import Rules
from tallystick.errors import Refused


def verify(rules: Rules, asked: Verify) -> Verified:
    try:
        for transaction in asked.transactions:
            rules.check(transaction)
    except Refused as refused:
        return Verified(asked.digest, refused.code)
    return Verified(asked.digest, "")


def examine(rules: Rules, asked: Examine) -> Examined:
    accepted, refused = [], []
    for transaction in asked.transactions:
        try:
            rules.admit(transaction)
            accepted.append(transaction)
        except Refused as reason:
            refused.append((transaction, reason.code))
    return Examined(tuple(accepted), tuple(refused), asked.again, asked.peer)
