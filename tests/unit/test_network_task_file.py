"""Task files: what a client writes becomes blobs and an offer, or one clear line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tallystick.errors import Refused
from tallystick.network.blobs import BlobStore
from tallystick.network.following import Follower, Terms, fetch_training
from tallystick.network.task_file import TaskFileError, prepare_task
from tallystick.proof.roots import state_root

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the example that a test may spoil."""
    for name in ("task.toml", "model.py"):
        (tmp_path / name).write_text((EXAMPLE / name).read_text())
    (tmp_path / "digits.safetensors").write_bytes((EXAMPLE / "digits.safetensors").read_bytes())
    (tmp_path / "blobs").mkdir()
    (tmp_path / "others").mkdir()
    return tmp_path


def spoil(folder: Path, old: str, new: str, name: str = "task.toml") -> Path:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    return folder / "task.toml"


def test_the_same_task_file_makes_the_same_offer_twice(folder: Path) -> None:
    one = prepare_task(folder / "task.toml", BlobStore(str(folder / "blobs")))
    two = prepare_task(folder / "task.toml", BlobStore(str(folder / "others")))
    assert one.offer == two.offer
    assert one.offer.initial_root == state_root(one.initial, 0)


def test_a_stranger_gets_the_same_training_from_the_blobs(folder: Path) -> None:
    blobs = BlobStore(str(folder / "blobs"))
    prepared = prepare_task(folder / "task.toml", blobs)
    offer = prepared.offer
    training, initial = fetch_training(blobs, Terms(offer.spec, offer.initial_root, offer.steps, offer.micro_batches))
    assert training.program == prepared.training.program
    assert all(torch.equal(initial[name], value) for name, value in prepared.initial.items())


def test_a_task_whose_ledger_entry_differs_from_its_specification_is_refused(folder: Path) -> None:
    blobs = BlobStore(str(folder / "blobs"))
    offer = prepare_task(folder / "task.toml", blobs).offer
    with pytest.raises(Refused) as refused:
        Follower(blobs, Terms(offer.spec, offer.initial_root, offer.steps + 1, offer.micro_batches))
    assert refused.value.code == "bad_spec"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("steps = 80", "steps = 0", "schedule.steps"),
        ("steps = 80", 'steps = "many"', "schedule.steps"),
        ("momentum", "momentun", "momentun"),
        ("model.py", "missing.py", "missing.py: is no file"),
        ('"build"', '"make"', "make"),
        ("digits.safetensors", "absent.safetensors", "absent.safetensors"),
        ("train.x", "train.z", "train.z"),
        ("audit_permille = 1000", "audit_permille = 1001", "reward"),
        ("[model]", "[model", "line"),
        ('"cross_entropy"', '"hinge"', "`$.loss.name`; there is cross_entropy, mse, l1, huber, bce_with_logits"),
        ('"sgd"', '"lion"', "`$.optimizer.name`; there is sgd, adam, adamw"),
        ('"0.2"', '{ kind = "x" }', "`$.optimizer.learning_rate.kind`; there is constant, step, cosine, linear"),
    ],
)
def test_a_mistake_in_the_task_file_is_named(folder: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(TaskFileError) as error:
        prepare_task(spoil(folder, old, new), BlobStore(str(folder / "blobs")))
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["train.x", "test.x"])
def test_a_number_that_is_none_is_told_with_its_file_tensor_and_record(folder: Path, name: str) -> None:
    data = folder / "digits.safetensors"
    tensors = {source: value.to(torch.float32) for source, value in load_file(data).items()}
    tensors[name][[5, 3], 7] = float("nan")
    save_file(tensors, data)
    with pytest.raises(TaskFileError) as error:
        prepare_task(folder / "task.toml", BlobStore(str(folder / "blobs")))
    assert str(error.value).startswith(f"{data}: {name} holds an infinity or a NaN, first in record 3; leave such ")


def test_too_few_records_are_told_with_how_many_a_step_takes(folder: Path) -> None:
    task = spoil(folder, "micro_batch_size = 16", "micro_batch_size = 180")
    with pytest.raises(Refused, match="1438 records are too few for one step: 8 micro-batches of 180 take 1440"):
        prepare_task(task, BlobStore(str(folder / "blobs")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"import torch\n\ndef build(:\n", ":3: SyntaxError: invalid syntax"),
        (b"\n\nimport no_such_module\n", ":3: ModuleNotFoundError: No module named 'no_such_module'"),
        (b"from torch import nn\ndef build():\n    return nn.Linear('a', 1)\n", ":3: TypeError: "),
        (b"def build():\n    raise ValueError('no\\n way')\n", ":2: ValueError: no way"),
        (b"def build():\n    raise SystemExit(7)\n", ":2: SystemExit: 7"),
        (b"raise SystemExit(7)\n", ":1: SystemExit: 7"),
        (b"exec('(')\n", "<string>:1: SyntaxError: '(' was never closed"),
        (bytes(range(256)), ": SyntaxError: "),
    ],
)
def test_an_error_in_the_model_file_is_told_with_its_line(folder: Path, text: bytes, words: str) -> None:
    (folder / "model.py").write_bytes(text)
    with pytest.raises(TaskFileError) as error:
        prepare_task(folder / "task.toml", BlobStore(str(folder / "blobs")))
    place = "" if words.startswith("<") else str(folder / "model.py")
    assert str(error.value).startswith(f"{place}{words}")


def test_a_task_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError, match=r"nowhere\.toml"):
        prepare_task(tmp_path / "nowhere.toml", BlobStore(str(tmp_path)))


def test_an_operator_outside_the_arithmetic_is_named_with_its_layer(folder: Path) -> None:
    task = spoil(folder, "torch.relu(self.hidden(", "torch.lgamma(self.hidden(", "model.py")
    with pytest.raises(Refused) as refused:
        prepare_task(task, BlobStore(str(folder / "blobs")))
    assert refused.value.code == "unsupported_operator"
    assert "aten.lgamma" in refused.value.reason
    assert "Digits" in refused.value.reason
