"""The committed digits file is what the export script writes, on any machine."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
COMMITTED = DIGITS / "digits.safetensors"
NAME = "5ed9b7fb5bea14662d2c8e8fa4a77061a6a934873cde06269171e8f8b26e6176"


def test_the_export_writes_the_committed_file(tmp_path: Path) -> None:
    path = tmp_path / "digits.safetensors"
    subprocess.run([sys.executable, DIGITS / "export.py", path], check=True, stdout=subprocess.DEVNULL)
    assert path.read_bytes() == COMMITTED.read_bytes()


def test_the_committed_file_has_the_name_that_its_readme_states() -> None:
    assert sha256(COMMITTED.read_bytes()).hexdigest() == NAME
    assert NAME in (DIGITS / "README.md").read_text()


def test_every_fifth_image_is_for_testing_and_no_image_is_lost() -> None:
    pixels, labels = load_digits(return_X_y=True)
    tensors = load_file(COMMITTED)
    assert {name: (str(t.dtype), t.shape) for name, t in tensors.items()} == {
        "train.x": ("uint8", (1438, 64)),
        "train.y": ("int64", (1438,)),
        "test.x": ("uint8", (359, 64)),
        "test.y": ("int64", (359,)),
    }
    train = [i for i in range(len(labels)) if i % 5 != 4]
    assert np.array_equal(tensors["test.x"], pixels[4::5]) and np.array_equal(tensors["test.y"], labels[4::5])
    assert np.array_equal(tensors["train.x"], pixels[train]) and np.array_equal(tensors["train.y"], labels[train])
