"""Pictures of samples that the trained network takes for another class, where the data are images that can be had."""

from __future__ import annotations

import base64
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ...data.image_dataset import ImageDataset
from ...data.sets import DATASETS, load_dataset
from ...experiment import ExperimentConfig
from ...foundation.error import ConfigError
from ...network.models import MODELS
from ...network.named_model import Offered, make_named
from ...record.reading.run_reader import RunReader

MOST_LOOKED_AT, BATCH, SIDE = 2000, 500, 84  # samples; pixels of a picture


@dataclass(frozen=True)
class Sample:
    """One that was taken for another class."""

    index: int  # in the test set
    true: int
    found: int
    confidence: float
    picture: str  # a data: address


def confused_samples(run: RunReader, most: int) -> tuple[list[Sample], str]:
    """Those that the network is surest of, of the first of the test set; or none, and why there are none."""
    if most <= 0:
        return [], ""
    try:
        dataset, model = _loaded(run)
    except (
        ConfigError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        return [], " ".join(str(error).split())[:200]
    if not isinstance(dataset, ImageDataset):
        return [], "the data are no images"
    found = []
    with torch.inference_mode():
        for start in range(0, min(MOST_LOOKED_AT, len(dataset)), BATCH):
            x, labels = dataset.get_batch(torch.arange(start, min(start + BATCH, len(dataset))))
            surest, taken = model(x).softmax(1).max(1)
            for place in (taken != labels).nonzero().flatten().tolist():
                found.append((float(surest[place]), start + place, int(labels[place]), int(taken[place])))
    found.sort(reverse=True)
    return [Sample(i, true, taken, sure, picture(dataset, i)) for sure, i, true, taken in found[:most]], ""


def _loaded(run: RunReader) -> tuple[Any, nn.Module]:
    """The test set and the trained network; only those that have names: no code of a user's is run."""
    config: Mapping[str, Any] = run.config
    if config.get("dataset") not in DATASETS or config.get("model") not in MODELS:
        raise ConfigError("dataset", config.get("dataset"), "the data set and the network have no names of ours")
    given: dict[str, Any] = {}
    for name in ExperimentConfig.__dataclass_fields__:
        if name in config:
            given[name] = tuple(config[name]) if isinstance(config[name], list) else config[name]
    experiment = ExperimentConfig(**given)
    train_set, test_set = load_dataset(str(experiment.dataset), **experiment.data_settings)
    classes = DATASETS[str(experiment.dataset)].num_classes
    offered: Offered = {"input_shape": partial(_shape, train_set), "num_classes": lambda: classes}
    maker = MODELS[experiment.model]
    model = make_named(experiment.model, maker, experiment.model_flags, experiment.model_arguments, offered)
    model.load_state_dict(torch.load(run.run_dir.model, weights_only=True))
    return test_set, model.eval()


def _shape(dataset: Any) -> tuple[int, ...]:
    return tuple(dataset[0][0].shape)


def picture(dataset: ImageDataset, index: int) -> str:
    """A sample as a small picture."""
    from PIL import Image

    pixels = dataset.images[index].permute(1, 2, 0).squeeze(-1).numpy()
    image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
