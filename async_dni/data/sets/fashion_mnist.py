"""Fashion-MNIST."""

from .data_set import DatasetSpec
from .torchvision_set import CLASSES, TorchvisionSet

FASHION_MNIST = DatasetSpec(
    name="fashion-mnist",
    help="downloaded",
    load=TorchvisionSet("fashion-mnist", "FashionMNIST", "FashionMNIST/raw", size=28).load,
    num_classes=CLASSES,
)
