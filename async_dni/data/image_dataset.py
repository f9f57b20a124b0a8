"""Images kept as bytes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset


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

    @property
    def black(self) -> list[float]:
        """What a black pixel comes to, by channel."""
        return [float(shift) for shift in self.shift.flatten()]

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[batch, channels, height, width]` float32 and labels `[batch]` int64 of these samples."""
        # converted first, by itself: an operation on numbers of two types takes longer than three passes over one
        images = self.images.index_select(0, indices).to(torch.float32)
        return images.mul_(self.scale).add_(self.shift), self.labels.index_select(0, indices)
