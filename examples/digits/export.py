"""Writes scikit-learn's handwritten digits (1,797 images of 8x8 pixels) as one safetensors file.

The split depends on nothing but the position: every fifth image is for testing. So the file has the same bytes
wherever it is written, and its name (its SHA-256) can be stated in a task.

    python examples/digits/export.py [digits.safetensors]
"""

import sys
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save
from sklearn.datasets import load_digits

TEST_EVERY: Final = 5


def digits_file() -> bytes:
    """The whole file: pixels 0..16 as uint8 [N, 64], labels 0..9 as int64 [N], for training and for testing."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = pixels.astype(np.uint8), labels.astype(np.int64)
    is_test = np.arange(len(x)) % TEST_EVERY == TEST_EVERY - 1
    return save({"train.x": x[~is_test], "train.y": y[~is_test], "test.x": x[is_test], "test.y": y[is_test]})


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("digits.safetensors")
    data = digits_file()
    path.write_bytes(data)
    print(f"{path}: {len(data)} bytes, sha256 {sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
