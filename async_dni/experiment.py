"""The settings of the command line: what is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .data.sets import DATASETS
from .foundation.error import ConfigError
from .foundation.option import MOST_UNITS, Checked, number, one_of, option, path, whole, words
from .network.models import MODELS

OPTIMIZERS = ("adam", "sgd")
IMAGE_SIZES = (28, 32)


@dataclass(frozen=True)
class ExperimentConfig(Checked):
    """What is trained: the network, data set, optimizer and length that the command line names."""

    plugin: tuple[str, ...] = option(
        (),
        "modules to import first, separated by commas, whose methods, synthesizers, networks and data sets can then be "
        "named; a resumed run imports those that it was started with",
        words,
        metavar="MODULES",
    )
    model: str = option("fcn", "network", registry=MODELS)
    layers: int | None = option(
        None, "layers of the network, the output layer included; default: its own", whole(1, 10_000), metavar="N"
    )
    width: int | None = option(None, "units a hidden layer; default: its own", whole(1, MOST_UNITS), metavar="N")
    dataset: str = option("mnist", "data set", registry=DATASETS)
    data_dir: Path | None = option(
        None, "directory of the data sets; default: data/ of the repository", path, metavar="DIR"
    )
    image_size: int | None = option(
        None, "28, or 32 (28 padded); default: the data set's own", one_of(IMAGE_SIZES), metavar="{28,32}"
    )
    epochs: int | None = option(None, "passes over the training set; default: 10", whole(1), metavar="N")
    steps: int | None = option(None, "batches, instead of --epochs", whole(1), metavar="N")
    optimizer: str = option("adam", "optimizer of every stage", one_of(OPTIMIZERS), choices=OPTIMIZERS)
    lr: float = option(1e-3, "learning rate", number(above=0))
    momentum: float = option(0.9, "momentum of sgd", number(least=0, below=1))
    weight_decay: float = option(0.0, "weight decay (L2)", number(least=0))
    quiet: bool = option(False, "print the summary only", action="store_true")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None and self.steps is not None:
            raise ConfigError("steps", self.steps, f"give --epochs or --steps, not both (--epochs is {self.epochs})")
        MODELS[self.model].filled(self.model_settings)

    @property
    def model_settings(self) -> dict[str, int | None]:
        """The settings of the network; None where its own is to be taken."""
        return {"layers": self.layers, "width": self.width}
