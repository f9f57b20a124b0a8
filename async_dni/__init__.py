"""Asynchronous, multi-process training with Decoupled Neural Interfaces (synthetic gradients) on PyTorch."""

from .runtime.machine import parent_death  # noqa: F401  (before torch is loaded: see there)

# isort: split

from .config import ConfigError, TrainerConfig
from .data.image_dataset import ImageDataset
from .data.samples import DataError
from .data.sets import DATASETS, DatasetSpec, load_dataset
from .experiment import ExperimentConfig
from .learning.divergence import DivergenceError
from .learning.methods import METHODS, Method, MethodParts, MethodSpec
from .learning.synthesizers import SYNTHESIZERS, ConvSynthesizer, LinearSynthesizer, MLPSynthesizer, SynthesizerSpec
from .network.models import MODELS, ModelSpec, fcn, tanh
from .record.evaluate import Evaluation, evaluate
from .record.run import TrainResult
from .runtime.supervisor import WorkerError
from .trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "DATASETS",
    "METHODS",
    "MODELS",
    "SYNTHESIZERS",
    "ConfigError",
    "ConvSynthesizer",
    "DataError",
    "DatasetSpec",
    "DivergenceError",
    "Evaluation",
    "ExperimentConfig",
    "ImageDataset",
    "LinearSynthesizer",
    "MLPSynthesizer",
    "Method",
    "MethodParts",
    "MethodSpec",
    "ModelSpec",
    "SynthesizerSpec",
    "TrainResult",
    "Trainer",
    "TrainerConfig",
    "WorkerError",
    "evaluate",
    "fcn",
    "load_dataset",
    "tanh",
]
