"""The forms in which users bring data: each gives the batches that plain tensors give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_trainer import mlp
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset

from async_dni import ConfigError, Trainer
from async_dni.data.brought.forms import as_source
from async_dni.data.brought.parts import as_tensor, split
from async_dni.data.stream import BatchStream

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(40, 6, generator=GENERATOR), torch.randint(0, 2, (40,), generator=GENERATOR)
MASK = torch.rand(40, 6, generator=GENERATOR)


class Samples(Dataset):
    """Each made by `make` of its index."""

    def __init__(self, make: Callable[[int], Any], samples: int = 40) -> None:
        self.make, self.samples = make, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def as_array(index: int) -> Any:
    return X[index].double().numpy(), np.int16(Y[index])


def as_dictionary(index: int) -> dict[str, Any]:
    return {"pixel_values": X[index].numpy(), "labels": int(Y[index])}


def as_pair(index: int) -> tuple[Tensor, int]:
    return X[index], int(Y[index])


def stream_of(data: Any, target: str | None = None, dtype: torch.dtype | None = torch.float32) -> BatchStream:
    return BatchStream(as_source(data, "train_set", target, dtype, seed=0), 10, 8, seed=3)


FORMS = {
    "tensors": (X, Y),
    "a list of tensors": [X, Y],
    "float64": (X.double(), Y),
    "int32": (X, Y.int()),
    "uint8 labels": (X, Y.to(torch.uint8)),
    "arrays": (X.numpy(), Y.numpy()),
    "an array and a tensor": (X.numpy(), Y),
    "float64 and uint16 arrays": (X.double().numpy(), Y.numpy().astype(np.uint16)),
    "big-endian, the other way round": (X.numpy().astype(">f4")[::-1][::-1], Y.numpy().astype(">i2")),
    "lists of numbers": (X.tolist(), Y.tolist()),
    "a list of tensors and a list": (list(X), Y.tolist()),
    "a list of samples": [(X[i], int(Y[i])) for i in range(40)],
    "a data set": Samples(as_pair),
    "a data set of arrays": Samples(as_array),
    "a data set of dictionaries": Samples(as_dictionary),
    "a dictionary of tensors": {"pixel_values": X, "labels": Y},
    "a dictionary of arrays": {"y": Y.numpy().astype(np.int8), "x": X.numpy()},
    "a subset": Subset(TensorDataset(X.repeat(2, 1), Y.repeat(2)), range(40)),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_batches_that_tensors_give(name: str) -> None:
    expected = BatchStream(TensorDataset(X, Y), 10, 8, seed=3)
    for batch, like in zip(stream_of(FORMS[name]), expected, strict=True):
        torch.testing.assert_close(batch.x, like.x, rtol=0, atol=0)  # dtypes, too
        assert torch.equal(batch.target, like.target)
        assert batch.target.dtype == torch.int64


@pytest.mark.parametrize("name", ["float64 and uint16 arrays", "a data set of dictionaries", "a data set of arrays"])
def test_training_on_another_form_comes_to_the_same_network(name: str) -> None:
    def trained(data: Any) -> list[Tensor]:
        torch.manual_seed(0)
        trainer = Trainer(mlp(6, 8, 2), workers=2, batch_size=10, lag=2, split=(1,))
        result = trainer.fit(data, steps=6, eval_set=data)
        return [*result.model.parameters(), torch.tensor(result.history[-1].test_loss)]

    # copies: those that are trained on are moved to memory that is shared, and an array of one would be left without
    assert all(map(torch.equal, trained(FORMS[name]), trained((X.clone(), Y.clone()))))


def test_uint8_images_and_whole_number_inputs_are_left_as_they_are() -> None:
    images = torch.randint(0, 256, (40, 1, 4, 4)).to(torch.uint8)
    assert stream_of((images, Y))[0].x.dtype == torch.uint8
    assert stream_of((Y.int(), Y))[0].x.dtype == torch.int32
    assert stream_of((X, (Y > 0)))[0].target.dtype == torch.bool


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_floats_are_cast_to_what_the_network_has(dtype: torch.dtype) -> None:
    batch = stream_of((X, X.double()), dtype=dtype)[0]
    assert batch.x.dtype == batch.target.dtype == dtype
    assert stream_of((X, X.double()), dtype=None)[0].target.dtype == torch.float64


@pytest.mark.parametrize(
    "data",
    [{"a": X, "mask": MASK, "label": Y}, Samples(lambda i: {"mask": MASK[i], "label": Y[i], "a": X[i]})],
    ids=["whole", "samples"],
)
def test_several_inputs_are_a_dictionary(data: Any) -> None:
    stream = stream_of(data)
    indices, batch = stream.indices(0), stream[0]
    assert batch.x.keys() == {"a", "mask"}
    assert torch.equal(batch.x["a"], X[indices])
    assert torch.equal(batch.x["mask"], MASK[indices])
    assert torch.equal(batch.target, Y[indices])


@pytest.mark.parametrize(
    "data", [((X, MASK), Y), ((X.numpy(), MASK.numpy()), Y.numpy()), Samples(lambda i: ((X[i], MASK[i]), Y[i]))]
)
def test_several_inputs_in_a_pair_are_a_tuple(data: Any) -> None:
    stream = stream_of(data)
    x = stream[0].x
    assert isinstance(x, tuple)
    assert all(map(torch.equal, x, (X[stream.indices(0)], MASK[stream.indices(0)])))


class Masked(nn.Module):
    """Takes both inputs: of a dictionary, or of a tuple."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__()
        self.first, self.second, self.layer = first, second, nn.Linear(6, 8)

    def forward(self, x: Any) -> Tensor:
        return self.layer(x[self.first] * x[self.second])


@pytest.mark.parametrize("settings", [{"serial": True}, {"workers": 2}, {"workers": 2, "loader_workers": 1}], ids=str)
@pytest.mark.parametrize("names", [("a", "mask"), (0, 1)])
def test_a_network_of_several_inputs_trains_as_of_their_product(names: Any, settings: dict[str, Any]) -> None:
    def trained(model: nn.Module, data: Any, **settings: Any) -> list[Tensor]:
        trainer = Trainer(nn.Sequential(model, nn.Linear(8, 2)), batch_size=10, lag=1, **settings)
        result = trainer.fit(data, steps=6, eval_set=data)
        return [*result.model.parameters(), torch.tensor(result.history[-1].test_loss)]

    torch.manual_seed(0)
    expected = trained(nn.Linear(6, 8), ((X * MASK).clone(), Y.clone()), workers=2, serial=True)
    torch.manual_seed(0)
    whole = {"a": X.numpy().copy(), "mask": MASK.double().numpy(), "y": Y.numpy().copy()}
    data = whole if names[0] == "a" else ((whole["a"], whole["mask"]), whole["y"])
    found = trained(Masked(*names), data, **{"workers": 2, **settings})
    assert all(map(torch.equal, found, expected))


def test_the_target_is_named() -> None:
    data = {"labels": MASK, "x": X, "mine": Y}
    stream = stream_of(data, target="mine")
    assert torch.equal(stream[0].target, Y[stream.indices(0)])
    assert stream[0].x.keys() == {"labels", "x"}
    result = Trainer(mlp(6, 8, 2), workers=2, batch_size=10, target="mine").fit({"x": X, "mine": Y}, steps=2)
    assert result.summary["steps"] == 2


def test_what_a_batch_may_not_be() -> None:
    for batch, problem in (
        (torch.zeros(3), "neither a pair"),
        ({"x": X}, "none of labels, label, target, targets, y among x, so that target is to name one"),
        ({"y": Y}, "nothing beside 'y'"),
        (("text", Y), "str is no tensor, array or number"),
        (({"a": {"b": X}}, Y), "dict is no tensor"),
    ):
        with pytest.raises((TypeError, ValueError), match=problem):
            split(batch)
    with pytest.raises(TypeError, match="holds no numbers"):
        as_tensor(np.array(["a"]))


# A DataLoader to evaluate on: its samples, by its collate_fn.


def negated(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    return -torch.stack([x for x, _ in samples]), torch.tensor([label for _, label in samples])


def test_a_loader_to_evaluate_on_gives_its_samples_once() -> None:
    data = TensorDataset(X, Y)
    for loader, expected in (
        (DataLoader(data, batch_size=7), X),
        (DataLoader(data, batch_size=7, collate_fn=negated), -X),
        (DataLoader(data, batch_size=7, shuffle=True), X),
        (DataLoader(data, batch_size=7, sampler=SubsetRandomSampler([3, 1, 30])), X[[1, 3, 30]]),
        (DataLoader(data, batch_size=16, drop_last=True), X[:32]),
        (DataLoader(data, batch_sampler=[[5, 6], [7]]), X[[5, 6, 7]]),
    ):
        source = as_source(loader, "eval_set", None, None, seed=0)
        x, _ = source.get_batch(torch.arange(len(source)))
        assert sorted(x.tolist()) == sorted(expected.tolist())


def test_evaluation_takes_batches_no_larger_than_training() -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                rows.append(len(x))
            return x

    rows: list[int] = []

    trainer = Trainer(
        nn.Sequential(Counting(), nn.Linear(6, 2)), workers=1, batch_size=7, method="backprop", serial=True
    )
    trainer.fit((X, Y), steps=1, eval_set=(X, Y))
    assert rows[-6:] == [7, 7, 7, 7, 7, 5]
    assert max(rows) == 7


# Sequences.


def by_batch(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Padded to the longest of the batch."""
    return nn.utils.rnn.pad_sequence([x for x, _ in samples], batch_first=True), torch.tensor([y for _, y in samples])


def to_twelve(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    x, target = by_batch(samples)
    return nn.functional.pad(x, (0, 12 - x.shape[1])), target


def sequence(index: int) -> tuple[Tensor, int]:
    return torch.full((1 + index % 12,), index), index % 2


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x).mean(1)


def fit_sequences(data: Any) -> Any:
    return Trainer(nn.Sequential(Pooled(), nn.Linear(8, 2)), workers=2, serial=True, batch_size=4).fit(data, steps=10)


def test_sequences_padded_to_one_length_train() -> None:
    loader = DataLoader(Samples(sequence), batch_size=4, collate_fn=to_twelve)
    assert fit_sequences(loader).summary["steps"] == 10


def test_sequences_of_several_lengths_are_told_to_be_padded() -> None:
    advice = r"pad sequences to one length, in the data set or a DataLoader's collate_fn"
    loader = DataLoader(Samples(sequence), batch_size=4, collate_fn=by_batch)
    form = r"\[8\] torch.int64 and \[\] torch.int64, where the first batch had \[4\] torch.int64 and"
    with pytest.raises(Exception, match=rf"\(batch 1\) make a batch of {form}.*{advice}"):
        fit_sequences(loader)
    form = r"is \(\[\d+\] torch.int64, int\); allowed: \(\[1\] torch.int64, int\), as sample 0"
    with pytest.raises(ConfigError, match=rf"sample \d+ \(batch 0\); it {form}; {advice}"):
        fit_sequences(Samples(sequence))
