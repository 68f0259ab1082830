"""The loops for instruction sets that this machine would not choose have the bits of the published vectors too."""

from pathlib import Path

import pytest
import torch

from exact_built import built
from tallystick.exact.native import accumulate, elementwise, reduce
from tallystick.exact.selftest import run_selftest

LEVELS = {"portable": 0, "AVX2": 1}
CHOICE = "static inline int ts_simd_level(void) {"
FILES = ["elementwise.c", "reduce.c", "accumulate.c", "threads.c"]


@pytest.mark.parametrize("level", LEVELS)
def test_the_loops_of_a_level_have_the_bits_of_the_vectors(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if level == "AVX2" and torch.backends.cpu.get_cpu_capability() not in {"AVX2", "AVX512"}:
        pytest.skip("this processor has no AVX2: its loops cannot run")
    library = built(tmp_path, FILES, {"simd.h": (CHOICE, f"{CHOICE}\n    return {LEVELS[level]};")})
    for module in (elementwise, reduce, accumulate):
        monkeypatch.setattr(module, "LIBRARY", library)
    assert [(ran.case, ran.found) for ran in run_selftest() if not ran.passed] == []
