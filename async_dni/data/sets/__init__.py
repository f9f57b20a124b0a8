"""Data sets, one file each; a new one is a file and a line here. `data_set.py` says what one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...foundation.registry import Registry
from .cifar10 import CIFAR10
from .cifar100 import CIFAR100
from .data_set import DEFAULT_DATA_DIR, DatasetSpec
from .fashion_mnist import FASHION_MNIST
from .mnist import MNIST
from .text import TEXT

__all__ = ["DATASETS", "DatasetSpec", "load_dataset"]

DATASETS = Registry(DatasetSpec, "dataset", "async_dni.datasets", [MNIST, FASHION_MNIST, CIFAR10, CIFAR100, TEXT])


def load_dataset(
    name: str = "mnist",
    data_dir: Path | str | None = None,
    image_size: int | None = None,
    sequence_length: int | None = None,
) -> tuple[Any, Any]:
    """The training and the test set of `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, `text`, or of another name.

    MNIST is unpacked on first use from the archives that ship with the repository; other images are downloaded by
    torchvision, unless their files are in `data_dir` already. `image_size=32` pads 28×28 images with zeros. `text` is of the
    characters of a file, `data_dir`, in sequences of `sequence_length`.
    Raises `ConfigError` for an unknown name and where files are missing and can't be had.
    """
    root = Path(data_dir) if data_dir is not None else DEFAULT_DATA_DIR
    spec = DATASETS[name]
    return spec.load(root, **spec.check({"image_size": image_size, "sequence_length": sequence_length}))
