"""Autocast: layers and the loss compute in half precision where PyTorch knows that it does them no harm.

Weights, their gradients and synthesizers stay float32. What goes from stage to stage has the type that autocast gives it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

AUTOCASTS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(name: str | None, device: torch.device) -> AbstractContextManager[Any]:
    """Half precision inside, where it has a name."""
    return nullcontext() if name is None else torch.autocast(device.type, dtype=AUTOCASTS[name])


def widened(value: Any) -> Any:
    """A tensor of half precision, or each in a list, tuple or dict, as float32; all else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in AUTOCASTS.values() else value
    if isinstance(value, list | tuple):
        return type(value)(widened(part) for part in value)
    return {key: widened(part) for key, part in value.items()} if isinstance(value, dict) else value
