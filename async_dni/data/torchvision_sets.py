"""Data sets by name, read by torchvision."""

from __future__ import annotations

import gzip
import hashlib
import warnings
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import DATASETS, ConfigError
from .atomic_file import write_atomically
from .image_dataset import ImageDataset
from .samples import DataError, Labels

# The repository's own data directory; an installed package has none, and looks below the working directory.
_REPOSITORY_DATA = Path(__file__).resolve().parents[2] / "data"
DEFAULT_DATA_DIR = _REPOSITORY_DATA if _REPOSITORY_DATA.is_dir() else Path("data")

CLASSES = 10  # of all of them

# MD5 sums of MNIST's unpacked IDX files: those that the data set is known by.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def load_dataset(
    name: str = "mnist", data_dir: Path | str | None = None, image_size: int | None = None
) -> tuple[ImageDataset, ImageDataset]:
    """The training and the test set of `mnist`, `fashion-mnist` or `cifar10`, read by torchvision.

    MNIST is unpacked on first use from the archives that ship with the repository; the others are downloaded by
    torchvision, unless their files are in `data_dir` already. `image_size=32` pads 28×28 images with zeros.
    Raises `ConfigError` for an unknown name and where files are missing and can't be had.
    """
    if name not in DATASETS:
        raise ConfigError("dataset", name, "allowed: " + ", ".join(DATASETS))
    native = 32 if name == "cifar10" else 28
    size = image_size or native
    if size not in (native, 32):
        raise ConfigError("image_size", image_size, f"{name} has images of {native}×{native}; allowed: {native} or 32")
    root = Path(data_dir) if data_dir is not None else DEFAULT_DATA_DIR
    if name == "mnist":
        unpack_mnist(root)
    datasets = _torchvision_datasets()
    kind = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}[name]
    train, test = (_read(kind, name, root, is_train, native) for is_train in (True, False))
    mean, std = _channel_statistics(train[0])
    pad = (size - native) // 2
    return ImageDataset(*train, mean, std, pad), ImageDataset(*test, mean, std, pad)


def unpack_mnist(root: Path) -> None:
    """Put MNIST's four IDX files where torchvision reads them, `root/MNIST/raw`, from `root/mnist/*.gz`; checked.

    Where they are there already nothing is done. Raises `ConfigError` where an archive is missing or wrong.
    """
    raw = root / "MNIST" / "raw"
    for name, md5 in MNIST_MD5.items():
        archive = root / "mnist" / f"{name}.gz"
        try:
            if (raw / name).is_file():
                continue
            content = gzip.decompress(archive.read_bytes())
        except FileNotFoundError:
            wanted = ", ".join(f"{name}.gz" for name in MNIST_MD5)
            raise ConfigError(
                "data_dir", root, f"MNIST needs {wanted} in {root / 'mnist'}; {archive.name} is missing"
            ) from None
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigError("data_dir", root, f"{archive} can't be read as a gzip archive ({error})") from None
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise ConfigError("data_dir", root, f"{archive} is not MNIST's {name}: the MD5 sum should be {md5}")
        try:
            raw.mkdir(parents=True, exist_ok=True)
            write_atomically(raw / name, lambda file: file.write(content))  # noqa: B023
        except OSError as error:
            raise ConfigError("data_dir", raw, f"a directory that can be written is needed ({error})") from None


def _torchvision_datasets() -> Any:
    """torchvision.datasets, also where torchvision's compiled operators can't be loaded.

    The registry's torchvision is built against a CUDA build of torch; beside a CPU build its operators don't load, and
    its import then fails on registering shape functions for two of them. The data sets need no operator: declared,
    not defined, the two names are enough.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision.datasets
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            import torchvision.datasets

            torchvision.datasets._operators = library  # declared for as long as the module lives
    return torchvision.datasets


def _read(kind: Any, name: str, root: Path, train: bool, size: int) -> tuple[Tensor, Tensor]:
    """Images `[samples, channels, height, width]` uint8 and labels `[samples]` int64, checked."""
    folder = root / ("cifar-10-batches-py" if name == "cifar10" else f"{kind.__name__}/raw")
    try:
        data = kind(root, train=train, download=name != "mnist")
    except Exception as error:  # torchvision checks little, so damaged files raise whatever they lead it to
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            "data_dir", root, f"{name} can't be read or downloaded; its files go to {folder} ({reason})"
        ) from None
    images, labels = torch.as_tensor(data.data), torch.as_tensor(data.targets)
    images = images.permute(0, 3, 1, 2).contiguous() if images.dim() == 4 else images.unsqueeze(1)
    if problem := _problem(images, labels, size):
        raise ConfigError("data_dir", root, f"{'training' if train else 'test'} files in {folder}: {problem}")
    return images, labels


def _problem(images: Tensor, labels: Tensor, size: int) -> str | None:
    """What is wrong with a data set's images `[samples, channels, height, width]` and labels."""
    if not len(images) or len(images) != len(labels):
        return f"{len(images)} images and {len(labels)} labels; allowed: as many, and at least one"
    if images.shape[2:] != (size, size):
        return f"images of {images.shape[2]}×{images.shape[3]}; allowed: {size}×{size}"
    try:
        Labels(CLASSES).check(labels, torch.arange(len(labels)))
    except DataError as error:
        return f"{error.subject} {error.problem}"
    return None


def _channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of pixels in [0, 1], from a histogram (exact and small)."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        share = torch.bincount(images[:, channel].flatten(), minlength=256).to(torch.float64)
        share /= share.sum()
        mean.append(float((share * levels).sum()))
        std.append(float((share * (levels - mean[-1]) ** 2).sum().sqrt()))
    return mean, std
