"""Batches that are loaded ahead by processes: the same as without, whatever happens to whom."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from noisy import Noisy
from test_trainer import mlp
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from async_dni import DataError, Trainer, WorkerError
from async_dni.data.augment import Augment
from async_dni.data.stream import BatchStream


def taken(stream: BatchStream, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    stream.begin(start)
    try:
        return [_pair(stream[index]) for index in range(start, stream.steps)]
    finally:
        stream.close()


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    return batch.x, batch.target


def test_batches_do_not_depend_on_who_loads_them() -> None:
    expected = taken(BatchStream(Noisy(), 10, 12, seed=1))
    for workers in (1, 3):
        torch.rand(1)
        found = taken(BatchStream(Noisy(), 10, 12, seed=1, loader_workers=workers))
        assert all(
            torch.equal(x, y)
            for pair, like in zip(found, expected, strict=True)
            for x, y in zip(pair, like, strict=True)
        )
    found = taken(BatchStream(Noisy(), 10, 12, seed=1, loader_workers=2), start=7)
    assert all(torch.equal(pair[0], like[0]) for pair, like in zip(found, expected[7:], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.uint8, torch.float64, torch.complex64])
def test_every_dtype_comes_through(dtype: torch.dtype) -> None:
    class Of(Dataset):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
            return {"a": torch.full((3, 2), index % 2).to(dtype), "b": torch.tensor(float(index))}, index

    ahead, here = (BatchStream(Of(), 10, 2, seed=0, loader_workers=workers) for workers in (1, 0))
    for (x, target), (like, labels) in zip(taken(ahead), taken(here), strict=True):
        assert x["a"].dtype == dtype
        assert torch.equal(x["a"], like["a"])
        assert torch.equal(x["b"], like["b"])
        assert torch.equal(target, labels)
        assert x["a"].data_ptr() % 64 == 0, "as PyTorch allocates: results may depend on it"


def test_a_bad_sample_is_named_with_its_traceback() -> None:
    stream = BatchStream(Noisy(bad=30), 10, 5, seed=0, loader_workers=2)
    batch = next(index for index in range(5) if 30 in stream.indices(index))
    with pytest.raises(DataError, match=rf"^data set: sample 30 \(batch {batch}\) raised OSError: gone$") as caught:
        taken(stream)
    assert "noisy.py" in str(caught.value.__cause__)


# Whole runs.


def trained(**settings: Any) -> list[Tensor]:
    result = Trainer(mlp(6, 8, 2), workers=2, batch_size=10, lag=2, split=(1,), **settings).fit(Noisy(), steps=12)
    return list(result.model.parameters())


def test_a_run_with_a_lag_is_the_same_for_any_number_of_loaders() -> None:
    expected = trained(serial=True)
    for workers in (0, 1, 2):
        torch.rand(1)
        assert all(map(torch.equal, trained(loader_workers=workers), expected))


class Counting(Noisy):
    """Counts the samples that are loaded in this process."""

    loaded = 0

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.loaded += 1
        return super().__getitem__(index)


def test_in_one_process_batches_are_loaded_by_it() -> None:
    # loaders, which were forked after this process had computed with two threads, hung
    data = Counting()
    settings = {"serial": True, "batch_size": 10, "loader_workers": 2, "threads_per_worker": 2}
    Trainer(mlp(6, 8, 2), workers=2, split=(1,), **settings).fit(data, steps=12)
    assert data.loaded >= 120


def test_a_run_names_the_bad_sample() -> None:
    trainer = Trainer(mlp(6, 8, 2), workers=2, batch_size=10, loader_workers=2, split=(1,))
    bad = int(BatchStream(Noisy(), 10, 4, seed=0).indices(3)[0])
    with pytest.raises(WorkerError, match=rf"data set: sample {bad} \(batch 3\) raised OSError: gone") as caught:
        trainer.fit(Noisy(bad), steps=12)
    assert "noisy.py" in caught.value.details


def test_a_run_that_goes_on_gets_the_batches_that_it_would_have_got(tmp_path: Path) -> None:
    settings = {"workers": 2, "batch_size": 10, "lag": 2, "split": (1,)}
    Trainer(mlp(6, 8, 2), **settings, loader_workers=2, run_dir=tmp_path / "run").fit(Noisy(), steps=7)
    result = Trainer(mlp(6, 8, 2), **settings, resume=tmp_path / "run").fit(Noisy(), steps=12)
    assert all(map(torch.equal, result.model.parameters(), trained()))


class Killing(Noisy):
    """Loading a sample for the first time kills the worker that it is loaded for; its loaders' ids go into a file."""

    def __init__(self, folder: Path, sample: int) -> None:
        super().__init__()
        self.folder, self.sample = folder, sample

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        (self.folder / str(os.getpid())).touch()
        if index == self.sample and not (self.folder / "killed").exists():
            (self.folder / "killed").touch()
            os.kill(os.getppid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.parametrize("are_users", [False, True])
def test_loaders_end_with_their_worker_and_another_has_its_own(are_users: bool, tmp_path: Path) -> None:
    sample = 31 if are_users else int(BatchStream(Noisy(), 10, 4, seed=0).indices(3)[0])
    dataset: Any = Killing(tmp_path, sample)
    settings = {"workers": 2, "batch_size": 10, "lag": 2, "split": (1,), "snapshot_every": 1}
    data = DataLoader(dataset, batch_size=10, num_workers=2) if are_users else dataset
    result = Trainer(mlp(6, 8, 2), **settings, loader_workers=0 if are_users else 2).fit(data, steps=12)
    assert result.summary["workers"][0]["restarts"] == 1
    assert "was killed by SIGKILL" in result.summary["workers"][0]["deaths"][0]
    loaders = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()} - {os.getpid()}
    assert len(loaders) >= 4, "two, and two in the stead of those"
    for pid in loaders:
        if psutil.pid_exists(pid):
            psutil.wait_procs([psutil.Process(pid)], timeout=10)
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_images_are_augmented_alike_by_whoever_loads_them() -> None:
    images = (torch.rand(45, 3, 8, 8), torch.arange(45))
    dataset = torch.utils.data.TensorDataset(*images)
    expected = taken(BatchStream(dataset, 10, 7, 0, Augment(("crop", "flip"))))
    found = taken(BatchStream(dataset, 10, 7, 0, Augment(("crop", "flip")), loader_workers=2))
    assert all(torch.equal(x, like) for (x, _), (like, _) in zip(found, expected, strict=True))
