"""Source files to tensors: `train.x`, `train.y`, `test.x`, `test.y`, the first dimension counting records.

Nothing here depends on a library's rounding or on chance: splits go by position, and where numbers are standardized,
sums are exactly rounded (`math.fsum`). So a data set has the same bytes wherever it is made.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from tallystick.errors import Refused
from tallystick.exact.rounding import canonical
from tallystick.network.datasets.archives import unzip
from tallystick.network.datasets.clients import DataSetError
from tallystick.program.optimizers import Tensors

MAX_IDX_BYTES: Final = 64 * 2**20
GZIP_MAGIC: Final = b"\x1f\x8b"
UNSIGNED_BYTE: Final = 8
"""The type of entries in an IDX file."""

WINDOW: Final = 128
"""Characters in one record of text."""
FIRST_PRINTABLE: Final = ord(" ")
VOCABULARY: Final = 96
"""Tokens: 0 is the newline, 1 to 95 are the printable ASCII characters from space to tilde."""
TEST_EVERY: Final = 5


def from_idx(data: bytes, dimensions: int, what: str) -> Tensor:
    """The entries (uint8) of an IDX file: two zero bytes, type, rank, sizes (big-endian), entries, and nothing after.

    >>> from_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), 1, "labels")
    tensor([7, 8, 9], dtype=torch.uint8)

    Raises:
        Refused: `bad_magic` or `wrong_size`.
    """
    header = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, UNSIGNED_BYTE, dimensions]):
        raise Refused("bad_magic", f"{what}: starts with {data[:4].hex()}, not as an IDX file of rank {dimensions}")
    shape = [int.from_bytes(data[place : place + 4], "big") for place in range(4, header, 4)]
    if len(data) - header != math.prod(shape):
        raise Refused("wrong_size", f"{what}: {len(data)} bytes do not hold a header and {shape} entries")
    return torch.frombuffer(bytearray(data[header:]), dtype=torch.uint8).reshape(shape)


def images(files: Sequence[bytes]) -> Tensors:
    """MNIST's four files, compressed or not, as images uint8 [N, 1, H, W] and labels int64 [N]."""
    tensors: Tensors = {}
    for part, pixels, labels in (("train", files[0], files[1]), ("test", files[2], files[3])):
        x = from_idx(_plain(pixels, f"{part} images"), 3, f"{part} images")
        y = from_idx(_plain(labels, f"{part} labels"), 1, f"{part} labels")
        if len(x) != len(y):
            raise Refused("wrong_size", f"{part}: {len(x)} images and {len(y)} labels")
        tensors |= {f"{part}.x": x.unsqueeze(1), f"{part}.y": y.to(torch.int64)}
    return tensors


def _plain(data: bytes, what: str) -> bytes:
    return unzip(data, MAX_IDX_BYTES, what) if data.startswith(GZIP_MAGIC) else data


def text(files: Sequence[bytes]) -> Tensors:
    """Texts as windows of tokens: x int64 [N, WINDOW], and y the same window one character on.

    Windows follow each other without a gap, and do not reach across texts. The last tenth of every text is for testing.
    """
    train, test = [], []
    for data in files:
        stream = _tokens(data)
        windows = (len(stream) - 1) // WINDOW
        held_out = windows // 10
        x = stream[: windows * WINDOW].reshape(windows, WINDOW)
        y = stream[1 : windows * WINDOW + 1].reshape(windows, WINDOW)
        train.append((x[: windows - held_out], y[: windows - held_out]))
        test.append((x[windows - held_out :], y[windows - held_out :]))
    tensors = {}
    for part, pairs in (("train", train), ("test", test)):
        tensors[f"{part}.x"], tensors[f"{part}.y"] = (torch.cat(column) for column in zip(*pairs, strict=True))
    return tensors


def _tokens(data: bytes) -> Tensor:
    characters = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(torch.int64)
    tokens = torch.where(characters == ord("\n"), 0, characters - FIRST_PRINTABLE + 1)
    if bool(((tokens < 0) | (tokens >= VOCABULARY) | ((tokens == 0) & (characters != ord("\n")))).any()):
        raise Refused("bad_text", "a text has a character that is neither printable ASCII nor a newline")
    return tokens


def bundled(name: str) -> Tensors:
    """A set that scikit-learn ships. Every fifth record is for testing.

    The digits stay as they are (uint8). Measurements become float32, and regression targets too: less the mean of the
    training part, divided by its standard deviation.

    Raises:
        DataSetError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets  # noqa: PLC0415  # needed by no other command, and slow to import
    except ImportError:
        raise DataSetError("scikit-learn is not installed; install it with `pip install scikit-learn`") from None
    options = {"scaled": False} if name == "diabetes" else {}
    data, target = getattr(datasets, f"load_{name}")(return_X_y=True, **options)
    x, y = torch.from_numpy(data), torch.from_numpy(target)
    is_test = torch.arange(len(x)) % TEST_EVERY == TEST_EVERY - 1
    x = x.to(torch.uint8) if name == "digits" else _standardized(x, ~is_test)
    y = _standardized(y[:, None], ~is_test) if y.is_floating_point() else y.to(torch.int64)
    return {"train.x": x[~is_test], "train.y": y[~is_test], "test.x": x[is_test], "test.y": y[is_test]}


def _standardized(columns: Tensor, training: Tensor) -> Tensor:
    """`columns` (float64 [N, K]) as float32, each with mean 0 and variance 1 over its training rows."""
    scaled = []
    for column in columns.T:
        known = column[training].tolist()
        mean = math.fsum(known) / len(known)
        spread = math.sqrt(math.fsum((value - mean) * (value - mean) for value in known) / len(known))
        scaled.append([(value - mean) / spread for value in column.tolist()])
    return canonical(torch.tensor(scaled, dtype=torch.float64).T.to(torch.float32).contiguous())
