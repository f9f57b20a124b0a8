"""What a network must know of a data set: the shape of a sample, and how many classes there are."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..foundation.error import ConfigError
from .samples import get_batch, refused
from .stream import in_memory

AT_ONCE = 1000  # samples


def input_shape(dataset: Dataset, setting: str = "train_set") -> tuple[int, ...]:
    """Shape of a sample, without the batch. Raises `ConfigError` where a sample can't be loaded."""
    with refused(setting):
        return tuple(get_batch(dataset, torch.arange(1))[0].shape[1:])


def num_classes(dataset: Dataset, setting: str = "train_set") -> int:
    """Its attribute `num_classes`, else one more than the greatest of its labels.

    Looks at all labels, so it loads every sample that is not in memory. Raises `ConfigError` where targets are no labels.
    """
    given = getattr(dataset, "num_classes", None)
    if type(given) is int and given > 0:
        return given
    most = -1
    with refused(setting):
        for target in _targets(dataset):
            if target.is_floating_point() or target.is_complex() or not target.numel():
                found = f"targets {list(target.shape[1:])} {target.dtype}"
                allowed = "allowed, where a network asks for num_classes: labels from 0, or an attribute num_classes"
                raise ConfigError(setting, found, allowed)
            most = max(most, int(target.max()))
    return max(most, 0) + 1


def _targets(dataset: Dataset) -> Iterator[Tensor]:
    """All targets, `[samples, ...]`, some at once."""
    if tensors := in_memory(dataset):
        yield tensors[1]
        return
    for indices in torch.arange(len(dataset)).split(AT_ONCE):  # type: ignore[arg-type]
        yield get_batch(dataset, indices)[1]
