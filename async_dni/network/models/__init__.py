"""Reference networks, one file each; a new one is a file and a line here. `model.py` says what one is."""

from ...foundation.registry import Registry
from .fcn import FCN, fcn
from .model import ModelSpec
from .tanh import TANH, tanh

__all__ = ["MODELS", "ModelSpec", "fcn", "tanh"]

MODELS = Registry(ModelSpec, "model", "async_dni.models", [FCN, TANH])
