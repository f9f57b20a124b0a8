"""CIFAR-10."""

from .data_set import DatasetSpec
from .torchvision_set import CLASSES, TorchvisionSet

CIFAR10 = DatasetSpec(
    name="cifar10",
    help="downloaded",
    load=TorchvisionSet("cifar10", "CIFAR10", "cifar-10-batches-py", size=32).load,
    num_classes=CLASSES,
)
