"""Tests of the tests: the simulator finds every planted bug (docs/simulation.md has the figures of the whole search).

The search starts at the seed that found the bug when the figures were taken, so that this stays quick;
`tallystick lab consensus --planted all` starts at seed 0.
"""

import pytest
from aimed import AIMED
from regressions import FAILED_ONCE, REGRESSIONS

from tallystick.lab.consensus.campaign import Seeds, run_seed
from tallystick.lab.consensus.planted import BUGS
from tallystick.lab.consensus.run import run
from tallystick.lab.consensus.search import find

FOUND_BY = {
    "quorum_of_two_thirds_rounded_down": 2,
    "quorum_without_overlap": 1,
    "commit_before_persist": 6,
    "votes_forgotten_on_restart": 0,
    "view_forgotten_on_restart": 0,
    "lost_memory_votes_at_once": 13,
    "view_change_wipes_prepared_state": 1,
    "new_view_not_recomputed": 27,
    "bad_claim_hides_good_ones": 409,
    "claims_not_verified": 129,
    "null_blocks_of_each_node": 6,
    "view_changes_not_repeated": 0,
    "one_vote_moves_the_view": 0,
    "backups_start_no_timer": 7,
    "primary_for_ever": 7,
    "freshness_of_what_is_proposed_again": 0,
    "signatures_over_the_digest_alone": 129,
    "requests_not_checked_by_backups": 98,
    "votes_of_any_view_counted": 0,
    "honest_validator_framed": 1,
    "delivery_without_order": 0,
    "checkpoint_names_the_state_alone": 598,
    "no_watermarks": 41,
    "early_frames_without_bound": 39,
    "queue_outlives_the_epoch": 19,
    "blocks_without_certificate": 37,
    "snapshot_without_check": 15,
    "nobody_catches_up": 0,
    "requests_forgotten_by_a_new_view": 51,
    "proposals_below_the_base_of_the_view": 37,
    "queue_outlives_a_transfer": 12,
}
SEARCHED = 40


def test_every_planted_bug_has_a_seed_that_finds_it() -> None:
    assert sorted({*FOUND_BY, *AIMED}) == sorted(BUGS)
    assert len(BUGS) >= 15


def test_every_fault_that_was_found_stays_planted() -> None:
    assert {regression.bug for regression in REGRESSIONS} <= set(BUGS)


@pytest.mark.parametrize("bug", sorted(FOUND_BY))
def test_the_planted_bug_is_found(bug: str) -> None:
    first = FOUND_BY[bug]
    detection = find(bug, Seeds(first, first + SEARCHED))
    assert detection.found, detection.line()


@pytest.mark.parametrize(("seed", "n"), FAILED_ONCE)
def test_a_seed_that_failed_once_holds(seed: int, n: int) -> None:
    assert run_seed(seed, n).passed


@pytest.mark.parametrize("bug", sorted(AIMED))
def test_what_ordinary_seeds_find_too_seldom_is_found_by_a_plan_of_its_own(bug: str) -> None:
    plan, seeds = AIMED[bug]
    with BUGS[bug]():
        assert not all(run(plan(seed)).passed for seed in seeds)
    assert all(run(plan(seed)).passed for seed in seeds)
