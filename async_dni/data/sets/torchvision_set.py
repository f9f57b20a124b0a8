"""Data sets of images that torchvision reads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...foundation.error import ConfigError, reason
from ..batch_check import Labels
from ..image_dataset import ImageDataset
from ..samples import DataError
from ..torchvision_import import torchvision_datasets

CLASSES = 10  # of most of them


@dataclass(frozen=True)
class TorchvisionSet:
    """A class of torchvision.datasets: square images with labels."""

    name: str
    kind: str  # the class
    folder: str  # where its files are, below the data directory
    size: int  # of its images, pixels
    downloads: bool = True
    prepare: Callable[[Path], None] | None = None  # puts the files there, where they are elsewhere
    classes: int = CLASSES
    # images and labels of a part (train, t10k) that lie in the data directory in another form; None where they don't
    find: Callable[[Path, str], tuple[Tensor, Tensor] | None] | None = None

    def load(self, data_dir: Path, image_size: int | None = None) -> tuple[ImageDataset, ImageDataset]:
        """The training and the test set; images of 28×28 are padded with zeros where 32 are asked for.

        Raises `ConfigError` where files are missing and can't be had.
        """
        size = image_size or self.size
        if size not in (self.size, 32):
            allowed = f"{self.name} has images of {self.size}×{self.size}; allowed: {self.size} or 32"
            raise ConfigError("image_size", image_size, allowed)
        if self.prepare is not None:
            self.prepare(data_dir)
        train, test = (self._read(data_dir, is_train) for is_train in (True, False))
        mean, std = _channel_statistics(train[0])
        pad = (size - self.size) // 2
        return ImageDataset(*train, mean, std, pad), ImageDataset(*test, mean, std, pad)

    def _read(self, root: Path, train: bool) -> tuple[Tensor, Tensor]:
        """Images `[samples, channels, height, width]` uint8 and labels `[samples]` int64, checked."""
        if self.find is not None and (found := self.find(root, "train" if train else "t10k")) is not None:
            return self._checked(found[0].unsqueeze(1), found[1].long(), root, root, train)
        folder = root / self.folder
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            data = getattr(torchvision_datasets(), self.kind)(root, train=train, download=self.downloads)
        except Exception as error:  # torchvision checks little, so damaged files raise whatever they lead it to
            for path in missing:  # nothing stays of a name that was mistyped
                with suppress(OSError):  # it is not empty, or was not made
                    path.rmdir()
            allowed = f"{self.name} can't be read or downloaded; its files go to {folder} ({reason(error)})"
            raise ConfigError("data_dir", root, allowed) from None
        images, labels = torch.as_tensor(data.data), torch.as_tensor(data.targets)
        images = images.permute(0, 3, 1, 2).contiguous() if images.dim() == 4 else images.unsqueeze(1)
        return self._checked(images, labels, root, folder, train)

    def _checked(self, images: Tensor, labels: Tensor, root: Path, folder: Path, train: bool) -> tuple[Tensor, Tensor]:
        if problem := _problem(images, labels, self.size, self.classes):
            raise ConfigError("data_dir", root, f"{'training' if train else 'test'} files in {folder}: {problem}")
        return images, labels


def _problem(images: Tensor, labels: Tensor, size: int, classes: int) -> str | None:
    """What is wrong with a data set's images `[samples, channels, height, width]` and labels."""
    if not len(images) or len(images) != len(labels):
        return f"{len(images)} images and {len(labels)} labels; allowed: as many, and at least one"
    if images.shape[2:] != (size, size):
        return f"images of {images.shape[2]}×{images.shape[3]}; allowed: {size}×{size}"
    try:
        Labels(classes).check(labels, torch.arange(len(labels)))
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
