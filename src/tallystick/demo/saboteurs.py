"""Workers that cheat, for the demonstration and for tests. Each differs from the honest one in a single place.

Run as `python -m tallystick.demo.saboteurs one-ulp --key ... --join ... --blobs ...`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tallystick.ledger.transactions import Commitment
from tallystick.network import views
from tallystick.network.running import run_worker, start_logging, stop_on_eof
from tallystick.network.worker import Worker
from tallystick.program.optimizers import Tensors
from tallystick.program.training import Training


class OneUlp(Worker):
    """Changes one gradient element by one unit in the last place, in each contribution."""

    def contribute(self, training: Training, state: Tensors, step: int, micro_batch: int) -> Tensors:
        honest = super().contribute(training, state, step, micro_batch)
        name = f"gradient/{training.parameters[0]}"
        tampered = honest[name].clone()
        tampered.view(-1)[0] += 1
        return honest | {name: tampered}


class Copier(Worker):
    """Commits to copies of another worker's commitments as soon as there are any, and works honestly until then."""

    def commitments(self, task: views.TaskWork, honest: list[Commitment]) -> list[Commitment]:
        others = self._validators.task(task.task).commitments
        if not others:
            return honest
        return [Commitment(own.micro_batch, others[0]) for own in honest]


SABOTEURS: Final[dict[str, type[Worker]]] = {"one-ulp": OneUlp, "copier": Copier}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="tallystick.demo.saboteurs", description=__doc__)
    parser.add_argument("kind", choices=sorted(SABOTEURS))
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--join", action="append", required=True)
    parser.add_argument("--blobs", required=True)
    given = parser.parse_args(arguments)
    start_logging()
    stop_on_eof()
    run_worker(given.key, given.join, given.blobs, kind=SABOTEURS[given.kind])


if __name__ == "__main__":
    main()
