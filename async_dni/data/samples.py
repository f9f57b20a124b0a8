"""A data set's samples: loaded, and made a batch of, so that one that can't be trained on is named."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeGuard

from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from ..foundation.error import ConfigError
from ..learning.pickling import UNPICKLABLE, SharingPickler
from ..learning.structure import parts_of
from .brought.parts import Parts, differ_in_length, form, is_pair, split

ONE_LENGTH = "pad sequences to one length, in the data set or a DataLoader's collate_fn"


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


def get_batch(
    dataset: Dataset, indices: Tensor, collate: Callable[[list[Any]], Any] | None = None, target: str | None = None
) -> tuple[Parts, Tensor]:
    """x and targets of some samples: by `collate`; without, by the data set's own `get_batch`, else by PyTorch's collation.

    `target` names the targets where samples are dictionaries. Raises `DataError` where a sample can't be loaded, or is
    not like the others.
    """
    if collate is None and is_tensors(dataset):
        x, y = (tensor.index_select(0, indices) for tensor in dataset.tensors)
        return x, y
    if collate is None and hasattr(dataset, "get_batch"):
        return _own_batch(dataset, indices, target)
    samples = [load(dataset, index, is_free=collate is not None) for index in indices.tolist()]
    return _collated(dataset, samples, indices, collate, target)


def is_tensors(dataset: object) -> TypeGuard[TensorDataset]:
    """Whether a data set is a plain `TensorDataset`: one that does more than to pick rows is asked for its samples."""
    return isinstance(dataset, TensorDataset) and type(dataset).__getitem__ is TensorDataset.__getitem__


def load(dataset: Any, index: int, is_free: bool = False) -> Any:
    """A sample; `is_free`: of any form. Raises `DataError`."""
    try:
        sample = dataset[index]
    except Exception as error:
        raise DataError(f"sample {index}", raised(error)) from error
    if not (is_free or is_pair(sample) or isinstance(sample, Mapping)):
        raise DataError(f"sample {index}", f"is {form(sample)}; allowed: a pair (sample, target), or a dictionary")
    return sample


def _own_batch(dataset: Any, indices: Tensor, target: str | None) -> tuple[Parts, Tensor]:
    try:
        batch = dataset.get_batch(indices)
    except DataError:
        raise
    except Exception as error:
        raise DataError(names(indices), raised(error)) from error
    with suppress(TypeError, ValueError):
        x, y = split(batch, target)
        if has_rows((x, y), len(indices)):
            return x, y
    allowed = f"tensors of {len(indices)} samples and targets"
    raise DataError(names(indices), f"came from get_batch as {form(batch)}; allowed: {allowed}")


def _collated(
    dataset: Any,
    samples: list[Any],
    indices: Tensor,
    collate: Callable[[list[Any]], Any] | None,
    target: str | None,
) -> tuple[Parts, Tensor]:
    try:
        batch = (collate or default_collate)(samples)
    except Exception as error:
        if collate is not None:
            raise DataError(names(indices), f"don't go through collate_fn: it {raised(error)}") from error
        raise misfit(dataset, samples, indices, " ".join(str(error).split())) from None
    try:
        x, y = split(batch, target)
    except (TypeError, ValueError) as error:
        where = f"sample {int(indices[0])}"
        raise DataError(where, f"is {form(samples[0])}, {error}; allowed: tensors, arrays and numbers") from None
    if collate is not None and not has_rows((x, y), len(indices)):
        allowed = f"a row for each of {len(indices)} samples"
        raise DataError(names(indices), f"came from collate_fn as {form(batch)}; allowed: {allowed}")
    return x, y


def has_rows(parts: tuple[Parts, Tensor], rows: int) -> bool:
    """Whether all tensors of x and the targets have so many rows."""
    return all(part.shape[:1] == (rows,) for part in (*parts_of(parts[0]), parts[1]))


def misfit(dataset: Any, samples: Sequence[Any], indices: Tensor, reason: str) -> DataError:
    """Names the sample that is not like the data set's first."""
    for index, sample in zip(indices.tolist(), samples, strict=False):
        if form(sample) != (like := form(first := load(dataset, 0))):
            advice = f"; {ONE_LENGTH}" if differ_in_length(sample, first) else ""
            return DataError(f"sample {index}", f"is {form(sample)}; allowed: {like}, as sample 0{advice}")
    return DataError(names(indices), f"don't make a batch ({reason}); allowed: tensors, arrays and numbers of one form")


def names(indices: Tensor) -> str:
    """Samples, for a person."""
    shown = ", ".join(str(index) for index in indices[:3].tolist())
    return f"samples {shown}{', …' if len(indices) > 3 else ''}"


def raised(error: Exception) -> str:
    """An error in a sentence on what raised it."""
    return f"raised {type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


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
