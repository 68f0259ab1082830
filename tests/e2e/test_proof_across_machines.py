"""A proof made with two threads and the processor's best instructions holds where there are neither."""

from pathlib import Path

import torch
from benchmarks.honest import PROFILES, honest_row

from proof_samples import SEGMENTS, sample


def test_a_proof_made_with_two_threads_verifies_with_one_and_baseline_instructions(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sample().write(tmp_path / "proof")
    finally:
        torch.set_num_threads(threads)
    chosen = ("compiled, 1 thread", "torch alone, no SIMD")
    row = honest_row(tmp_path / "proof", SEGMENTS, {name: PROFILES[name] for name in chosen})
    assert (row.ours, row.met) == (0, True), row.note


def test_a_segment_that_is_rejected_is_counted(tmp_path: Path) -> None:
    proof = sample().write(tmp_path / "proof", tamper=lambda step, state, total: (nudged(state, step), total))
    row = honest_row(proof.places.proof, SEGMENTS, {"compiled, 1 thread": {}})
    assert row.ours == SEGMENTS and row.met is False and "differs" in row.note


def nudged(state: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
    return state | {"parameter/0.bias": state["parameter/0.bias"] + 1} if step == 1 else state
