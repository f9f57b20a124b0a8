"""What is trained in the benchmarks: a network, its data, and the sizes that go with it; one table for all of them.

    3x256, 20x256, 50x256, 100x256, 20x128, 12x2048   fully connected, MNIST
    cnn, cnn-mnist                           2 × (5×5 convolution of 32 channels, batch norm, ReLU, pooling), linear
    cnn6                                     6 convolutions of 3×3, pooled twice; Fashion-MNIST
    resnet                                   the package's, depth 8; Fashion-MNIST
    transformer                              3 decoder blocks of 64, sequences of 64 characters; bits a character

Fashion-MNIST is read from Debian's files where they are (--fashion DIR), else downloaded; the text is a file that every Python
has (--text FILE). What learning rates are tuned on is the end of the training set, which is kept from training then
(`Data.held_out`): the last 10,000 images, the last tenth of a text. The test set is for measuring only.
"""

from __future__ import annotations

import argparse
import copy
import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from async_dni import ImageDataset, TextDataset, evaluate, fcn, load_dataset, resnet, transformer
from async_dni.record.evaluate import error_percent

FASHION, TEXT = Path("/usr/share/datasets/fashion-mnist"), Path(typing.__file__)
ROWS, MAPS, POSITIONS = (
    "rows",
    "maps",
    "positions",
)  # what a sample is to the layers: a vector, a feature map, a sequence
HELD_OUT_IMAGES = 10_000


def convolutional(
    channels: Sequence[int],
    kernel: int,
    pooled: Sequence[int],
    *,
    input_shape: Sequence[int] = (1, 28, 28),
    num_classes: int = 10,
) -> nn.Sequential:
    """Convolution, batch norm, ReLU, where `pooled` names it pooling of 2×2; a block each. Then a linear output."""
    sizes, side, blocks = [input_shape[0], *channels], input_shape[1], []
    for index, (c_in, c_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        pool = [nn.MaxPool2d(2)] if index in pooled else []
        side //= 1 + len(pool)
        # batch norm follows, so a bias would be subtracted again
        conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
        blocks.append(nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU(), *pool))
    return nn.Sequential(*blocks, nn.Sequential(nn.Flatten(), nn.Linear(sizes[-1] * side * side, num_classes)))


@dataclass(frozen=True)
class Data:
    """A training and a test set, and what a network has to know of them."""

    train_set: Any
    test_set: Any
    input_shape: tuple[int, ...]
    num_classes: int

    def held_out(self) -> Data:
        """For tuning: trained on is the beginning of the training set, tested on its end; the test set is not touched."""
        samples = len(self.train_set)
        kept = HELD_OUT_IMAGES if samples > 2 * HELD_OUT_IMAGES else samples // 10
        parts = part_of(self.train_set, 0, samples - kept), part_of(self.train_set, samples - kept, samples)
        return Data(*parts, self.input_shape, self.num_classes)

    def first(self, train: int, test: int) -> Data:
        """So many samples of each set only."""
        sets = part_of(self.train_set, 0, train), part_of(self.test_set, 0, test)
        return Data(*sets, self.input_shape, self.num_classes)


@dataclass(frozen=True)
class Workload:
    """A network, the data it is trained on, and what a benchmark does where no option says otherwise."""

    name: str
    network: Callable[..., nn.Sequential]  # of input_shape and num_classes
    dataset: str
    batch_size: int
    workers: int
    steps: int  # of a training
    targets: tuple[float, ...]  # of a race, in `unit`
    learning_rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 4e-3)
    kind: str = ROWS
    sequence_length: int | None = None

    @property
    def figure(self) -> str:
        """What is found on the test set."""
        return "test error" if self.sequence_length is None else "test bits"

    @property
    def unit(self) -> str:
        """The figure's."""
        return "%" if self.sequence_length is None else "bits"

    def settings(self) -> dict[str, Any]:
        """For the JSON file."""
        return {"workload": self.name, "dataset": self.dataset, "batch_size": self.batch_size}

    def load(self, fashion: Path = FASHION, text: Path = TEXT) -> Data:
        """Its data. Raises `ConfigError` where files are missing and can't be had."""
        if self.sequence_length is not None:
            train, test = load_dataset(self.dataset, text, sequence_length=self.sequence_length)
            return Data(train, test, (self.sequence_length,), train.num_classes)
        folder = fashion if self.dataset == "fashion-mnist" and fashion.is_dir() else None
        train, test = load_dataset(self.dataset, folder)
        return Data(train, test, tuple(train.images.shape[1:]), 10)

    def make(self, data: Data, seed: int) -> nn.Sequential:
        """The network with the initial weights of a seed."""
        torch.manual_seed(seed)
        return self.network(input_shape=data.input_shape, num_classes=data.num_classes)

    def evaluate(self, network: nn.Module, dataset: Any) -> float:
        """The figure of a network; infinite where its outputs are not finite."""
        loss, confusion = evaluate(network, dataset, nn.CrossEntropyLoss())
        value = error_percent(confusion) if self.sequence_length is None else loss / math.log(2)
        return value if value is not None and math.isfinite(loss) else math.inf

    def microbatches(self, least: int) -> list[int]:
        """Numbers of microbatches, at least so many: 2, 4 and 8, or the next that divide the batch."""
        numbers = [next(m for m in range(near, self.batch_size + 1) if self.batch_size % m == 0) for near in (2, 4, 8)]
        return [m for m in dict.fromkeys(numbers) if m >= least]


def deep(layers: int, width: int = 256, batch_size: int = 256, workers: int = 2, **settings: Any) -> Workload:
    """A fully connected network of so many layers, the output layer included, on MNIST."""
    given = {"steps": 1500, "targets": (3.0, 2.5, 2.2, 2.0), **settings}
    return Workload(f"{layers}x{width}", partial(fcn, layers, width), "mnist", batch_size, workers, **given)


def images(
    name: str, network: Callable[..., nn.Sequential], dataset: str = "fashion-mnist", **settings: Any
) -> Workload:
    """A convolutional network, in batches of 128."""
    given = {"workers": 3, "steps": 1400, "targets": (14.0, 12.0, 11.0, 10.5), "kind": MAPS, **settings}
    return Workload(name, network, dataset, 128, **given)


CNN = partial(convolutional, (32, 32), 5, (0, 1))
WORKLOADS = {
    workload.name: workload
    for workload in (
        deep(3, batch_size=250, workers=3, steps=2400),
        deep(20),
        deep(20, 128, 64),
        deep(12, 2048, 1024),
        deep(50, workers=8),
        deep(100, workers=8),
        images("cnn", CNN),
        images("cnn-mnist", CNN, "mnist", targets=(2.0, 1.5, 1.2, 1.0)),
        images("cnn6", partial(convolutional, (16, 16, 32, 32, 32, 32), 3, (1, 3))),
        images("resnet", partial(resnet, 8, 16)),
        Workload(
            "transformer",
            partial(transformer, 3, 64, 4),
            "text",
            batch_size=32,
            workers=2,
            steps=600,
            targets=(3.5, 3.2, 3.0),
            kind=POSITIONS,
            sequence_length=64,
        ),
    )
}


def part_of(dataset: Any, start: int, stop: int) -> Any:
    """Some consecutive samples of a data set of images, or of the sequences of a text; itself where it has no more."""
    part = copy.copy(dataset)
    if isinstance(dataset, ImageDataset):
        part.images, part.labels = dataset.images[start:stop], dataset.labels[start:stop]
    elif isinstance(dataset, TextDataset):
        part.characters = dataset.characters[start * dataset.length : min(stop, len(dataset)) * dataset.length + 1]
    else:
        raise TypeError(f"{type(dataset).__name__}: allowed: images, or a text")
    return part


def whole_batches(dataset: Any, batch_size: int) -> Any:
    """A data set without the samples of its last batch, where that is smaller: pipelines take one size only."""
    return part_of(dataset, 0, len(dataset) // batch_size * batch_size)


def targets_of(dataset: Any) -> Any:
    """A data set that gives the same targets for less, where images are dear."""
    return TensorDataset(dataset.labels, dataset.labels) if isinstance(dataset, ImageDataset) else dataset


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Where data is."""
    fashion = f"of Fashion-MNIST's files, else downloaded; default: {FASHION}"
    parser.add_argument("--fashion", type=Path, default=FASHION, metavar="DIR", help=fashion)
    parser.add_argument("--text", type=Path, default=TEXT, metavar="FILE", help=f"default: {TEXT}")
