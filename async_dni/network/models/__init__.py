"""Reference networks, one file each; a new one is a file and a line here. `model.py` says what one is."""

from ...foundation.registry import Registry
from .cnn import CNN, cnn
from .fcn import FCN, fcn
from .model import ModelSpec
from .resnet import RESNET, resnet
from .tanh import TANH, tanh
from .transformer import TRANSFORMER, transformer
from .vgg import VGG, vgg

__all__ = ["MODELS", "ModelSpec", "cnn", "fcn", "resnet", "tanh", "transformer", "vgg"]

MODELS = Registry(ModelSpec, "model", "async_dni.models", [FCN, TANH, CNN, RESNET, VGG, TRANSFORMER])
