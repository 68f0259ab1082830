"""Many seeds over several processes, and what they add up to."""

import gc
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import tallystick
from tallystick.lab.consensus.plan import plan_for
from tallystick.lab.consensus.run import Verdict, run

SEEDS_AT_A_TIME: Final = 20
JUDGED: Final = ("canon", "consensus", "lab", "ledger")
"""The rooms whose code a campaign is about."""


@dataclass(frozen=True)
class Seeds:
    first: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise ValueError(f"seeds go up from 0, not from {self.first} to {self.last}")

    def chunks(self) -> Iterator[range]:
        for start in range(self.first, self.last + 1, SEEDS_AT_A_TIME):
            yield range(start, min(start + SEEDS_AT_A_TIME, self.last + 1))


def run_seed(seed: int, n: int | None = None, *, ledger: bool = False, story: bool = False) -> Verdict:
    """The run of one seed. An error in the lab or the core that nothing foresaw is a failure of the seed as well."""
    plan = replace(plan_for(seed, n), ledger=ledger)
    try:
        return run(plan, story=story)
    except Exception as error:  # a campaign goes on, and names the seed
        return Verdict(seed, plan.n, plan.ledger, failure=f"{type(error).__name__}: {error}")


def _run_chunk(seeds: range, n: int | None, ledger: bool) -> list[Verdict]:
    """The collector of cycles waits for the end: within a run it finds little and takes a tenth of the time."""
    gc.disable()
    try:
        return [run_seed(seed, n, ledger=ledger) for seed in seeds]
    finally:
        gc.enable()
        gc.collect()


def campaign(
    seeds: Seeds, *, jobs: int, n: int | None, told: Callable[[Verdict], None], ledger: bool = False
) -> "Result":
    """Runs all seeds; `told` hears each verdict as it comes, in no order when there are several jobs."""
    result = Result(seeds, jobs, ledger)
    started = time.perf_counter()
    for verdict in _verdicts(seeds, jobs, n, ledger):
        result.add(verdict)
        told(verdict)
    result.seconds = time.perf_counter() - started
    return result


def _verdicts(seeds: Seeds, jobs: int, n: int | None, ledger: bool) -> Iterable[Verdict]:
    if jobs == 1:
        for chunk in seeds.chunks():
            yield from _run_chunk(chunk, n, ledger)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("forkserver")) as pool:
        chunks = seeds.chunks()
        running = {pool.submit(_run_chunk, chunk, n, ledger) for chunk in islice(chunks, 2 * jobs)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()
            running |= {pool.submit(_run_chunk, chunk, n, ledger) for chunk in islice(chunks, len(done))}


class Result:
    """What a campaign found. `report` is the documented form (docs/simulation.md)."""

    def __init__(self, seeds: Seeds, jobs: int, ledger: bool) -> None:
        self.seeds = seeds
        self.ledger = ledger
        self.jobs = jobs
        self.seconds = 0.0
        self.failed: list[Verdict] = []
        self._sizes: dict[int, dict[str, float]] = {}
        self._features: dict[str, int] = {}
        self._traces = 0

    def add(self, verdict: Verdict) -> None:
        if not verdict.passed:
            self.failed.append(verdict)
        size = self._sizes.setdefault(verdict.n, dict.fromkeys(("seeds", *_SUMS), 0))
        size["seeds"] += 1
        for name in _SUMS:
            size[name] += getattr(verdict, name)
        for feature in verdict.features:
            self._features[feature] = self._features.get(feature, 0) + 1
        self._traces ^= int.from_bytes(hashlib.sha256(f"{verdict.seed} {verdict.trace}".encode()).digest()[:16], "big")

    @property
    def passed(self) -> bool:
        return not self.failed

    def report(self) -> dict[str, Any]:
        return {
            "version": tallystick.__version__,
            "code": code_digest(),
            "seeds": [self.seeds.first, self.seeds.last],
            "ledger": self.ledger,
            "jobs": self.jobs,
            "seconds": round(self.seconds, 1),
            "failed": [
                {"seed": v.seed, "n": v.n, "invariant": v.invariant, "failure": v.failure, "again": again(v)}
                for v in sorted(self.failed, key=lambda verdict: verdict.seed)
            ],
            "by_n": {str(n): {k: round(v, 1) for k, v in self._sizes[n].items()} for n in sorted(self._sizes)},
            "features": dict(sorted(self._features.items())),
            "traces": f"{self._traces:032x}",
        }


_SUMS: Final = ("seconds", "events", "blocks", "epochs", "views", "crashes", "transfers", "accused")


def again(verdict: Verdict) -> str:
    """The command that shows a run, also one whose size the seed did not draw."""
    option = " --ledger" if verdict.ledger else ""
    return f"tallystick lab consensus --seeds {verdict.seed}..{verdict.seed} --n {verdict.n}{option} --transcript"


def code_digest() -> str:
    """Names the code that was judged: the sources of its rooms, in order."""
    root = Path(tallystick.__file__).parent
    hashed = hashlib.sha256()
    for room in JUDGED:
        for path in sorted((root / room).rglob("*.py")):
            hashed.update(f"{path.relative_to(root)}\n".encode())
            hashed.update(path.read_bytes())
    return hashed.hexdigest()
