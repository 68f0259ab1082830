"""Recording does not change training, a kill costs at most one interval, and another run cannot go on with a record."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from tallystick.proof.tolerant import Recorder, Run
from tallystick.proof.tolerant import record as r
from tallystick.proof.tolerant.data import DataError, record_digest, record_digests
from tallystick.proof.tolerant.record import checkpoint_name
from tallystick.proof.tolerant.recorder import RecordError
from tolerant_samples import (
    BATCH,
    EPOCHS,
    INTERVAL,
    STEPS,
    adam_setup,
    checkpoint,
    digits,
    read,
    recorder_of,
    run_on,
    setup,
    train,
)

KILLED_AT = 33
TRAINER = """
import os, signal, sys
from pathlib import Path
from tolerant_samples import EPOCHS, adam_setup, recorder_of
run = adam_setup(4)
with recorder_of(Path(sys.argv[1]), run, 4) as recorder:
    for indices in recorder.batches(epochs=EPOCHS):
        loss = run.step(indices)
        if (recorder.done + 1) % run.scheduler_every == 0:
            run.scheduler.step()
        recorder.step(indices, loss)
        if recorder.done == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_after_sigkill_the_run_goes_on_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    """With dropout, Adam and a learning-rate schedule, whose states all have to come back."""
    whole = train(tmp_path / "whole", 4, adam_setup)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", TRAINER, str(tmp_path / "killed"), str(KILLED_AT)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / r.TRANSCRIPT).read_bytes().count(b"\n") == KILLED_AT // INTERVAL * INTERVAL
    resumed = train(tmp_path / "killed", 4, adam_setup)
    assert same(weights(whole), weights(resumed))
    assert (tmp_path / "killed" / r.SIGNATURE).read_bytes() == (tmp_path / "whole" / r.SIGNATURE).read_bytes()


def test_resumed_records_are_those_of_a_run_that_was_never_interrupted(tmp_path: Path) -> None:
    train(tmp_path / "whole", 4, adam_setup)
    train(tmp_path / "parts", 4, adam_setup, until=KILLED_AT)
    train(tmp_path / "parts", 4, adam_setup, until=KILLED_AT + 11)
    train(tmp_path / "parts", 4, adam_setup)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "parts" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("damage", ["torn line", "torn checkpoint", "lost checkpoint"])
def test_what_a_power_cut_leaves_is_gone_on_with_from_the_last_whole_checkpoint(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run"
    train(path, 1, until=KILLED_AT)
    newest = path / checkpoint_name(KILLED_AT // INTERVAL * INTERVAL)
    if damage == "torn line":
        data = (path / r.TRANSCRIPT).read_bytes()
        (path / r.TRANSCRIPT).write_bytes(data[:-40])
    elif damage == "torn checkpoint":
        newest.write_bytes(newest.read_bytes()[:100])
    else:
        newest.unlink()
    with pytest.raises(KeyboardInterrupt), recorder_of(path, setup(1), 1) as recorder:
        assert recorder.done == KILLED_AT // INTERVAL * INTERVAL - INTERVAL
        raise KeyboardInterrupt
    train(path, 1)
    train(tmp_path / "whole", 1)
    assert (path / r.SIGNATURE).read_bytes() == (tmp_path / "whole" / r.SIGNATURE).read_bytes()


def test_recording_does_not_change_what_is_trained(tmp_path: Path) -> None:
    """The recorder seeds before each step; without it the same seeds give the same weights."""
    from tallystick.proof.tolerant.seeding import batch_of_step, seed_step

    recorded, plain = train(tmp_path / "run", 5), setup(5)
    for step in range(STEPS):
        seed_step(5, step)
        plain.step(batch_of_step(5, step, len(plain.data), BATCH))
    assert same(weights(recorded), weights(plain))


def test_every_epoch_has_every_record_once_in_another_order(tmp_path: Path) -> None:
    train(tmp_path / "run", 1)
    indices = [index for entry in read(tmp_path / "run").entries for index in entry.indices]
    per_epoch = len(indices) // EPOCHS
    passes = [indices[i : i + per_epoch] for i in range(0, len(indices), per_epoch)]
    assert all(sorted(p) == list(range(per_epoch)) for p in passes)
    assert passes[0] != passes[1]


def test_another_run_cannot_go_on_and_is_told_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(path, 1, until=KILLED_AT)
    x, y = digits()
    with pytest.raises(RecordError, match=r"groups: .*0\.05.* in the record, .*0\.02.* now"):
        recorder_of(path, run_on(x, y, 1, lr=0.02), 1).__enter__()
    with pytest.raises(RecordError, match=r"data: .* in the record"):
        recorder_of(path, run_on(x, y.roll(1), 1), 1).__enter__()
    with pytest.raises(RecordError, match="seed: 1 in the record, 2 now"):
        recorder_of(path, setup(2), 2).__enter__()
    run = setup(1)
    with pytest.raises(RecordError, match="interval: 5 in the record, 7 now"):
        Recorder(path, run.model, run.optimizer, run.data, seed=1, interval=7, batch_size=BATCH).__enter__()


def test_a_finished_record_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path / "run", 1)
    with pytest.raises(RecordError, match="finished record"):
        recorder_of(tmp_path / "run", setup(1), 1).__enter__()


def test_a_directory_with_other_files_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RecordError, match="other files"):
        recorder_of(tmp_path, setup(1), 1).__enter__()


def test_the_commitment_is_there_before_the_first_step(tmp_path: Path) -> None:
    recorder_of(tmp_path / "run", setup(1), 1).__enter__()
    assert (tmp_path / "run" / r.COMMITMENT).exists() and not (tmp_path / "run" / r.SIGNATURE).exists()


def test_checkpoints_hold_weights_buffers_and_slots(tmp_path: Path) -> None:
    train(tmp_path / "run", 1, adam_setup)
    names = set(checkpoint(tmp_path / "run", STEPS).tensors)
    assert {"model/0.weight", "model/1.running_var", "model/1.num_batches_tracked", "optimizer/0/exp_avg"} <= names


def test_reading_the_records_leaves_the_generators_alone() -> None:
    class Restless(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            random.random(), np.random.rand(), torch.rand(1)
            return self.tensors[0][index], self.tensors[1][index]

    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate()
    record_digests(Restless(*digits()))
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()


def test_random_augmentation_in_the_data_set_is_refused() -> None:
    class Augmented(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            return self.tensors[0][index] + torch.rand(1), self.tensors[1][index]

    with pytest.raises(DataError, match="augment inside the training step"):
        record_digests(Augmented(*digits()))


def test_a_record_is_named_by_type_shape_and_every_byte() -> None:
    big = np.zeros(3072, dtype=np.uint8)
    other = big.copy()
    other[1500] = 1
    assert str(big) == str(other)  # what the 2021 code hashed
    values: list[object] = [
        big, other, big.reshape(3, 1024), torch.zeros(3072, dtype=torch.uint8), big.tobytes(), [1, 2], [1, [2]], 1,
        True, 1.0, "1", b"1", None, {"a": 1}, {"b": 1}, (1, 2, 3), float("nan"),
    ]  # fmt: skip
    assert len({record_digest(value) for value in values}) == len(values)


def test_an_unknown_kind_of_record_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"builtins\.object"):
        record_digest(object())
