"""Source files to tensors."""

import gzip
import math

import pytest
import torch
from sklearn import datasets

from tallystick.errors import Refused
from tallystick.network.datasets import convert


def idx(shape: tuple[int, ...], entries: bytes, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape) + entries


def code_of(data: bytes, dimensions: int) -> str:
    with pytest.raises(Refused) as caught:
        convert.from_idx(data, dimensions, "labels")
    return caught.value.code


def test_idx_entries_are_read_row_by_row() -> None:
    assert convert.from_idx(idx((2, 3), bytes(range(6))), 2, "x").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\x08", idx((2,), b"ab", kind=0x0D), idx((1, 2), b"ab"), b"\x1f\x8b\x08\x01"]
)
def test_a_file_that_does_not_begin_as_idx_is_refused(data: bytes) -> None:
    assert code_of(data, 1) == "bad_magic"


@pytest.mark.parametrize("data", [idx((3,), b"ab"), idx((1,), b"ab"), idx((2**32 - 1,), b"ab"), idx((2,), b"")[:6]])
def test_an_idx_file_of_another_length_than_it_says_is_refused(data: bytes) -> None:
    assert code_of(data, 1) == "wrong_size"


def test_images_get_a_channel_and_may_be_compressed() -> None:
    pixels, labels = idx((2, 1, 2), bytes([9, 8, 7, 6])), idx((2,), bytes([1, 0]))
    tensors = convert.images([gzip.compress(pixels), gzip.compress(labels), pixels, labels])
    assert tensors["train.x"].tolist() == tensors["test.x"].tolist() == [[[[9, 8]]], [[[7, 6]]]]
    assert tensors["train.y"].tolist() == [1, 0] and tensors["train.y"].dtype == torch.int64


def test_images_and_labels_must_be_as_many() -> None:
    pixels, labels = idx((2, 1, 1), b"ab"), idx((1,), b"\0")
    with pytest.raises(Refused, match="2 images and 1 labels"):
        convert.images([pixels, labels, pixels, labels])


def test_windows_of_text_follow_each_other_and_predict_the_next_character() -> None:
    line = bytes(range(32, 127)) + b"\n"
    data = line * 14  # 1344 characters: ten windows, of which one is for testing
    tensors = convert.text([data, b"too short"])
    x, y = tensors["train.x"], tensors["train.y"]
    assert x.shape == (9, convert.WINDOW) and tensors["test.x"].shape == (1, convert.WINDOW)
    assert x.reshape(-1)[:96].tolist() == [*range(1, 96), 0]
    assert torch.equal(x.reshape(-1)[1:], y.reshape(-1)[:-1])


@pytest.mark.parametrize("character", [b"\t", b"\r", b"\x1f", b"\x7f", b"\xe9"])
def test_text_beyond_the_vocabulary_is_refused(character: bytes) -> None:
    with pytest.raises(Refused, match="bad_text"):
        convert.text([b"a" * 200 + character])


def test_measurements_are_standardized_by_the_training_part() -> None:
    tensors = convert.bundled("wine")
    raw, target = datasets.load_wine(return_X_y=True)
    train = torch.from_numpy(raw)[[i for i in range(len(raw)) if i % 5 != 4]]
    expected = (train - train.mean(0)) / train.std(0, correction=0)
    assert torch.allclose(tensors["train.x"].to(torch.float64), expected, atol=1e-6)
    assert tensors["test.y"].tolist() == target[4::5].tolist()


def test_a_regression_target_is_a_column() -> None:
    y = convert.bundled("diabetes")["train.y"]
    assert y.dtype == torch.float32 and y.shape == (354, 1)
    assert math.isclose(float((y * y).mean()), 1, rel_tol=1e-5)
