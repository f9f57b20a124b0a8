"""A data set's samples: loaded, made a batch of, and checked, so that one that can't be trained on is named.

What costs little is looked at for every batch, and the sample looked for only where that fails:

    shape and dtype    those of a batch, against the first batch's
    not finite         the sum of a batch of floats is finite unless one of them isn't (or it overflows)
    labels             the least and the greatest

Data sets that are tensors are checked once, whole, and their batches not at all.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset, default_collate

from ..foundation.error import ConfigError
from ..learning.pickling import UNPICKLABLE, SharingPickler


class DataError(RuntimeError):
    """A sample that can't be trained on: which (`where`, and of which batch), and its problem with what is allowed."""

    def __init__(self, where: str, problem: str, batch: int | None = None) -> None:
        super().__init__(where, problem, batch)
        self.where, self.problem, self.batch = where, problem, batch

    def __str__(self) -> str:
        return f"data set: {self.subject} {self.problem}"

    @property
    def subject(self) -> str:
        """The sample and, where it is known, the batch of the stream that it is in."""
        return self.where if self.batch is None else f"{self.where} (batch {self.batch})"


@dataclass(frozen=True)
class Labels:
    """The labels that a loss takes: 0 to `classes` - 1, and `ignored`, where there is one."""

    classes: int
    ignored: int | None = None

    @classmethod
    def of(cls, loss_fn: object, output: Tensor, target: Tensor) -> Labels | None:
        """Those of a loss that is known to take labels, by the network's output `[batch, classes, ...]`; else None."""
        if not isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss):
            return None
        if target.is_floating_point() or output.dim() != target.dim() + 1:
            return None
        return cls(output.shape[1], loss_fn.ignore_index)

    def check(self, target: Tensor, indices: Tensor) -> None:
        """Raise `DataError` where one of the targets `[batch, ...]` of these samples is another label."""
        if not target.numel():
            return
        low, high = target.aminmax()
        if low >= 0 and high < self.classes:
            return
        wrong = (target < 0) | (target >= self.classes)
        if self.ignored is not None:
            wrong &= target != self.ignored
        if wrong.any():
            label = int(target[wrong][0])
            raise DataError(_first(wrong, indices), f"has label {label}; allowed: 0 to {self.classes - 1}")


def check_finite(tensor: Tensor, indices: Tensor) -> None:
    """Raise `DataError` where one of these samples' numbers `[batch, ...]` is NaN or infinite."""
    if not tensor.is_floating_point() or torch.isfinite(tensor.sum()):
        return
    wrong = ~torch.isfinite(tensor)
    if wrong.any():
        number = float(tensor[wrong][0])
        raise DataError(_first(wrong, indices), f"holds the number {number}; allowed: finite numbers")


def _first(wrong: Tensor, indices: Tensor) -> str:
    row = int(wrong.flatten(1).any(1).nonzero()[0]) if wrong.dim() > 1 else int(wrong.nonzero()[0])
    return f"sample {int(indices[row])}"


def get_batch(dataset: Dataset, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Samples and targets of a data set of `(sample, target)` pairs: by its own `get_batch`, else by PyTorch.

    Raises `DataError` where a sample can't be loaded, or is not like the others.
    """
    if is_tensors(dataset):
        x, target = (tensor.index_select(0, indices) for tensor in dataset.tensors)
        return x, target
    if hasattr(dataset, "get_batch"):
        return _own_batch(dataset, indices)
    return _collated(dataset, [_load(dataset, index) for index in indices.tolist()], indices)


def is_tensors(dataset: object) -> TypeGuard[TensorDataset]:
    """Whether a data set is a plain `TensorDataset`: one that does more than to pick rows is asked for its samples."""
    return isinstance(dataset, TensorDataset) and type(dataset).__getitem__ is TensorDataset.__getitem__


def _load(dataset: Any, index: int) -> Any:
    try:
        sample = dataset[index]
    except Exception as error:
        raise DataError(f"sample {index}", _raised(error)) from error
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        raise DataError(f"sample {index}", f"is {form(sample)}; allowed: a pair (sample, target)")
    return sample


def _own_batch(dataset: Any, indices: Tensor) -> tuple[Tensor, Tensor]:
    try:
        batch = dataset.get_batch(indices)
    except Exception as error:
        raise DataError(_names(indices), _raised(error)) from error
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
    if not is_pair or any(part.shape[:1] != indices.shape for part in batch):
        allowed = f"tensors of {len(indices)} samples and targets"
        raise DataError(_names(indices), f"came from get_batch as {form(batch)}; allowed: {allowed}")
    return batch[0], batch[1]


def _collated(dataset: Any, samples: Sequence[Any], indices: Tensor) -> tuple[Tensor, Tensor]:
    try:
        x, target = default_collate(list(samples))
    except Exception as error:
        raise _misfit(dataset, samples, indices, " ".join(str(error).split())) from None
    if not isinstance(x, Tensor) or not isinstance(target, Tensor):
        raise DataError(f"sample {int(indices[0])}", f"is {form(samples[0])}; allowed: tensors, arrays and numbers")
    return x, target


def _misfit(dataset: Any, samples: Sequence[Any], indices: Tensor, reason: str) -> DataError:
    """Names the sample that is not like the data set's first."""
    for index, sample in zip(indices.tolist(), samples, strict=False):
        if form(sample) != (like := form(_load(dataset, 0))):
            return DataError(f"sample {index}", f"is {form(sample)}; allowed: {like}, as sample 0")
    return DataError(
        _names(indices), f"don't make a batch ({reason}); allowed: tensors, arrays and numbers of one form"
    )


def form(value: Any) -> str:
    """What a sample is like: types and, of tensors and arrays, shape and dtype."""
    if isinstance(value, tuple | list):
        return f"({', '.join(form(part) for part in value)})"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{list(value.shape)} {value.dtype}"
    return type(value).__name__


def _names(indices: Tensor) -> str:
    shown = ", ".join(str(index) for index in indices[:3].tolist())
    return f"samples {shown}{', …' if len(indices) > 3 else ''}"


def _raised(error: Exception) -> str:
    return f"raised {type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


class BatchCheck:
    """Holds the batches of a data set against the first, and their labels against those that the loss takes."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.labels: Labels | None = None  # None: the loss takes none, or it is not known which
        self._like: list[str] | None = None

    def __call__(self, x: Tensor, target: Tensor, indices: Tensor) -> None:
        """Raise `DataError` where a sample of this batch is not like the first batch's, or holds what it may not."""
        found = [f"{list(part.shape[1:])} {part.dtype}" for part in (x, target)]
        self._like = self._like or found
        if found != self._like:
            reason = f"{' and '.join(found)}, where the first batch had {' and '.join(self._like)}"
            one_by_one = not hasattr(self.dataset, "get_batch")
            samples = [_load(self.dataset, index) for index in indices.tolist()] if one_by_one else []
            raise _misfit(self.dataset, samples, indices, reason)
        check_finite(x, indices)
        check_finite(target, indices)
        if self.labels is not None:
            self.labels.check(target, indices)


def as_dataset(data: Dataset | Sequence[Tensor], setting: str = "train_set") -> Dataset:
    """A data set, or a pair of tensors (samples, targets) as one. Raises `ConfigError` for what is neither, or empty."""
    allowed = "allowed: a data set of (sample, target) pairs with a length, or a pair of tensors (samples, targets)"
    tensors = data.tensors if is_tensors(data) else data
    if isinstance(tensors, tuple | list) and tensors and all(isinstance(part, Tensor) for part in tensors):
        if len(tensors) != 2 or tensors[0].shape[:1] != tensors[1].shape[:1] or not tensors[0].dim():
            shapes = " and ".join(str(list(tensor.shape)) for tensor in tensors)
            raise ConfigError(setting, f"tensors {shapes}", f"{allowed} with a row for each sample")
        data = data if isinstance(data, TensorDataset) else TensorDataset(*tensors)
    elif isinstance(data, tuple) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise ConfigError(setting, form(data), allowed)
    if not len(data):
        raise ConfigError(setting, "no samples", "allowed: at least one")
    return data  # type: ignore[return-value]  # a list of pairs is a data set too


@contextmanager
def refused(setting: str) -> Iterator[None]:
    """What is wrong with a sample before anything is started is a setting that is refused."""
    try:
        yield
    except DataError as error:
        raise ConfigError(setting, error.subject, f"it {error.problem}") from error.__cause__


class _Nowhere(io.RawIOBase):
    def write(self, data: Any) -> int:
        return len(data)


class _DryPickler(SharingPickler):
    """Pickles as for another process, but passes over tensors, which are shared and not copied."""

    def __init__(self) -> None:
        super().__init__(_Nowhere())
        self.tensors: list[Tensor] = []

    def persistent_id(self, value: object) -> str | None:
        if not isinstance(value, Tensor):
            return None
        self.tensors.append(value)
        return "tensor"


def check_picklable(dataset: Dataset, setting: str) -> list[Tensor]:
    """The tensors in a data set. Raises `ConfigError` where it can't be sent to another process. Copies nothing."""
    pickler = _DryPickler()
    try:
        pickler.dump(dataset)
    except UNPICKLABLE as error:
        allowed = f"stage 0 is another process, so the data set must be picklable: no open file, no lock ({error})"
        raise ConfigError(setting, type(dataset).__name__, allowed) from None
    return pickler.tensors
