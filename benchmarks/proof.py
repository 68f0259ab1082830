"""`python -m benchmarks.proof`: what recording costs, how large a proof is, and how long its verification takes.

    python -m benchmarks.proof [--json FILE] [--steps N] [--rounds N] [--segments-each N] [--only PATTERN]

**Overhead.** Two runs of one training in turn, segment by segment, one recorded and one not; each side's time is the
sum over its segments, and what is still being written at the end counts for the recorded side. Segments are as long as
those of a training of `--steps` steps. Which side goes first changes from segment to segment.

**Size.** A whole training of `--steps` steps is recorded: of the bundled digits, and of a perceptron with about 100,000
parameters. What is published is all but the checkpoints; records and the 32 bytes of each step are taken off.

**Verification.** The default policy on that proof, in this process, against the time that the training took; and,
without a bar, the whole command, which also starts Python and loads PyTorch.

**Honest proofs.** Every segment of one, made with two threads, is re-executed under each CPU profile of `honest.py`.

**Attacks.** `tallystick attacks`: how many of the known attacks the exact verifier accepts, beside that of 2021; and
how often a sample meets one bad segment, beside what the verdict says.
"""

import argparse
import fnmatch
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import torch

from benchmarks.cases import WORKLOADS, Workload, built, program_of, started
from benchmarks.honest import honest_row
from benchmarks.models import MLP
from benchmarks.report import Row, progress, publish, ratio_row
from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.network.task_file import load_task_file, prepare_run
from tallystick.program.graph import encode_program, program_name
from tallystick.program.schedule import ConstantRate
from tallystick.program.spec import DataSet, encode_spec
from tallystick.program.tensors import to_blob
from tallystick.program.trace import specs
from tallystick.program.training import prepare_training, train_step
from tallystick.proof.attacks.run import run_attacks
from tallystick.proof.commitment import commitment_of, default_segment
from tallystick.proof.directory import Places
from tallystick.proof.packing import pack
from tallystick.proof.policy import Sample
from tallystick.proof.recorder import Recorder, Run, train
from tallystick.proof.roots import records_root, state_root
from tallystick.proof.verify import How, verify

DIGITS: Final = Path(__file__).parents[1] / "examples" / "digits" / "task.toml"
KEY: Final = Key.from_seed(b"b" * 32)
OVERHEAD_BAR: Final = 1.02
SIZE_BAR: Final = 5.0
VERIFICATION_BAR: Final = 0.03
HONEST_SEGMENTS: Final = 128


@dataclass(frozen=True)
class Times:
    plain: float
    recorded: float
    processor_plain: float
    processor_recorded: float


def with_steps(run: Run, steps: int) -> Run:
    spec = msgspec.structs.replace(run.training.spec, steps=steps)
    return replace(run, training=replace(run.training, spec=spec))


def digits() -> Run:
    return prepare_run(DIGITS, load_task_file(DIGITS))


def mlp() -> Run:
    """The perceptron of `benchmarks.exact`."""
    return of(WORKLOADS["mlp"])


def perceptron() -> Run:
    """One with about 100,000 parameters, for images of MNIST's size."""
    return of(replace(WORKLOADS["mlp"], model=lambda: MLP(784, 128, 10), batch=64))


def of(work: Workload) -> Run:
    """A run of a model that is measured, with a specification that names what it has."""
    program, records = program_of(work, "full"), work.records()
    training, initial = started(built(work), program, records, ConstantRate(work.rate))
    encoded = encode_program(program)
    spec = msgspec.structs.replace(
        training.spec,
        program=program_name(encoded),
        train=DataSet(blob_name(to_blob(records)), records_root(records), specs(records)),
        initial_state=blob_name(to_blob(initial)),
        initial_root=state_root(initial, 0),
    )
    return Run(prepare_training(spec, program, records), encoded, initial, None)


CASES: Final = {"digits": digits, "perceptron": perceptron, "mlp": mlp}
WHOLE: Final = ("digits", "perceptron")
NAMES: Final = (*(f"overhead,{name}" for name in CASES), *(f"whole,{name}" for name in WHOLE), "honest", "attacks")


def recorder_of(path: Path, run: Run, segment: int | None = None) -> Recorder:
    spec = run.training.spec
    commitment = commitment_of(spec, blob_name(encode_spec(spec)), run.training.program, segment=segment)
    return Recorder(path, KEY, run, commitment)


def overhead(run: Run, segment: int, segments: int, folder: Path) -> Times:
    """Seconds of both sides over so many segments, after one to warm up."""
    run = with_steps(run, (segments + 1) * segment)
    plain, clock, processor = run.initial, [0.0, 0.0], [0.0, 0.0]
    with recorder_of(folder / "proof", run, segment) as recorder:
        for index in range(segments + 1):
            for side in ((0, 1), (1, 0))[index % 2]:
                began, spent = time.perf_counter(), time.process_time()
                for step in range(index * segment, (index + 1) * segment):
                    if side:
                        recorder.add(*train_step(run.training, recorder.state, step))
                    else:
                        plain, _ = train_step(run.training, plain, step)
                if side and index == segments:
                    recorder.wait()
                if index:
                    clock[side] += time.perf_counter() - began
                    processor[side] += time.process_time() - spent
        assert state_root(plain, 0) == state_root(recorder.state, 0)
    return Times(clock[0], clock[1], processor[0], processor[1])


def overhead_rows(name: str, run: Run, steps: int, segments: int, rounds: int) -> Iterator[Row]:
    segment = default_segment(steps)
    found = []
    for number in range(rounds):
        progress(f"{name}: overhead, round {number + 1} of {rounds}")
        with tempfile.TemporaryDirectory() as folder:
            found.append(overhead(run, segment, segments, Path(folder)))
    best = sorted(found, key=lambda times: times.recorded / times.plain)[len(found) // 2]
    note = f"{segments} segments of {segment} steps, median of {rounds} rounds"
    per_step = 1000 / (segments * segment)
    yield ratio_row(
        f"recording, {name}, wall time of a step", "ms", best.recorded * per_step, best.plain * per_step,
        "not recorded", OVERHEAD_BAR, note,
    )  # fmt: skip
    yield ratio_row(
        f"recording, {name}, processor time of a step, all threads", "ms", best.processor_recorded * per_step,
        best.processor_plain * per_step, "not recorded", None, note,
    )  # fmt: skip


def whole_rows(name: str, run: Run, steps: int, folder: Path) -> Iterator[Row]:
    """Trains once, packs, verifies."""
    run = with_steps(run, steps)
    progress(f"{name}: {steps} steps")
    began = time.perf_counter()
    with recorder_of(folder / "proof", run) as recorder:
        train(recorder)
        segments = recorder.commitment.segments
    trained = time.perf_counter() - began
    core, archive = pack(folder / "proof", folder / "core", without_data=True)
    model = sum(value.nbytes for key, value in run.initial.items() if key.startswith(("parameter/", "buffer/")))
    yield Row(
        f"published proof of {steps} steps, {name}, without records and 32 bytes a step", "KiB",
        (core - 32 * steps) / 1024, model / 1024, "the model", (core - 32 * steps) / model, SIZE_BAR,
        core - 32 * steps <= SIZE_BAR * model, f"{core} bytes in all; checkpoints kept by the prover: {archive} bytes",
    )  # fmt: skip
    began = time.perf_counter()
    verdict = verify(Places(folder / "proof"), How(Sample(b"benchmark")))
    verified = time.perf_counter() - began
    assert verdict.outcome == "verified"
    chances = ", ".join(f"{100 * c.probability:.1f} % for {c.bad}" for c in verdict.detection)
    note = f"{len(verdict.checked)} of {segments} segments; meets a bad one with {chances} bad"
    what = f"default verification of {steps} steps, {name}"
    yield ratio_row(what, "s", verified, trained, "training", VERIFICATION_BAR, note)
    began = time.perf_counter()
    command = [sys.executable, "-m", "tallystick.cli.main", "verify", "--nonce", "benchmark", str(folder / "proof")]
    subprocess.run(command, capture_output=True, check=True)
    elapsed = time.perf_counter() - began
    yield ratio_row(f"{what}, as a command", "s", elapsed, trained, "training", None)


def replays() -> Row:
    """An honest proof of many short segments, made with two threads."""
    run = with_steps(digits(), 2 * HONEST_SEGMENTS)
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        with recorder_of(Path(folder) / "proof", run, 2) as recorder:
            train(recorder)
        torch.set_num_threads(1)
        return honest_row(Path(folder) / "proof", HONEST_SEGMENTS)


def attack_rows() -> Iterator[Row]:
    report = run_attacks(on_attack=progress)
    executed = [result for result in report.results if result.standing == "run"]
    old = [result for result in executed if result.baseline2021 != "not asked"]
    accepted = sum(result.baseline2021 == "accepted" for result in old)
    yield Row(
        "attacks accepted by the exact verifier", "rows", len(report.accepted), accepted, "the verifier of 2021",
        len(report.accepted) / accepted, 0.0, not report.accepted,
        f"of {len(executed)} rows, and of {len(old)} in 2021",
    )  # fmt: skip
    for measured in report.sampling:
        interval = f"95 % interval {100 * measured.low:.1f} to {100 * measured.high:.1f} of {measured.trials} draws"
        yield Row(
            f"one bad segment among {measured.segments}, {measured.drawn} drawn besides first and last: met", "%",
            100 * measured.rate, 100 * measured.expected, "what the verdict says", measured.rate / measured.expected,
            None, measured.within, interval,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proof", description="What proofs cost.")
    parser.add_argument("--json", type=Path, help="write the rows there as JSON")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--segments-each", type=int, default=4, help="segments of a round of overhead")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="*", help="such as overhead,mlp; a pattern may have *")
    options = parser.parse_args()
    wanted = fnmatch.filter(NAMES, options.only)
    if not wanted:
        parser.error(f"--only {options.only!r} matches nothing; there are {'; '.join(NAMES)}")
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, prepared in CASES.items():
        if f"overhead,{name}" in wanted:
            rows.extend(overhead_rows(name, prepared(), options.steps, options.segments_each, options.rounds))
    for name in WHOLE:
        if f"whole,{name}" in wanted:
            with tempfile.TemporaryDirectory() as folder:
                rows.extend(whole_rows(name, CASES[name](), options.steps, Path(folder)))
    if "honest" in wanted:
        rows.append(replays())
    if "attacks" in wanted:
        rows.extend(attack_rows())
    publish(rows, 1, options.json)


if __name__ == "__main__":
    main()
