"""Plans for mistakes that ordinary seeds find too seldom: each makes likely the one situation that matters."""

from collections.abc import Callable

from tallystick.consensus.pbft.group import Parameters
from tallystick.lab.consensus.network import Weather
from tallystick.lab.consensus.plan import Plan, Trouble


def short_epochs(seed: int) -> Plan:
    """Every checkpoint ends an epoch, nodes die and trail, and one of them votes in the name of the last epoch."""
    return Plan(
        seed=seed,
        n=4,
        parameters=Parameters(2, 2, 1),
        timeout_ms=200,
        chaos_ms=3_000,
        clients=4,
        requests=40,
        think_ms=20,
        block_requests=1,
        weather=Weather(0.0, 0.0, 1, 30, 1.5),
        trouble=Trouble(kills=2.0),
        attacks=((1, "false_checkpoints"),),
    )


def restarts_in_the_first_epochs(seed: int) -> Plan:
    """The first checkpoint ends the first epoch, votes for it take long, and meanwhile everybody dies at once."""
    return Plan(
        seed=seed,
        n=4,
        parameters=Parameters(2, 2, 1),
        timeout_ms=1_000,
        chaos_ms=2_000,
        clients=2,
        requests=4,
        think_ms=20,
        block_requests=2,
        weather=Weather(0.0, 0.0, 100, 20, 2.0),
        trouble=Trouble(all_restart=2.0),
    )


def twins_in_a_storm(seed: int) -> Plan:
    """Views follow one another, and twins see to it that different blocks are prepared in them at one height."""
    return Plan(
        seed=seed,
        n=4,
        parameters=Parameters(8, 40, 8),
        timeout_ms=100,
        chaos_ms=4_000,
        clients=4,
        requests=40,
        think_ms=20,
        block_requests=1,
        weather=Weather(0.3, 0.0, 5, 20, 1.5),
        trouble=Trouble(cuts=1.0, cut_ms=500),
        attacks=((1, "twin"),),
    )


AIMED: dict[str, tuple[Callable[[int], Plan], range]] = {
    "checkpoint_votes_outlive_their_epoch": (short_epochs, range(60, 68)),
    "first_epoch_unknown_after_restart": (restarts_in_the_first_epochs, range(8)),
    "lowest_view_wins": (twins_in_a_storm, range(18)),
}
"""By the mistake: the plan, and seeds of which at least one finds it."""
