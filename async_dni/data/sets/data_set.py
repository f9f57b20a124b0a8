"""A data set, as it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ...foundation.error import ConfigError

# The repository's own data directory; an installed package has none, and looks below the working directory.
_REPOSITORY_DATA = Path(__file__).resolve().parents[3] / "data"
DEFAULT_DATA_DIR = _REPOSITORY_DATA if _REPOSITORY_DATA.is_dir() else Path("data")


@dataclass(frozen=True)
class DatasetSpec:
    """A data set by name. `load(data_dir, **settings)` gives its training and its test set.

    They are of pairs (sample, target); the targets are labels from 0 to `num_classes` - 1. `settings` are those that `load`
    takes, such as `image_size`: None unless another than the data set's own is asked for; `load` raises `ConfigError` for one
    that it can't give.
    """

    name: str
    help: str  # a few words
    load: Callable[..., tuple[Dataset, Dataset]]
    num_classes: int | None  # None: known when it is loaded, by the training set's own num_classes
    settings: tuple[str, ...] = ("image_size",)

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that `load` takes, of those given. Raises `ConfigError` for another that is not None."""
        for name, value in given.items():
            if value is not None and name not in self.settings:
                raise ConfigError(name, value, f"{self.name} takes {', '.join(self.settings) or 'no settings'}")
        return {name: given.get(name) for name in self.settings}
