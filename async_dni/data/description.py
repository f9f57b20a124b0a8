"""What a network must know of a data set: the shape of a sample, and how many classes there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from ..foundation.error import ConfigError
from .brought.forms import as_dataset, is_iterable
from .brought.parts import form
from .samples import get_batch, refused
from .stream import in_memory

AT_ONCE = 1000  # samples


def input_shape(data: Any, setting: str = "train_set") -> tuple[int, ...]:
    """Shape of a sample, without the batch. Raises `ConfigError` where a sample can't be loaded, or is not one tensor."""
    with refused(setting):
        batch = _first_batch(data) if _is_iterated(data) else get_batch(as_dataset(data, setting), torch.arange(1))
    if not isinstance(batch, tuple | list) or not batch or not hasattr(batch[0], "shape"):
        allowed = "allowed, where a network asks for input_shape: pairs of a tensor and a target"
        raise ConfigError(setting, form(batch), allowed)
    return tuple(batch[0].shape[1:])


def num_classes(data: Any, setting: str = "train_set") -> int:
    """Its attribute `num_classes`, or its data set's, else one more than the greatest of its labels.

    Looks at all labels, so it loads every sample that is not in memory. Raises `ConfigError` where targets are no labels.
    """
    for holder in (data, getattr(data, "dataset", None)):
        given = getattr(holder, "num_classes", None)
        if type(given) is int and given > 0:
            return given
    allowed = "allowed, where a network asks for num_classes: labels from 0, or an attribute num_classes"
    if is_iterable(data):
        raise ConfigError(setting, type(data).__name__, f"its labels can't all be looked at; {allowed}")
    most = 0
    with refused(setting):
        for target in _targets(data, setting):
            if target.is_floating_point() or target.is_complex() or not target.numel():
                raise ConfigError(setting, f"targets {list(target.shape[1:])} {target.dtype}", allowed)
            most = max(most, int(target.max()))
    return most + 1


def _is_iterated(data: object) -> bool:
    """Whether data have no samples by their index."""
    return isinstance(data, DataLoader | IterableDataset)


def _first_batch(data: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        return next(iter(data if isinstance(data, DataLoader) else DataLoader(data, batch_size=1)), None)


def _targets(data: Any, setting: str) -> Iterator[Tensor]:
    """All targets, `[samples, ...]`, some at once; of a `DataLoader`, those of its data set."""
    collate = None
    if isinstance(data, DataLoader):
        collate = None if data.collate_fn is default_collate else data.collate_fn
        data = data.dataset
    dataset = as_dataset(data, setting)
    if (tensors := in_memory(dataset)) and collate is None:
        yield tensors[-1]
        return
    for indices in torch.arange(len(dataset)).split(AT_ONCE):  # type: ignore[arg-type]
        yield get_batch(dataset, indices, collate)[1]
