"""Batches of a DataLoader and of an iterable data set: those that a plain loop would get, and the same each time."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from noisy import SAMPLES, Noisy, Stream
from test_trainer import mlp
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from async_dni import ConfigError, DataError, Trainer
from async_dni.data.batches import Batches
from async_dni.data.brought.forms import loader_of
from async_dni.data.iterated_stream import IteratedStream
from async_dni.fit.stream import ITERATED
from async_dni.learning.batch import Batch
from async_dni.record.progress import Progress

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core

LOADERS: dict[str, dict[str, Any]] = {
    "in this process": {"shuffle": True},
    "a worker": {"shuffle": True, "num_workers": 1},
    "two workers that persist": {"shuffle": True, "num_workers": 2, "persistent_workers": True, "prefetch_factor": 3},
    "a generator": {"shuffle": True, "num_workers": 1, "generator": torch.Generator().manual_seed(5)},
}


def loader(dataset: Dataset | None = None, **settings: Any) -> DataLoader:
    return DataLoader(dataset or Noisy(), batch_size=10, **settings)


def stream_of(data: DataLoader, steps: int = 12, seed: int = 0, begins: int | None = 0) -> IteratedStream:
    stream = IteratedStream(data, data, 10, steps, seed)
    if begins is not None:
        stream.begin(begins)
    return stream


def equal(batch: Batch, other: Batch) -> bool:
    return batch.index == other.index and torch.equal(batch.x, other.x) and torch.equal(batch.target, other.target)


def disturb() -> None:
    """Random states, and a generator of the user's, are not as they were."""
    torch.rand(3), np.random.rand(3), random.random()


@pytest.fixture
def batches() -> Any:
    """All batches of a stream, which is closed."""

    def take(stream: Batches, start: int = 0) -> list[Batch]:
        try:
            return [stream[index] for index in range(start, stream.steps)]
        finally:
            stream.close()

    return take


@pytest.mark.parametrize("name", LOADERS)
def test_batches_are_a_function_of_the_seed(name: str, batches: Any) -> None:
    first = batches(stream_of(loader(**LOADERS[name])))
    disturb()
    again = batches(stream_of(loader(**LOADERS[name])))
    assert all(map(equal, first, again))
    other = batches(stream_of(loader(**LOADERS[name]), seed=1))
    assert not any(map(equal, first, other)) or "generator" in LOADERS[name]
    rows = torch.cat([batch.x for batch in first])
    assert len({tuple(row) for row in rows.tolist()}) == len(rows), "no noise comes twice"


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("start", [5])
def test_a_run_that_goes_on_gets_the_batches_that_it_would_have_got(name: str, start: int, batches: Any) -> None:
    whole = batches(stream_of(loader(**LOADERS[name])))
    disturb()
    rest = batches(stream_of(loader(**LOADERS[name]), begins=start), start)
    assert all(map(equal, whole[start:], rest))


@pytest.mark.parametrize("workers", [0, 1])
def test_each_epoch_has_every_sample_once_in_an_order_of_its_own(workers: int, batches: Any) -> None:
    found = batches(stream_of(loader(shuffle=True, num_workers=workers)))
    epochs = [torch.cat([batch.x[:, 0] for batch in found[first : first + 5]]) for first in (0, 5)]
    assert [len(batch.x) for batch in found] == [10, 10, 10, 10, 5, 10, 10, 10, 10, 5, 10, 10]
    for epoch in epochs:
        assert (epoch * SAMPLES).sort().values.round().tolist() == list(range(SAMPLES))
    assert not torch.equal(*epochs)


def test_the_first_epoch_is_that_of_a_plain_loop(batches: Any) -> None:
    x, target = torch.randn(45, 6), torch.arange(45)
    made = [
        loader(TensorDataset(x, target), shuffle=True, generator=torch.Generator().manual_seed(7)) for _ in range(2)
    ]
    for batch, (expected, labels) in zip(batches(stream_of(made[0], steps=5)), made[1], strict=True):
        assert torch.equal(batch.x, expected)
        assert torch.equal(batch.target, labels)


def test_samplers_collation_and_starts_are_the_users(batches: Any) -> None:
    class Backwards(Sampler):
        epoch = 0

        def __iter__(self) -> Any:
            return iter(range(SAMPLES - 1 - self.epoch, -1, -1))

        def __len__(self) -> int:
            return 45

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    made = loader(sampler=Backwards(), collate_fn=doubled, worker_init_fn=count, num_workers=1)
    found = batches(stream_of(made, steps=6))
    assert (found[0].x[:, 0] * SAMPLES / 2).round().tolist() == list(range(44, 34, -1))
    assert (found[5].x[:, 0] * SAMPLES / 2).round().tolist() == list(range(43, 33, -1)), "epoch 1"
    assert found[0].target.tolist() == [100] * 10, "the worker was started by worker_init_fn"


class Endless:
    """A batch sampler that never ends; it draws."""

    def __iter__(self) -> Any:
        while True:
            yield [0, 1, 2, 3, random.randrange(SAMPLES)][: random.randint(3, 5)]


def test_a_batch_sampler_need_have_no_end() -> None:
    """Its largest batch was looked for to the end."""
    made = DataLoader(Noisy(), batch_sampler=Endless())  # type: ignore[arg-type]
    results = [Trainer(mlp(6, 8, 2), workers=2, serial=True).fit(made, steps=5) for _ in range(2)]
    assert results[0].summary["samples"] == results[1].summary["samples"] > 15
    assert all(map(torch.equal, results[0].model.parameters(), results[1].model.parameters()))
    with pytest.raises(ConfigError, match="eval_set: got a batch sampler without an end; allowed: one that ends"):
        Trainer(mlp(6, 8, 2), workers=2, serial=True, batch_size=10).fit(Noisy(), steps=5, eval_set=made)


SMALLEST = {
    "half a batch": (loader(), 12, 5),
    "not come to": (loader(), 4, 10),
    "left out": (loader(drop_last=True), 12, 10),
    "left out by the sampler": (DataLoader(Noisy(), batch_sampler=BatchSampler(range(45), 10, True)), 12, 10),
    "by the sampler": (DataLoader(Noisy(), batch_sampler=[[1, 2, 3], [1]]), 2, 1),
    "not come to, by the sampler": (DataLoader(Noisy(), batch_sampler=[[1, 2, 3], [1]]), 1, 3),
    "iterable": (loader(Stream()), 12, 10),
    "iterable with a length": (loader(Stream(length=45)), 12, 5),
    "ready batches": (DataLoader(Noisy(samples=41), batch_size=None), 100, 10),
}


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_batch_is_known(name: str) -> None:
    data, steps, smallest = SMALLEST[name]
    assert stream_of(data, steps=steps, begins=None).smallest == smallest


def test_batch_norm_does_not_mind_a_sample_that_is_left_out() -> None:
    """The last of 41 was taken for a batch of its own."""
    network = nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)), nn.Linear(8, 2))
    trainer = Trainer(network, workers=2, serial=True)
    assert trainer.fit(loader(Noisy(samples=41), drop_last=True), epochs=1).summary["steps"] == 4
    with pytest.raises(
        ConfigError, match="batch norm needs two samples, and the last of 41 would be a batch of its own"
    ):
        trainer.fit(loader(Noisy(samples=41)), epochs=1)


STARTED = [0]


def count(worker: int) -> None:
    STARTED[0] = 100 + worker


def doubled(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    return 2 * torch.stack([x for x, _ in samples]), torch.full((len(samples),), STARTED[0])


def test_nothing_is_started_before_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_of(loader(num_workers=1, shuffle=True), begins=None)
    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", None)
    first = stream[0]
    assert stream[0] is first, "what is looked at again is not loaded again"
    copy = pickle.loads(pickle.dumps(stream))
    assert copy[0].x[:, 0].tolist() == first.x[:, 0].tolist()


# Iterable data sets.


def test_an_iterable_begins_anew_at_its_end(batches: Any) -> None:
    made = loader_of(Stream(first=22), 10)
    assert made is not None
    found = batches(stream_of(made, steps=7))
    firsts = [round(float(batch.x[0, 0]) * SAMPLES) for batch in found]
    assert firsts == [22, 32, 42, 22, 32, 42, 22]
    assert [len(batch.x) for batch in found] == [10, 10, 3, 10, 10, 3, 10]
    again = batches(stream_of(made, steps=7, begins=5), 5)
    assert all(map(equal, found[5:], again))


@pytest.mark.parametrize("length", [None, 23])
def test_training_on_an_iterable(length: int | None) -> None:
    class Notes(Progress):
        def on_note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    trainer = Trainer(mlp(6, 8, 2), workers=2, batch_size=10, progress=Notes())
    lengths = {"steps": 7} if length is None else {"epochs": 2}
    result = trainer.fit(Stream(22, length), **lengths, eval_set=(torch.randn(5, 6), torch.zeros(5).long()))
    assert result.summary["steps"] == (7 if length is None else 6)
    assert notes == [ITERATED]
    assert [evaluation.step for evaluation in result.history] == ([7] if length is None else [3, 6])
    assert result.history[-1].epoch == (1 if length is None else 2), "all is one epoch, where nobody knows"


EVALUATED = {
    "iterable": lambda: Stream(),
    "a loader of one": lambda: loader(Stream(), num_workers=1),
    "ready batches": lambda: DataLoader([(torch.ones(n, 6), torch.ones(n).long()) for n in (1, 3)], batch_size=None),
    "a generator": lambda: DataLoader(Stream(), batch_size=7, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("name", EVALUATED)
def test_evaluating_on_an_iterable_is_a_pass_that_is_the_same_each_time(name: str) -> None:
    """It was refused."""
    found = []
    for _ in range(2):
        disturb()
        trainer = Trainer(mlp(6, 8, 2), workers=2, batch_size=10, serial=True, metrics={"rows": rows})
        found.append(trainer.fit((torch.ones(20, 6), torch.zeros(20).long()), epochs=3, eval_set=EVALUATED[name]()))
    losses = [[evaluation.test_loss for evaluation in result.history] for result in found]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3
    assert found[0].history[-1].metrics["rows"] == (4 if name == "ready batches" else SAMPLES)


def rows(outputs: Tensor, targets: Tensor) -> int:
    return len(targets)


def test_a_loader_that_is_trained_on_and_evaluated_on_goes_on_where_it_was() -> None:
    def weights(evaluates: bool) -> list[Tensor]:
        made = loader(Stream(), generator=torch.Generator().manual_seed(1))
        trainer = Trainer(mlp(6, 8, 2), workers=2, serial=True, eval_every=1)
        return list(trainer.fit(made, steps=12, eval_set=made if evaluates else None).model.parameters())

    assert all(map(torch.equal, weights(True), weights(False)))


class Dry(IterableDataset):
    """Gives something once."""

    passes = 0

    def __iter__(self) -> Any:
        self.passes += 1
        return iter([(torch.zeros(6), 0)] * (12 if self.passes == 1 else 0))


def test_an_iterable_that_dries_up_is_named(batches: Any) -> None:
    made = loader_of(Dry(), 10)
    assert made is not None
    with pytest.raises(DataError, match=r"pass 2 \(batch 2\) ended after 0 batches; allowed: at least one"):
        batches(stream_of(made))


# What goes wrong.


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_loader_raises_is_told_with_its_batch(workers: int, batches: Any) -> None:
    made = loader(Noisy(bad=25), sampler=SequentialSampler(Noisy()), num_workers=workers)
    with pytest.raises(DataError, match=r"^data set: the DataLoader \(batch 2\) raised OSError: gone$"):
        batches(stream_of(made))


@pytest.mark.parametrize(
    ("collate", "problem"),
    [
        (
            lambda samples: 1,
            r"what the DataLoader gives \(batch 0\) is int, neither a pair .*; allowed: samples and targ",
        ),
        (lambda samples: (torch.zeros(10, 6), torch.zeros(9)), r"is \(\[10, 6\] .*; allowed: 1 to 10 rows, as many of"),
        (lambda samples: (torch.zeros(11, 6), torch.zeros(11)), r"is \(\[11, 6\] .*; allowed: 1 to 10 rows"),
        (lambda samples: (torch.full((10, 1), torch.nan), torch.zeros(10)), r"row 0 \(batch 0\) holds the number nan"),
    ],
)
def test_a_batch_that_is_none_is_named(collate: Any, problem: str, batches: Any) -> None:
    with pytest.raises(DataError, match=problem):
        batches(stream_of(loader(collate_fn=collate)))


# Whole runs.


def trained(data: Any, **settings: Any) -> list[Tensor]:
    disturb()
    result = Trainer(mlp(6, 8, 2), workers=2, lag=2, split=(1,), **settings).fit(data, steps=12)
    return list(result.model.parameters())


@pytest.mark.parametrize("name", LOADERS)
def test_a_run_with_a_lag_is_a_function_of_its_seed_and_equals_serial(name: str) -> None:
    expected = trained(loader(**LOADERS[name]))
    assert all(map(torch.equal, trained(loader(**LOADERS[name])), expected))
    assert all(map(torch.equal, trained(loader(**LOADERS[name]), serial=True), expected))


def test_the_loaders_batch_size_is_the_runs(tmp_path: Any) -> None:
    for made, size in (
        (loader(), 10),
        (DataLoader(Noisy(), batch_sampler=[[0, 1, 2], [3]]), 3),
        (DataLoader([(torch.zeros(4, 6), torch.zeros(4).long())] * 5, batch_size=None), 4),
    ):
        result = Trainer(mlp(6, 8, 2), workers=2, serial=True, run_dir=tmp_path / str(size)).fit(made, epochs=1)
        assert f'"batch_size": {size}' in (tmp_path / str(size) / "config.json").read_text()
        assert result.summary["samples"] == {10: 45, 3: 4, 4: 20}[size]


@pytest.mark.parametrize("data", [lambda: loader(shuffle=True, num_workers=1), Stream], ids=["a loader", "an iterable"])
def test_a_resumed_run_is_as_if_it_had_never_stopped(data: Any, tmp_path: Any) -> None:
    settings = {"workers": 2, "lag": 2, "split": (1,), "batch_size": 10}
    disturb()
    Trainer(mlp(6, 8, 2), **settings, run_dir=tmp_path / "run").fit(data(), steps=7)
    disturb()
    result = Trainer(mlp(6, 8, 2), **settings, resume=tmp_path / "run").fit(data(), steps=12)
    whole = Trainer(mlp(6, 8, 2), **settings).fit(data(), steps=12)
    assert all(map(torch.equal, result.model.parameters(), whole.model.parameters()))
