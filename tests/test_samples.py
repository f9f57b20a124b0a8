"""A sample that can't be trained on is named, with its batch: when a batch is made, in a worker, in an evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bad_inputs import Batches, Pairs, labelled, tensors
from test_trainer import mlp
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from async_dni import ConfigError, DataError, Trainer, WorkerError, evaluate
from async_dni.data.batch_check import Labels, check_finite
from async_dni.data.brought.forms import as_dataset
from async_dni.data.samples import get_batch
from async_dni.data.stream import BatchStream, in_memory

ROWS = torch.tensor([30, 10, 20])  # a batch's samples


class Numbered(Dataset):
    """Samples without a `get_batch` of their own."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((2,), float(index)), index


class Shifted(TensorDataset):
    """Tensors, but what it gives is not what it holds."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, target = super().__getitem__(index)
        return x + 100, target


def stream_of(dataset: Dataset, batch_size: int = 10, steps: int = 8) -> BatchStream:
    stream = BatchStream(dataset, batch_size, steps, seed=0)
    stream.allow(Labels(2), stream[0])
    return stream


def batch_of(stream: BatchStream, sample: int) -> int:
    """The batch of the first epoch that a sample is in."""
    return next(index for index in range(stream.steps_per_epoch) if sample in stream.indices(index))


def odd_one_out(sample: Any, number: int | None = None) -> tuple[Pairs, int, int]:
    """A data set with an odd sample that is not in the first batch; which one it is, and its batch."""
    stream = BatchStream(Pairs(40), 10, 4, seed=0)
    number = int(stream.indices(2)[3])
    return Pairs(40, {number: sample}), number, 2


# get_batch, as_dataset


def test_data_sets_without_get_batch_are_collated() -> None:
    x, target = get_batch(Numbered(), torch.tensor([4, 0]))
    assert x.tolist() == [[4.0, 4.0], [0.0, 0.0]]
    assert target.tolist() == [4, 0]
    assert target.dtype == torch.int64


def test_tensors_that_give_something_else_are_asked_for_it() -> None:
    dataset = Shifted(torch.arange(3.0), torch.arange(3))
    assert get_batch(dataset, torch.tensor([2, 0]))[0].tolist() == [102, 100]
    assert in_memory(dataset) is None


def test_a_pair_of_tensors_becomes_a_data_set_and_a_data_set_stays() -> None:
    x, target = torch.rand(3, 2), torch.arange(3)
    dataset = as_dataset((x, target))
    assert torch.equal(get_batch(dataset, torch.tensor([2]))[0], x[2:])
    for data in (Pairs(), [(torch.zeros(2), 0)], Shifted(x, target)):
        assert as_dataset(data) is data


# What a sample may hold.


def test_a_label_of_no_class_is_named() -> None:
    for target, wrong in (([0, 3, 1], "sample 10 has label 3"), ([0, 1, -1], "sample 20 has label -1")):
        with pytest.raises(DataError, match=f"^data set: {wrong}; allowed: 0 to 2$"):
            Labels(3).check(torch.tensor(target), ROWS)
    Labels(3).check(torch.tensor([0, 1, 2]), ROWS)
    with pytest.raises(DataError, match="sample 20 has label 9"):
        Labels(3).check(torch.tensor([[0, 1], [1, 2], [2, 9]]), ROWS)


def test_labels_that_the_loss_ignores_are_allowed() -> None:
    output, target = torch.zeros(3, 4), torch.tensor([0, -100, 3])
    labels = Labels.of(nn.CrossEntropyLoss(), output, target)
    assert labels == Labels(4, -100)
    labels.check(target, ROWS)
    with pytest.raises(DataError, match="sample 10 has label -100"):
        Labels.of(nn.CrossEntropyLoss(ignore_index=2), output, target).check(target, ROWS)
    assert Labels.of(nn.functional.cross_entropy, output, target) == labels, "the function is the module's"
    for other in (nn.MSELoss(), lambda output, target: nn.functional.cross_entropy(output, target)):
        assert Labels.of(other, output, target) is None
    assert Labels.of(nn.CrossEntropyLoss(), output, torch.rand(3, 4)) is None, "shares of classes"


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_not_finite_is_named(number: float) -> None:
    x = torch.zeros(3, 2, 2)
    x[1, 0, 1] = number
    with pytest.raises(DataError, match=f"^data set: sample 10 holds the number {number}; allowed: finite numbers$"):
        check_finite(x, ROWS)
    check_finite(x[:1], ROWS)
    check_finite(x.nan_to_num().long(), ROWS)


def test_numbers_whose_sum_overflows_are_finite() -> None:
    check_finite(torch.full((3, 2), torch.finfo(torch.float32).max), ROWS)


# Batches.


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        (OSError("gone"), r"raised OSError: gone"),
        (IndexError(), r"raised IndexError"),
        (torch.zeros(6), r"is \[6\] torch.float32; allowed: a pair \(sample, target\)"),
        ((torch.zeros(5), 0), r"is \(\[5\] torch.float32, int\); allowed: \(\[6\] torch.float32, int\), as sample 0"),
        ((torch.zeros(6).double(), 0), r"is \(\[6\] torch.float64, int\); allowed: \(\[6\] torch.float32, int\)"),
        ((np.zeros(6, dtype=np.float32), 0.5), r"is \(\[6\] float32, float\); allowed: \(\[6\] torch.float32, int\)"),
        ((None, 0), r"is \(NoneType, int\); allowed: "),
        ((torch.full((6,), torch.nan), 0), r"holds the number nan; allowed: finite numbers"),
        ((torch.zeros(6), 2), r"has label 2; allowed: 0 to 1"),
        ((torch.zeros(6), -1), r"has label -1; allowed: 0 to 1"),
    ],
    ids=str,
)
def test_odd_sample_is_named_with_its_batch(sample: Any, problem: str) -> None:
    dataset, number, batch = odd_one_out(sample)
    stream = stream_of(dataset)
    with pytest.raises(DataError, match=rf"^data set: sample {number} \(batch {batch}\) {problem}") as caught:
        list(stream)
    assert isinstance(caught.value.__cause__, Exception) == isinstance(sample, Exception), "its traceback is kept"


def test_batch_of_another_form_is_named() -> None:
    # of one sample, so that it is a batch; the stage after it would be the one to fail
    dataset, number, batch = odd_one_out((torch.zeros(5), 0))
    with pytest.raises(DataError, match=rf"sample {number} \(batch \d+\) is \(\[5\] torch.float32, int\)"):
        list(stream_of(dataset, batch_size=1, steps=40))


def test_samples_of_a_batch_that_the_data_set_makes_are_named() -> None:
    def make(x: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(x)
        if len(calls) == 3:
            raise ValueError("the third")
        return (x if len(calls) == 1 else x[:, 1:]), torch.zeros(len(x), dtype=torch.int64)

    calls: list[Tensor] = []
    stream = stream_of(Batches(make))
    first, second, third, *_ = stream.indices(1).tolist()
    names = rf"samples {first}, {second}, {third}, … \(batch 1\)"
    with pytest.raises(
        DataError, match=rf"{names} make a batch of \[5\] torch.float32 and \[\] torch.int64, where the first .*: pad "
    ):
        stream[1]
    with pytest.raises(DataError, match=rf"{names} raised ValueError: the third"):
        stream[1]


def test_what_is_in_memory_is_checked_once() -> None:
    stream = BatchStream(as_dataset(labelled(5)), 10, 4, seed=0)
    with pytest.raises(DataError, match=r"^data set: sample 7 has label 5; allowed: 0 to 1$"):
        stream.allow(Labels(2), stream[0])
    x, target = tensors()
    stream = stream_of(TensorDataset(x, target))
    x[:] = torch.nan
    assert all(batch.x.isnan().all() for batch in stream), "and not again"


# Where a data set is used.


@pytest.mark.parametrize("sample", [OSError("gone"), (torch.zeros(6), 2), (torch.full((6,), torch.inf), 0)], ids=str)
def test_worker_names_the_sample(sample: Any) -> None:
    dataset, number, batch = odd_one_out(sample)
    with pytest.raises(WorkerError, match=rf"data set: sample {number} \(batch {batch}\) ") as caught:
        Trainer(mlp(6, 8, 2), workers=2, batch_size=10, split=(1,)).fit(dataset, epochs=1)
    assert caught.value.stage == 0
    assert "\n" not in str(caught.value)


def test_serial_run_names_the_sample() -> None:
    dataset, number, batch = odd_one_out((torch.zeros(6), 2))
    with pytest.raises(DataError, match=rf"sample {number} \(batch {batch}\) has label 2; allowed: 0 to 1"):
        Trainer(mlp(6, 8, 2), workers=2, batch_size=10, serial=True).fit(dataset, epochs=1)


def test_evaluation_names_the_sample() -> None:
    with pytest.raises(DataError, match=r"^data set: sample 31 has label 2; allowed: 0 to 1$"):
        evaluate(mlp(6, 8, 2), Pairs(40, {31: (torch.zeros(6), 2)}), nn.CrossEntropyLoss(), batch_size=10)


def test_evaluation_does_not_count_labels_that_the_loss_ignores() -> None:
    target = torch.tensor([0, 1, -100, -100])
    _, confusion = evaluate(mlp(6, 8, 2), TensorDataset(torch.randn(4, 6), target), nn.CrossEntropyLoss())
    assert confusion is not None
    assert [sum(row) for row in confusion] == [1, 1]


def test_a_sample_that_is_lost_while_costs_are_measured_is_refused() -> None:
    class Lost(Pairs):
        loads = 0

        def __getitem__(self, index: int) -> Any:
            self.loads += 1
            if self.loads > 10:  # the first batch, which is tried out
                raise OSError("the disk was taken out")
            return super().__getitem__(index)

    trainer = Trainer(mlp(6, 5, 4, 2), workers=2, batch_size=10)
    with pytest.raises(ConfigError, match=r"^train_set: got sample \d+ \(batch 0\); it .*the disk was taken out"):
        trainer.fit(Lost(40), steps=4)
