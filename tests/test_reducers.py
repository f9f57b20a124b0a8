"""Arrays in files and generators, as another process gets them."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from test_trainer import mlp
from torch import Tensor
from torch.utils.data import Dataset

from async_dni import DataError, Trainer
from async_dni.data.brought.forms import as_source
from async_dni.data.brought.reducers import register_reducers
from async_dni.data.stream import BatchStream

register_reducers()
ROWS, OFFSET = 1000, 4096 + 40


@pytest.fixture
def mapped(tmp_path: Path) -> Any:
    """`[1000, 6]` float32, all different, from the middle of a file."""
    numbers = np.arange(OFFSET // 4 + ROWS * 6, dtype=np.float32)
    numbers.tofile(tmp_path / "x")
    return np.memmap(tmp_path / "x", np.float32, "r", OFFSET, (ROWS, 6))


def sent(value: Any) -> tuple[Any, int]:
    """A value as another process gets it, and the bytes that it took."""
    message = bytes(ForkingPickler.dumps(value))
    return pickle.loads(message), len(message)


VIEWS = {
    "whole": lambda array: array,
    "the end": lambda array: array[700:],
    "every third": lambda array: array[5::3],
    "columns": lambda array: array[:, 1:3],
    "transposed": lambda array: array.T,
    "one row": lambda array: array[7],
    "other shape": lambda array: array.reshape(-1)[12:].reshape(-1, 12),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_mapped_array_is_sent_by_its_name(name: str, mapped: Any) -> None:
    view = VIEWS[name](mapped)
    found, size = sent(view)
    assert np.array_equal(found, view)
    assert found.strides == view.strides
    assert isinstance(found, np.memmap)
    assert size < 400


def test_what_is_not_as_its_file_is_copied(mapped: Any, tmp_path: Path) -> None:
    changed = np.memmap(tmp_path / "x", np.float32, "c", OFFSET, (ROWS, 6))
    changed[:] = 1
    for array in (changed, mapped[::-1], mapped[:0], mapped * 2, mapped[[3, 1]]):
        assert np.array_equal(sent(array)[0], array)
    (tmp_path / "x").unlink()
    assert np.array_equal(sent(mapped)[0], mapped), "there is no such file any more"


def test_a_written_array_can_be_written(tmp_path: Path) -> None:
    array = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.int64, (5,))
    array[:] = range(5)
    found, _ = sent({"array": array})
    found["array"][2] = 9
    assert array.tolist() == [0, 1, 9, 3, 4]


def test_a_generator_goes_on_where_it_was() -> None:
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    (found, again), _ = sent((generator, generator))
    assert found is again
    assert found.initial_seed() == 3
    assert torch.equal(torch.rand(4, generator=found), torch.rand(4, generator=generator))


# Data sets.


class Within(Dataset):
    """One that holds a mapped array."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor(self.array[index]), index % 2


LABELS = np.arange(ROWS) % 2


@pytest.mark.parametrize("form", ["a pair", "a dictionary", "a data set"])
def test_rows_of_a_mapped_array_are_those_of_one_in_memory(form: str, mapped: Any) -> None:
    forms = {"a pair": (mapped, LABELS), "a dictionary": {"x": mapped, "y": LABELS}, "a data set": Within(mapped)}
    source = as_source(forms[form], "train_set", None, None, seed=0)
    stream, expected = (
        BatchStream(source, 100, 12, seed=0),
        BatchStream(as_source((mapped.copy(), LABELS), "", None, None, 0), 100, 12, 0),
    )
    assert source.in_memory is None
    for batch, like in zip(stream, expected, strict=True):
        assert torch.equal(batch.x, like.x)
        assert torch.equal(batch.target, like.target)
    assert sent(stream)[1] < 40_000, "labels go with it, samples don't"


def test_a_number_that_is_not_finite_in_a_file_is_found_when_it_comes(tmp_path: Path) -> None:
    array = np.memmap(tmp_path / "x", np.float32, "w+", 0, (ROWS, 6))
    array[17, 3] = np.inf
    stream = BatchStream(as_source((array, LABELS), "train_set", None, None, seed=0), 100, 10, seed=0)
    with pytest.raises(DataError, match=r"sample 17 \(batch \d\) holds the number inf"):
        list(stream)


@pytest.mark.parametrize("form", ["a pair", "a data set"])
def test_a_large_mapped_array_is_opened_and_not_read(form: str, tmp_path: Path) -> None:
    """Of 4 GB, in a file with nothing in it; what is read of it is in memory."""
    array = np.memmap(tmp_path / "x", np.float32, "w+", 0, (1_000_000, 1000))
    labels = np.memmap(tmp_path / "y", np.uint8, "w+", 0, (1_000_000,))
    before = psutil.Process().memory_info().rss
    data = (array, labels) if form == "a pair" else Within(array)
    result = Trainer(mlp(1000, 8, 2), workers=2, batch_size=10, split=(1,)).fit(
        data, steps=3, eval_set=(array[:50], labels[:50])
    )
    assert result.summary["samples"] == 30
    assert psutil.Process().memory_info().rss - before < 2**29
