"""Segments re-executed on a Ray cluster: what is found does not depend on it."""

import importlib.util
from pathlib import Path

import pytest

from proof_samples import sample
from proof_verdicts import at, nudge
from tallystick.proof.directory import Places
from tallystick.proof.parallel import NoRayError
from tallystick.proof.verify import How, verify

RAY = importlib.util.find_spec("ray") is not None


@pytest.mark.skipif(not RAY, reason="ray is not installed; `pip install tallystick[ray]` to run this")
@pytest.mark.filterwarnings("ignore")  # those of Ray are not ours
def test_a_ray_cluster_finds_what_one_process_finds(tmp_path: Path) -> None:
    sample().write(tmp_path / "honest")
    sample().write(tmp_path / "false", tamper=at(4, nudge("parameter/0.bias")))
    for name, outcome in (("honest", "verified"), ("false", "mismatch")):
        alone, on_ray = (verify(Places(tmp_path / name), How(ray=ray)) for ray in (False, True))
        assert alone == on_ray and alone.outcome == outcome


@pytest.mark.skipif(RAY, reason="ray is installed, so it is not missed")
def test_without_ray_it_is_asked_for(tmp_path: Path) -> None:
    sample().write(tmp_path / "proof")
    with pytest.raises(NoRayError, match=r"tallystick\[ray\]"):
        verify(Places(tmp_path / "proof"), How(ray=True))
