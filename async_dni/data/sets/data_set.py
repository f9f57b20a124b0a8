"""A data set, as it says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import Dataset

# The repository's own data directory; an installed package has none, and looks below the working directory.
_REPOSITORY_DATA = Path(__file__).resolve().parents[3] / "data"
DEFAULT_DATA_DIR = _REPOSITORY_DATA if _REPOSITORY_DATA.is_dir() else Path("data")


@dataclass(frozen=True)
class DatasetSpec:
    """A data set by name. `load(data_dir, image_size)` gives its training and its test set.

    They are of pairs (sample, target); the targets are labels from 0 to `num_classes` - 1. `image_size` is None unless
    another than the data set's own is asked for; `load` raises `ConfigError` for one that it can't give.
    """

    name: str
    help: str  # a few words
    load: Callable[[Path, int | None], tuple[Dataset, Dataset]]
    num_classes: int
