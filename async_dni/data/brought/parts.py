"""A batch's parts, whatever a data set or a `collate_fn` gives: x, which is one tensor, a tuple or a dict of them; targets.

(x, target)                          a pair; each of x and target a tensor, an array or numbers
{"pixel_values": …, "labels": …}     a dictionary: one entry is the targets, the others x; of one, x is its tensor
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...learning.structure import mapped

TARGETS = ("labels", "label", "target", "targets", "y")
"""What targets are called in a dictionary where nobody says."""

MOST_SHOWN = 8  # entries of a sample
Parts = Any
"""One tensor, or a tuple or a dict of tensors."""


def is_pair(sample: object) -> bool:
    """Whether a sample or a batch is a pair (x, target)."""
    return isinstance(sample, tuple | list) and len(sample) == 2


def split(batch: object, target: str | None = None) -> tuple[Parts, Tensor]:
    """x and the targets of a batch, as tensors. Raises `TypeError` or `ValueError`, saying what the batch is not."""
    if isinstance(batch, Mapping):
        name = target_name(batch, target)
        rest = {str(key): value for key, value in batch.items() if key != name}
        if not rest:
            raise ValueError(f"nothing beside {name!r}")
        x, y = (next(iter(rest.values())) if len(rest) == 1 else rest), batch[name]
    elif is_pair(batch):
        x, y = batch  # type: ignore[misc]
    else:
        raise TypeError("neither a pair (sample, target) nor a dictionary")
    return as_tensors(x), as_tensor(y)


def target_name(entries: Mapping[Any, object], target: str | None = None) -> str:
    """Which entry of a dictionary is the targets. Raises `ValueError` where none is, or two could be."""
    found = [name for name in ([target] if target is not None else TARGETS) if name in entries]
    if len(found) == 1:
        return found[0]
    names = ", ".join(map(str, entries))
    if target is not None:
        raise ValueError(f"no {target!r} among {names}")
    which = f"both {' and '.join(found)}" if found else f"none of {', '.join(TARGETS)}"
    raise ValueError(f"{which} among {names}, so that target is to name one")


def as_tensors(value: object) -> Parts:
    """One tensor, or a tuple or dict of tensors. Raises `TypeError` for what is none."""
    if isinstance(value, Mapping):
        return {str(key): as_tensor(part) for key, part in value.items()}
    if isinstance(value, tuple | list) and not all(isinstance(part, int | float) for part in value):
        return tuple(as_tensor(part) for part in value)
    return as_tensor(value)


def as_tensor(value: object) -> Tensor:
    """A tensor of a tensor, an array, numbers. Shares memory where it can. Raises `TypeError`."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        return of_array(value)
    if isinstance(value, np.generic | int | float | bool):
        return torch.as_tensor(value)
    if isinstance(value, list | tuple):
        if value and all(isinstance(part, Tensor) for part in value):
            return torch.stack(list(value))
        return of_array(np.array(value))
    raise TypeError(f"{type(value).__name__} is no tensor, array or number")


def of_array(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of an array's memory, or of a copy where PyTorch takes that of no such array. Raises `TypeError`."""
    if array.dtype.kind not in "biufc":
        raise TypeError(f"an array of {array.dtype} holds no numbers")
    array = array.astype(_signed(array.dtype), copy=False)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def _signed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Native byte order; and PyTorch does little with unsigned integers of more than 8 bits."""
    wider = {"u2": "i4", "u4": "i8", "u8": "i8", "f16": "f8", "c32": "c16"}
    return np.dtype(wider.get(f"{dtype.kind}{dtype.itemsize}", dtype.newbyteorder("=")))


def cast(x: Parts, target: Tensor, dtype: torch.dtype | None) -> tuple[Parts, Tensor]:
    """Floats as the network has them, where it has any; targets that are whole numbers as int64. Other x stay as they are."""

    def floats(part: Tensor) -> Tensor:
        return part.to(dtype) if dtype is not None and part.is_floating_point() else part

    is_whole = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    return mapped(floats, x), target.to(torch.int64) if is_whole else floats(target)


def form(value: object) -> str:
    """What a sample is like: types and, of tensors and arrays, shape and dtype."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {form(part)}" for key, part in value.items()) + "}"
    if isinstance(value, tuple | list):
        most = value if len(value) <= MOST_SHOWN else value[:1]
        return f"({', '.join(form(part) for part in most)}{', …' if most is not value else ''})"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{list(value.shape)} {value.dtype}"
    return type(value).__name__


def form_of_one(parts: Parts) -> str:
    """The form of one sample of a batch."""

    def one(part: Tensor) -> str:
        return f"{list(part.shape[1:])} {part.dtype}"

    if isinstance(parts, dict):
        return "{" + ", ".join(f"{name}: {one(part)}" for name, part in parts.items()) + "}"
    return f"({', '.join(map(one, parts))})" if isinstance(parts, tuple) else one(parts)


def differ_in_length(sample: Any, other: Any) -> bool:
    """Whether two samples or batches are alike but for the lengths of some dimensions."""
    if isinstance(sample, Mapping) and isinstance(other, Mapping):
        return sample.keys() == other.keys() and all(differ_in_length(sample[key], other[key]) for key in sample)
    if isinstance(sample, tuple | list) and isinstance(other, tuple | list):
        return len(sample) == len(other) and all(map(differ_in_length, sample, other))
    if hasattr(sample, "shape") and hasattr(other, "shape"):
        return len(sample.shape) == len(other.shape) and str(sample.dtype) == str(other.dtype)
    return type(sample) is type(other)
