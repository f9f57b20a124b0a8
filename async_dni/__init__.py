"""Asynchronous, multi-process training with Decoupled Neural Interfaces (synthetic gradients) on PyTorch."""

from . import parent_death  # noqa: F401  (before torch is loaded: see there)
from .config import ConfigError, ExperimentConfig, TrainerConfig
from .divergence import DivergenceError
from .evaluate import Evaluation, evaluate
from .image_dataset import ImageDataset
from .models import fcn, tanh
from .run import TrainResult
from .samples import DataError
from .supervisor import WorkerError
from .synthesizer import ConvSynthesizer, LinearSynthesizer, MLPSynthesizer
from .torchvision_sets import load_dataset
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
