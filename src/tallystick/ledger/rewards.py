"""What work is worth: fixed by the offer, in whole units, so that nobody's share depends on who else is paid.

Everything that rounding leaves over stays in escrow and returns to the client at the end.
"""

from tallystick.canon.quorum import quorum


def per_contribution(reward: int, validator_permille: int, steps: int, micro_batches: int) -> int:
    """For each accepted contribution.

    >>> per_contribution(1000, 100, 3, 4)
    75
    """
    return reward * (1000 - validator_permille) // 1000 // (steps * micro_batches)


def per_attestation(reward: int, validator_permille: int, steps: int, validators: int) -> int:
    """For each of the attestations, exactly a quorum, that make a step final.

    >>> per_attestation(1000, 100, 3, 4)
    11
    """
    return reward * validator_permille // 1000 // steps // quorum(validators)
