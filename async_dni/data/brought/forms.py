"""The forms in which users bring data: each as a data set whose samples have indices, or as a loader that is iterated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from ...foundation.error import ConfigError
from ...learning.random_state import seeded
from ...learning.structure import parts_of
from ..batches import ITERATING
from ..samples import is_tensors
from ..source import Source
from .arrays import Arrays, Column, as_column
from .loaders import batches_of, generators_kept
from .parts import form, target_name

ALLOWED = (
    "allowed: a data set of (sample, target) pairs or dictionaries with a length, a DataLoader, a pair of tensors or arrays "
    "(samples, targets), or a dictionary of them"
)

MOST_PASSES = 100  # over a data set, by a sampler that does not say how many samples it takes

MOST_SETS = 8  # that are looked at


def as_source(data: object, setting: str, target: str | None, dtype: torch.dtype | None, seed: int) -> Source:
    """Data whose samples have indices (`is_iterable` says no). Raises `ConfigError` for what is none, or empty."""
    if isinstance(data, DataLoader):
        return _of_loader(data, setting, target, dtype, seed)
    return Source(as_dataset(data, setting, target), target, dtype=dtype)


def _of_loader(
    loader: DataLoader[Any], setting: str, target: str | None, dtype: torch.dtype | None, seed: int
) -> Source:
    """Its data set, in the order and of the samples that its sampler gives, by its `collate_fn`."""
    collate = None if loader.collate_fn is default_collate else loader.collate_fn
    batches, rows = loader.batch_sampler, None
    is_plain = type(batches) is BatchSampler and not batches.drop_last
    if not is_plain or not isinstance(loader.sampler, SequentialSampler):
        with generators_kept(loader), seeded(seed, ITERATING):
            rows = torch.tensor(_indices(loader, setting), dtype=torch.int64)
    source = Source(loader.dataset, target, collate, rows, dtype)
    if not len(source):
        raise ConfigError(setting, "no samples", "allowed: at least one")
    return source


def _indices(loader: DataLoader[Any], setting: str) -> list[int]:
    """Those of a pass of its sampler."""
    most = None if batches_of(loader) is not None else MOST_PASSES * len(loader.dataset)  # type: ignore[arg-type]
    indices: list[int] = []
    for batch in loader.batch_sampler or ():
        indices += map(int, batch)
        if most is not None and len(indices) > most:
            raise ConfigError(setting, "a batch sampler without an end", "allowed: one that ends")
    return indices


def as_dataset(data: object, setting: str = "train_set", target: str | None = None) -> Dataset:
    """A data set; tensors and arrays as one. Raises `ConfigError` for what is neither, or empty."""
    if isinstance(data, Tensor | np.ndarray):
        raise ConfigError(setting, form(data), "these are samples, or targets; allowed: a pair of both")
    if isinstance(data, str | bytes):
        raise ConfigError(setting, f"the text {data!r}", ALLOWED)
    if are_sets(data):
        raise ConfigError(setting, form(data), "these are data sets; allowed: one")
    columns = _of_columns(data, setting, target)
    made: Any = data if columns is None else columns
    if isinstance(made, tuple | Mapping) or not (hasattr(made, "__len__") and hasattr(made, "__getitem__")):
        raise ConfigError(setting, form(data), ALLOWED)
    if not len(made):
        raise ConfigError(setting, "no samples", "allowed: at least one")
    return made  # a list of pairs is a data set too


def are_sets(data: object) -> bool:
    """Whether this is a list, a tuple or a dictionary of data sets."""
    parts = list(data.values()) if isinstance(data, Mapping) else data if isinstance(data, tuple | list) else []
    return bool(parts) and all(isinstance(part, Dataset | DataLoader) for part in parts[:MOST_SETS])


def _of_columns(data: object, setting: str, target: str | None) -> Dataset | None:
    """Data that is whole tensors or arrays: a pair, or a dictionary. None: it is something else."""
    if isinstance(data, Mapping):
        return _of_mapping(data, setting, target)
    given: Any = data.tensors if is_tensors(data) else data
    if not _are_columns(given):
        return None
    if all(isinstance(part, Tensor) for part in given):
        if len(given) != 2 or given[0].shape[:1] != given[1].shape[:1] or not given[0].dim():
            shapes = " and ".join(str(list(tensor.shape)) for tensor in given)
            raise ConfigError(setting, f"tensors {shapes}", f"{ALLOWED}, with a row for each sample")
        return data if isinstance(data, TensorDataset) else TensorDataset(*given)
    if len(given) != 2:
        raise ConfigError(setting, form(given), ALLOWED)
    return _arrays(given[0], given[1], setting, given)


def _are_columns(given: object) -> bool:
    """Whether this is a tuple of tensors, arrays, lists (the first may have several), or a list of tensors or arrays.

    Another list is one of samples.
    """
    if not isinstance(given, tuple | list) or not given:
        return False
    if isinstance(given, list):
        return all(isinstance(part, Tensor) for part in given) or all(isinstance(part, np.ndarray) for part in given)
    first, *others = given
    return isinstance(first, Tensor | np.ndarray | list | tuple | Mapping) and all(
        isinstance(part, Tensor | np.ndarray | list) for part in others
    )


def _of_mapping(data: Mapping[Any, Any], setting: str, target: str | None) -> Dataset:
    try:
        name = target_name(data, target)
    except ValueError as error:
        raise ConfigError(setting, form(data), f"{error}; allowed: its targets by one of these names") from None
    rest = {str(key): value for key, value in data.items() if key != name}
    if not rest:
        raise ConfigError(setting, form(data), f"nothing is beside {name!r}; allowed: samples, too")
    return _arrays(next(iter(rest.values())) if len(rest) == 1 else rest, data[name], setting=setting, given=data)


def _arrays(x: Any, target: Any, setting: str, given: object) -> Dataset:
    try:
        made = Arrays(_columns(x), as_column(target))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(setting, form(given), f"{error}; {ALLOWED}") from None
    columns: list[Column] = [*parts_of(made.x), made.target]
    if any(not column.shape or len(column) != len(columns[0]) for column in columns):
        raise ConfigError(setting, form(given), f"{ALLOWED}, with a row for each sample")
    return made


def _columns(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {str(name): as_column(part) for name, part in x.items()}
    return tuple(map(as_column, x)) if isinstance(x, tuple) else as_column(x)


def is_iterable(data: object) -> bool:
    """Whether these are batches or samples that come as they come, and have no indices."""
    if isinstance(data, DataLoader):
        return isinstance(data.dataset, IterableDataset) or data.batch_sampler is None
    return isinstance(data, IterableDataset)


def loader_of(data: object, batch_size: int) -> DataLoader[Any] | None:
    """A `DataLoader`, or one of an iterable data set; None of what has samples by their index."""
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size=batch_size)
    return data if isinstance(data, DataLoader) else None
