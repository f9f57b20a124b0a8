"""Data sets (torchvision's) and the seeded stream of batches that stage 0 trains on."""

from __future__ import annotations

import gzip
import hashlib
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from .atomic_file import write_atomically
from .config import DATASETS, ConfigError
from .samples import BatchCheck, DataError, Labels, check_finite, get_batch, is_tensors

# The repository's own data directory; an installed package has none, and looks below the working directory.
_REPOSITORY_DATA = Path(__file__).resolve().parents[1] / "data"
DEFAULT_DATA_DIR = _REPOSITORY_DATA if _REPOSITORY_DATA.is_dir() else Path("data")

CLASSES = 10  # of all of them

# MD5 sums of MNIST's unpacked IDX files: those that the data set is known by.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class ImageDataset(Dataset):
    """Images kept as bytes and normalized when a batch is taken.

    `images`: `[samples, channels, height, width]` uint8; `labels`: `[samples]` int64; `mean`, `std`: one number a
    channel, of pixels in [0, 1]. `pad` puts that many zero pixels on each side.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, mean: Sequence[float], std: Sequence[float], pad: int = 0
    ) -> None:
        self.images = F.pad(images, [pad] * 4) if pad else images
        self.labels = labels
        self.scale = (1 / (255 * torch.tensor(std))).view(-1, 1, 1)
        self.shift = -(torch.tensor(mean) / torch.tensor(std)).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.get_batch(torch.tensor([index]))
        return images[0], labels[0]

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[batch, channels, height, width]` float32 and labels `[batch]` int64 of these samples."""
        # converted first, by itself: an operation on numbers of two types takes longer than three passes over one
        images = self.images.index_select(0, indices).to(torch.float32)
        return images.mul_(self.scale).add_(self.shift), self.labels.index_select(0, indices)


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


@dataclass(frozen=True)
class Batch:
    """What a stage takes: the activation of the stage before (stage 0: the samples) and the targets."""

    index: int
    x: Tensor  # [batch, *features]
    target: Tensor  # [batch, ...]


class BatchStream:
    """Batches of a data set in a seeded order, anew in each epoch: a function of (seed, batch index) alone.

    Any batch can be asked for, so a stream is resumed by its index. An epoch's last batch may be smaller.
    Raises `DataError`, naming the sample, where one can't be loaded or is not what it should be.
    """

    def __init__(self, dataset: Dataset, batch_size: int, steps: int, seed: int) -> None:
        self.dataset, self.batch_size, self.steps, self.seed = dataset, batch_size, steps, seed
        self.samples = len(dataset)  # type: ignore[arg-type]
        self.steps_per_epoch = -(-self.samples // batch_size)
        self._check = None if in_memory(dataset) else BatchCheck(dataset)  # what is in memory is checked by `allow`
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, index: int) -> Batch:
        indices = self.indices(index)
        try:
            x, target = get_batch(self.dataset, indices)
            if self._check is not None:
                self._check(x, target, indices)
        except DataError as error:
            error.batch = index
            raise
        return Batch(index, x, target)

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(self.steps))

    def indices(self, index: int) -> Tensor:
        """Indices of a batch's samples in the data set."""
        if not 0 <= index < self.steps:
            raise IndexError(f"batch {index} of a stream of {self.steps}")
        epoch, position = divmod(index, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(self.samples, generator=generator)
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]

    def allow(self, labels: Labels | None, batch: Batch) -> None:
        """The loss takes these labels: checked here for what is in memory and for `batch`, else as batches come."""
        if self._check is None:
            check_in_memory(self.dataset, labels)
            return
        self._check.labels = labels
        if labels is not None:
            labels.check(batch.target, self.indices(batch.index))


def in_memory(dataset: Dataset) -> tuple[Tensor, ...] | None:
    """The tensors that hold all samples and targets of a data set; None of one that loads or makes them."""
    if isinstance(dataset, ImageDataset):
        return dataset.images, dataset.labels
    return dataset.tensors if is_tensors(dataset) else None


def check_in_memory(dataset: Dataset, labels: Labels | None) -> None:
    """Raise `DataError` where a data set that is in memory holds a number that is not finite, or another label."""
    for tensor in (tensors := in_memory(dataset) or ()):
        check_finite(tensor, torch.arange(len(tensor)))
    if tensors and labels is not None:
        labels.check(tensors[1], torch.arange(len(tensors[1])))
