"""Augmentation of images: what `--augment` names, by torchvision's v2 transforms, anew for each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..foundation.error import ConfigError
from ..settings.data import AUGMENTATIONS
from .brought.parts import Parts, form_of_one
from .image_dataset import ImageDataset
from .torchvision_import import torchvision_transforms

PADDING = 4  # pixels on each side, that a crop may reach into
MOST_CHANNELS = 4


@dataclass(frozen=True)
class Augment:
    """Changes the images of a batch, `[batch, channels, height, width]`: `names` of `AUGMENTATIONS`, in that order."""

    names: tuple[str, ...]
    fill: tuple[float, ...] = (0.0,)  # what black is, by channel

    @classmethod
    def of(cls, names: Sequence[str], dataset: object) -> Augment | None:
        """That of a data set's images; None where nothing is to be done."""
        if not names:
            return None
        ordered = tuple(name for name in AUGMENTATIONS if name in names)
        return cls(ordered, tuple(dataset.black) if isinstance(dataset, ImageDataset) else (0.0,))

    def __call__(self, x: Parts) -> Tensor:
        """The images, each changed by itself. Raises `ConfigError` where a batch is not of images."""
        if not isinstance(x, Tensor) or x.dim() != 4 or not 1 <= x.shape[1] <= MOST_CHANNELS:
            allowed = f"it takes images [channels, height, width], 1 to {MOST_CHANNELS} channels; a sample is {form_of_one(x)}"
            raise ConfigError("augment", ",".join(self.names), allowed)
        transforms = [self._make(name, x) for name in self.names]

        def augmented(image: Tensor) -> Tensor:
            for transform in transforms:
                image = transform(image)
            return image

        return torch.stack([augmented(image) for image in x])

    @staticmethod
    def load() -> None:
        """What is loaded before the first batch: it takes a second, of each process that comes to it by itself."""
        torchvision_transforms()

    def _make(self, name: str, x: Tensor) -> Callable[[Tensor], Tensor]:
        v2: Any = torchvision_transforms()
        if name == "flip":
            flip: Callable[[Tensor], Tensor] = v2.RandomHorizontalFlip()
            return flip
        fill = list(self.fill) if len(self.fill) == x.shape[1] else self.fill[0]
        crop: Callable[[Tensor], Tensor] = v2.RandomCrop(tuple(x.shape[2:]), padding=PADDING, fill=fill)
        return crop
