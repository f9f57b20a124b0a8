"""The settings of the command line: what is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data.sets import DATASETS
from .foundation.arguments import arguments, read_arguments, split_arguments
from .foundation.error import ConfigError
from .foundation.option import MOST_UNITS, Checked, number, one_of, option, path, whole, words
from .foundation.reference import reference, registered_or_reference, resolved
from .network.models import MODELS
from .network.named_model import check_settings

DATASET = "mnist"
OPTIMIZERS = ("adam", "nadam", "sgd")
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
    model: str = option(
        "fcn",
        "network: a name, or a function that makes one, as path/to/file.py:name or package.module:name, which gets "
        "input_shape and num_classes where it takes them",
        registered_or_reference(MODELS),
        registry=MODELS,
        metavar="NAME|FILE.py:FUNCTION",
    )
    model_arg: tuple[str, ...] = option(
        (),
        "arguments of the network, e.g. depth=20,width=16: Python literals, else texts; may be given more than once",
        arguments,
        metavar="NAME=VALUE",
        type=split_arguments,
        action="extend",
    )
    layers: int | None = option(
        None, "layers of the network, the output layer included; default: its own", whole(1, 10_000), metavar="N"
    )
    width: int | None = option(None, "units a hidden layer; default: its own", whole(1, MOST_UNITS), metavar="N")
    dataset: str | None = option(None, f"data set; default: {DATASET}, unless --data is given", registry=DATASETS)
    data: str | None = option(
        None,
        "instead of --dataset, a function that gives a training set, or a pair of a training and an evaluation set, as "
        "path/to/file.py:name or package.module:name",
        reference,
        metavar="FILE.py:FUNCTION",
    )
    data_arg: tuple[str, ...] = option(
        (),
        "arguments of that function, as with --model-arg",
        arguments,
        metavar="NAME=VALUE",
        type=split_arguments,
        action="extend",
    )
    data_dir: Path | None = option(
        None,
        "directory of the data sets, or the file of a text; default: data/ of the repository",
        path,
        metavar="DIR",
    )
    image_size: int | None = option(
        None, "28, or 32 (28 padded); default: the data set's own", one_of(IMAGE_SIZES), metavar="{28,32}"
    )
    sequence_length: int | None = option(
        None, "characters a sample of a text; default: 64", whole(1, MOST_UNITS), metavar="N"
    )
    epochs: int | None = option(None, "passes over the training set; default: 10", whole(1), metavar="N")
    steps: int | None = option(None, "batches, instead of --epochs", whole(1), metavar="N")
    optimizer: str = option(
        "adam",
        "optimizer of every stage; nadam looks ahead, with beta1 0.99, as gradients that come late want it",
        one_of(OPTIMIZERS),
        choices=OPTIMIZERS,
    )
    lr: float = option(1e-3, "learning rate", number(above=0))
    momentum: float = option(0.9, "momentum of sgd", number(least=0, below=1))
    weight_decay: float = option(0.0, "weight decay (L2; of nadam decoupled)", number(least=0))
    quiet: bool = option(False, "print the summary only", action="store_true")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None and self.steps is not None:
            raise ConfigError("steps", self.steps, f"give --epochs or --steps, not both (--epochs is {self.epochs})")
        if self.data is None:
            if self.data_arg:
                raise ConfigError("data_arg", self.data_arg, "they are of a function; allowed with --data")
            object.__setattr__(self, "dataset", self.dataset or DATASET)
        else:
            for name in ("dataset", *self.data_settings):
                if getattr(self, name) is not None:
                    raise ConfigError(name, getattr(self, name), f"give it or --data, not both (--data is {self.data})")
        check_settings(self.model, self.model_flags, self.model_arguments)

    @property
    def stored(self) -> dict[str, Any]:
        """What config.json keeps: a run may be resumed from another directory."""
        data_dir = None if self.data_dir is None else self.data_dir.resolve()
        files = {"model": resolved(self.model), "data": resolved(self.data), "data_dir": data_dir}
        return {**dataclasses.asdict(self), **files}

    @property
    def data_settings(self) -> dict[str, Any]:
        """The settings of a named data set; None where its own is to be taken."""
        names = ("data_dir", "image_size", "sequence_length")
        return {name: getattr(self, name) for name in names}

    @property
    def model_flags(self) -> dict[str, int | None]:
        """The settings of the network that have a flag of their own; None where its own is to be taken."""
        return {"layers": self.layers, "width": self.width}

    @property
    def model_arguments(self) -> dict[str, Any]:
        """Its other settings, those given."""
        return read_arguments(self.model_arg)

    @property
    def data_arguments(self) -> dict[str, Any]:
        """Arguments of the function that gives the data."""
        return read_arguments(self.data_arg)
