"""The batches of a run, of whatever data is given."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..config import TrainerConfig
from ..data.augment import Augment
from ..data.batches import Batches
from ..data.brought.forms import as_source, is_iterable, loader_of
from ..data.brought.loaders import ANY_SIZE, batches_of, largest_of
from ..data.iterated_stream import IteratedStream
from ..data.one_pass import OnePass
from ..data.samples import refused
from ..data.stream import BatchStream
from ..foundation.error import ConfigError
from ..learning.structure import parts_of
from ..record.evaluator import MOST_SAMPLES
from .job import Job

ITERATED = (
    "train_set is iterated: a run that goes on from a checkpoint, and a worker 0 that is started again, iterate it from its "
    "beginning, and a fixed lag gives one result, only where it gives the same samples each time"
)


def sized(job: Job, train_set: object) -> Job:
    """The job, with a `DataLoader`'s batch size. Raises `ConfigError` where another was given."""
    if not isinstance(train_set, DataLoader):
        return job
    size, given = _batch_size(job.config, train_set), job.config.batch_size
    default = next(field.default for field in dataclasses.fields(job.config) if field.name == "batch_size")
    if given not in (default, size):
        raise ConfigError("batch_size", given, f"the DataLoader makes batches of {size}; allowed: {size}, or none here")
    return dataclasses.replace(job, config=dataclasses.replace(job.config, batch_size=size))


def _batch_size(config: TrainerConfig, loader: DataLoader[Any]) -> int:
    """Rows of the largest batch."""
    if (largest := largest_of(loader, config.seed)) is not None:
        return largest
    with refused("train_set"):
        first = IteratedStream(loader, loader, ANY_SIZE, 1, config.seed, config.target)[0]
    return len(parts_of(first.x)[0])


def make_stream(job: Job, train_set: object, epochs: int | None, steps: int | None) -> Batches:
    """The batches of so many epochs, or steps. Raises `ConfigError`."""
    if (epochs is None) == (steps is None):
        raise ConfigError("epochs", epochs, "give either epochs or steps")
    for name, value in (("epochs", epochs), ("steps", steps)):
        if value is not None and value < 1:
            raise ConfigError(name, value, "allowed: a whole number of at least 1")
    loader = loader_of(train_set, job.config.batch_size)
    if loader is not None:
        return _iterated(job, train_set, loader, epochs, steps)
    config = job.config
    source = as_source(train_set, "train_set", config.target, dtype_of(job.model), config.seed)
    samples, size = len(source), config.batch_size
    if size > samples:
        raise ConfigError("batch_size", size, f"the data set has {samples} samples; allowed: 1 to {samples}")
    length = steps if steps is not None else (epochs or 0) * -(-samples // size)
    augment = Augment.of(config.augment, source.dataset)
    # in this process: processes forked from one that has computed with several threads would wait for those for ever
    loaders = 0 if config.serial else config.loader_workers
    return BatchStream(source, size, length, config.seed, augment, loaders)


def _iterated(
    job: Job, train_set: object, loader: DataLoader[Any], epochs: int | None, steps: int | None
) -> IteratedStream:
    config = job.config
    if config.loader_workers:
        who = "a DataLoader loads by workers of its own (num_workers)"
        is_own = isinstance(train_set, DataLoader)
        allowed = who if is_own else f"an iterable data set is not loaded by its indices; give a DataLoader: {who}"
        raise ConfigError("loader_workers", config.loader_workers, f"{allowed}; allowed: 0")
    passes = batches_of(loader)
    if steps is None and passes is None:
        raise ConfigError("epochs", epochs, "the data set is iterable, and has no length; give steps")
    length = steps if steps is not None else (epochs or 0) * (passes or 0)
    if passes == 0:
        raise ConfigError("train_set", "no batches", "allowed: at least one")
    if isinstance(loader.dataset, IterableDataset):
        job.progress.on_note(ITERATED)
    augment, dtype = Augment.of(config.augment, loader.dataset), dtype_of(job.model)
    return IteratedStream(loader, train_set, config.batch_size, length, config.seed, config.target, dtype, augment)


def make_eval_set(job: Job, eval_set: object | None) -> Dataset | None:
    """What the network is evaluated on. Raises `ConfigError`."""
    if eval_set is None:
        return None
    loader = loader_of(eval_set, min(MOST_SAMPLES, job.config.batch_size))
    if loader is not None and is_iterable(eval_set):
        return OnePass(loader, job.config.target, dtype_of(job.model))
    return as_source(eval_set, "eval_set", job.config.target, dtype_of(job.model), job.config.seed)


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """The floating point type that a network's first parameter has: samples are cast to it. None: it has none."""
    return next((one.dtype for one in model.parameters() if one.is_floating_point()), None)
