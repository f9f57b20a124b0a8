"""Asynchronous, multi-process training with Decoupled Neural Interfaces (synthetic gradients) on PyTorch."""

from .runtime.machine import parent_death  # noqa: F401  (before torch is loaded: see there)

# isort: split

from .config import ConfigError, TrainerConfig
from .data.image_dataset import ImageDataset
from .data.samples import DataError
from .data.sets import load_dataset
from .experiment import ExperimentConfig
from .learning.divergence import DivergenceError
from .learning.synthesizers import ConvSynthesizer, LinearSynthesizer, MLPSynthesizer
from .network.models import fcn, tanh
from .record.evaluate import Evaluation, evaluate
from .record.run import TrainResult
from .runtime.supervisor import WorkerError
from .trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "ConvSynthesizer",
    "DataError",
    "DivergenceError",
    "Evaluation",
    "ExperimentConfig",
    "ImageDataset",
    "LinearSynthesizer",
    "MLPSynthesizer",
    "TrainResult",
    "Trainer",
    "TrainerConfig",
    "WorkerError",
    "evaluate",
    "fcn",
    "load_dataset",
    "tanh",
]
