"""Every fault that the simulator found in the core, by name, for ever.

What a seed brings changes with `plan.py`, so a number alone would soon stand for another run. Each fault is therefore
kept as a planted bug that undoes its repair (`lab/consensus/planted.py`), with a seed that finds it today.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Regression:
    bug: str
    """Its name in `planted.BUGS`."""
    first_seen: str
    """The seed that found it, under the plan of that day."""
    invariant: int
    mended: str


REGRESSIONS = (
    Regression(
        "proposals_below_the_base_of_the_view",
        "seed 157, n = 4, with an amnesiac",
        6,
        "a view decides nothing at or below the checkpoint that it was opened with (views.Opening.base)",
    ),
    Regression(
        "first_epoch_unknown_after_restart",
        "seed 462, n = 4, restarts in epoch 1",
        1,
        "in epoch 1 the group before is that of genesis (restart.restore)",
    ),
    Regression(
        "checkpoint_votes_outlive_their_epoch",
        "seed 15, n = 10, with false_checkpoints",
        13,
        "entering an epoch drops votes for checkpoints above its start (checkpoints.enter_epoch)",
    ),
    Regression(
        "silent_peers_asked_again_for_each_target",
        "seed 500053, n = 7, a newcomer among whose first peers two have retired",
        13,
        "the next target of a state transfer keeps who was silent and whose turn it is (State.silent, turns)",
    ),
    Regression(
        "silent_peers_forgotten_with_a_target_given_up",
        "seed 30009, n = 16, with three dead peers",
        13,
        "which peers are silent is known beyond the target of a state transfer (State.silent)",
    ),
    Regression(
        "queue_outlives_a_transfer",
        "seed 364, n = 4, a slow node that takes over a snapshot; seed 102368, n = 4",
        13,
        "what waits is examined after a restore (forwarding.examine_all)",
    ),
)
