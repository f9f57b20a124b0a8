"""Data of one's own: samples that are dictionaries, loaded and augmented in processes of their own; arrays; an endless stream.

    python examples/own_data.py

A few seconds on 2 cores.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from async_dni import Trainer

SIZE, CLASSES = 8, 2


class Bars(Dataset):
    """Images of a bar, upright or lying, in noise, as data sets of the Hugging Face libraries give them."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, object]:
        # seeded by the batch: the same noise for the same seed, whoever loads it
        image, label = 0.5 * np.random.randn(SIZE, SIZE).astype(np.float32), index % CLASSES
        place = index // CLASSES % SIZE
        image[:, place] += label
        image[place, :] += 1 - label
        return {"pixel_values": image, "labels": label}


class Endless(IterableDataset):
    """The same without an end: so steps are given, not epochs."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        bars = Bars(1000)
        while True:
            for index in range(len(bars)):
                sample = bars[index]
                yield torch.as_tensor(sample["pixel_values"]), sample["labels"]  # type: ignore[misc]


def network() -> nn.Sequential:
    """Three blocks."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 64), nn.ReLU())
    return nn.Sequential(first, nn.Sequential(nn.Linear(64, 64), nn.ReLU()), nn.Linear(64, CLASSES))


def main() -> None:
    """Train with each kind of data."""
    samples = [Bars(2000)[index] for index in range(2000)]
    arrays = np.stack([s["pixel_values"] for s in samples]), np.array([s["labels"] for s in samples])
    loader = DataLoader(Bars(2000), batch_size=50, shuffle=True, num_workers=1)
    for name, data, settings in (
        ("dictionaries", Bars(2000), {"batch_size": 50, "loader_workers": 1}),
        ("arrays", arrays, {"batch_size": 50}),
        ("a DataLoader", loader, {}),
        ("an endless stream", Endless(), {"batch_size": 50}),
    ):
        result = Trainer(network(), workers=3, **settings).fit(data, steps=200, eval_set=Bars(400))
        print(f"{name:18} test error {result.test_error:.1f} %")


if __name__ == "__main__":  # workers are processes that import this file again
    main()
