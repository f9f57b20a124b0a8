"""Asynchronous, multi-process training with Decoupled Neural Interfaces (synthetic gradients) on PyTorch.

What is public is loaded when it is asked for: torch takes seconds, and a command line handles signals before that.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .foundation.version import VERSION
from .runtime.machine import parent_death  # noqa: F401  (before torch is loaded: see there)

if TYPE_CHECKING:
    from .config import TrainerConfig
    from .data.image_dataset import ImageDataset
    from .data.samples import DataError
    from .data.sets import DATASETS, DatasetSpec, load_dataset
    from .data.text_dataset import TextDataset
    from .experiment import ExperimentConfig
    from .foundation.error import ConfigError
    from .learning.divergence import DivergenceError
    from .learning.methods import METHODS, Method, MethodParts, MethodSpec
    from .learning.metrics import METRICS, Metric, MetricSpec
    from .learning.schedules import SCHEDULES, ScheduleSpec
    from .learning.synthesizers import (
        SYNTHESIZERS,
        ConvSynthesizer,
        LinearSynthesizer,
        LowRankSynthesizer,
        MLPSynthesizer,
        PositionwiseSynthesizer,
        SynthesizerSpec,
    )
    from .network.models import MODELS, ModelSpec, cnn, fcn, resnet, tanh, transformer, vgg
    from .network.split import split
    from .record.callback import Callback
    from .record.evaluate import Evaluation, evaluate
    from .record.gradients.check import GradientCheck, StageGradients
    from .record.gradients.comparison import Comparison
    from .record.result import TrainResult
    from .runtime.hosts.host_error import HostError
    from .runtime.listener import WorkerError
    from .trainer import Trainer

_HOMES = {
    "config": ("TrainerConfig",),
    "data.image_dataset": ("ImageDataset",),
    "data.samples": ("DataError",),
    "data.sets": ("DATASETS", "DatasetSpec", "load_dataset"),
    "data.text_dataset": ("TextDataset",),
    "experiment": ("ExperimentConfig",),
    "foundation.error": ("ConfigError",),
    "learning.divergence": ("DivergenceError",),
    "learning.methods": ("METHODS", "Method", "MethodParts", "MethodSpec"),
    "learning.metrics": ("METRICS", "Metric", "MetricSpec"),
    "learning.schedules": ("SCHEDULES", "ScheduleSpec"),
    "learning.synthesizers": (
        "SYNTHESIZERS",
        "ConvSynthesizer",
        "LinearSynthesizer",
        "LowRankSynthesizer",
        "MLPSynthesizer",
        "PositionwiseSynthesizer",
        "SynthesizerSpec",
    ),
    "network.models": ("MODELS", "ModelSpec", "cnn", "fcn", "resnet", "tanh", "transformer", "vgg"),
    "network.split": ("split",),
    "record.callback": ("Callback",),
    "record.evaluate": ("Evaluation", "evaluate"),
    "record.gradients.check": ("GradientCheck", "StageGradients"),
    "record.gradients.comparison": ("Comparison",),
    "record.result": ("TrainResult",),
    "runtime.hosts.host_error": ("HostError",),
    "runtime.listener": ("WorkerError",),
    "trainer": ("Trainer",),
}

__version__ = VERSION

__all__ = [
    "DATASETS",
    "METHODS",
    "METRICS",
    "MODELS",
    "SCHEDULES",
    "SYNTHESIZERS",
    "Callback",
    "Comparison",
    "ConfigError",
    "ConvSynthesizer",
    "DataError",
    "DatasetSpec",
    "DivergenceError",
    "Evaluation",
    "ExperimentConfig",
    "GradientCheck",
    "HostError",
    "ImageDataset",
    "LinearSynthesizer",
    "LowRankSynthesizer",
    "MLPSynthesizer",
    "Method",
    "MethodParts",
    "MethodSpec",
    "Metric",
    "MetricSpec",
    "ModelSpec",
    "PositionwiseSynthesizer",
    "ScheduleSpec",
    "StageGradients",
    "SynthesizerSpec",
    "TextDataset",
    "TrainResult",
    "Trainer",
    "TrainerConfig",
    "WorkerError",
    "cnn",
    "evaluate",
    "fcn",
    "load_dataset",
    "resnet",
    "split",
    "tanh",
    "transformer",
    "vgg",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{home}", __name__), name)
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
