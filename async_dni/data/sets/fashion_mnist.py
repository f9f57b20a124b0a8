"""Fashion-MNIST."""

from .data_set import DatasetSpec
from .idx_files import find_idx
from .torchvision_set import CLASSES, TorchvisionSet

FASHION_MNIST = DatasetSpec(
    name="fashion-mnist",
    help="downloaded, or the files of Debian's dataset-fashion-mnist",
    load=TorchvisionSet("fashion-mnist", "FashionMNIST", "FashionMNIST/raw", size=28, find=find_idx).load,
    num_classes=CLASSES,
)
