"""Agreement, exactly-once execution and progress after healing, over many seeds (see `pbft_simulator`)."""

import pytest
from pbft_simulator import Chaos, Simulation

CHAOS = Chaos(loss=0.15, duplication=0.2, delay_ms=(1, 60), crash=0.02)


def run_chaos_then_heal(n: int, seed: int, transactions: int) -> Simulation:
    simulation = Simulation(n, seed, CHAOS)
    for i in range(transactions):
        simulation.submit(simulation.random.randrange(n), b"transaction %d" % i)
        simulation.run(simulation.now + simulation.random.randint(0, 200))
    simulation.run(simulation.now + 1000)
    simulation.heal()
    simulation.run_until_settled(limit_ms=20_000)
    return simulation


@pytest.mark.parametrize("seed", range(40))
def test_four_nodes_agree_under_chaos_and_execute_everything_once_it_is_over(seed: int) -> None:
    run_chaos_then_heal(4, seed, transactions=40)


@pytest.mark.parametrize("seed", range(10))
def test_seven_nodes_agree_under_chaos_and_execute_everything_once_it_is_over(seed: int) -> None:
    run_chaos_then_heal(7, 1000 + seed, transactions=15)


def test_chaos_really_loses_frames_and_kills_nodes() -> None:
    simulations = [run_chaos_then_heal(4, seed, transactions=40) for seed in range(100, 103)]
    assert all(simulation.crashes > 5 for simulation in simulations)
    assert all(len(simulation.chain) > 1 for simulation in simulations)


def test_one_seed_gives_one_history() -> None:
    first, second = (run_chaos_then_heal(4, 77, transactions=8) for _ in range(2))
    assert first.chain == second.chain
    assert first.now == second.now


@pytest.mark.parametrize("n", [4, 7])
def test_a_primary_that_exists_twice_cannot_split_the_others(n: int) -> None:
    """Two copies of the primary propose different blocks to different backups (the Twins method, OPODIS 2021)."""
    for seed in range(25 if n == 4 else 8):
        simulation = Simulation(n, seed, Chaos(loss=0.02, delay_ms=(1, 30)), twin=True)
        for i in range(4):
            simulation.submit(0 if i % 2 else n, b"transaction %d" % i)
            simulation.run(simulation.now + 100)
        simulation.run(simulation.now + 1500)


def test_blocks_come_one_round_after_a_transaction_and_not_at_a_timer() -> None:
    simulation = Simulation(4, 5, Chaos(delay_ms=(1, 1)))
    simulation.run(100)
    simulation.submit(2, b"transaction")
    simulation.run(simulation.now + 5)
    assert not simulation.missing()
