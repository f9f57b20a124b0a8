"""Whether modules fit in memory, known before any of it is taken."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import torch
from torch import nn

from ..foundation.error import ConfigError


def check_fits(make: Callable[[], nn.Module], setting: str, value: object, what: str) -> None:
    """Raise `ConfigError` where the parameters of what `make` makes are more than there is memory. Makes no random number."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):  # of the same sizes, but without memory
        needed = sum(parameter.nbytes for parameter in make().parameters())
    free = psutil.virtual_memory().available
    if needed > free:
        sizes = f"{needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free"
        raise ConfigError(setting, value, f"{what} would take {sizes}; allowed: what fits")
