"""CIFAR-100."""

from .data_set import DatasetSpec
from .torchvision_set import TorchvisionSet

CLASSES = 100

CIFAR100 = DatasetSpec(
    name="cifar100",
    help="downloaded",
    load=TorchvisionSet("cifar100", "CIFAR100", "cifar-100-python", size=32, classes=CLASSES).load,
    num_classes=CLASSES,
)
