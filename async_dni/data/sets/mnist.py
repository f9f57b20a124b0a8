"""MNIST, which ships with the repository."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

from ...foundation.atomic_file import write_atomically
from ...foundation.error import ConfigError
from .data_set import DatasetSpec
from .torchvision_set import CLASSES, TorchvisionSet

# MD5 sums of MNIST's unpacked IDX files: those that the data set is known by.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def unpack_mnist(root: Path) -> None:
    """Put MNIST's four IDX files where torchvision reads them, `root/MNIST/raw`, from `root/mnist/*.gz`; checked.

    Where they are there already nothing is done. Raises `ConfigError` where an archive is missing or wrong.
    """
    raw = root / "MNIST" / "raw"
    for name, md5 in MNIST_MD5.items():
        archive = root / "mnist" / f"{name}.gz"
        try:
            if (raw / name).is_file():
                continue
            content = gzip.decompress(archive.read_bytes())
        except FileNotFoundError:
            wanted = ", ".join(f"{name}.gz" for name in MNIST_MD5)
            raise ConfigError(
                "data_dir",
                root,
                f"MNIST needs {wanted} in {root / 'mnist'}; {archive.name} is missing; they are in the repository's data/mnist",
            ) from None
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigError("data_dir", root, f"{archive} can't be read as a gzip archive ({error})") from None
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise ConfigError("data_dir", root, f"{archive} is not MNIST's {name}: the MD5 sum should be {md5}")
        try:
            raw.mkdir(parents=True, exist_ok=True)
            write_atomically(raw / name, lambda file: file.write(content))  # noqa: B023
        except OSError as error:
            raise ConfigError("data_dir", raw, f"a directory that can be written is needed ({error})") from None


MNIST = DatasetSpec(
    name="mnist",
    help="ships with the repository",
    load=TorchvisionSet("mnist", "MNIST", "MNIST/raw", size=28, downloads=False, prepare=unpack_mnist).load,
    num_classes=CLASSES,
)
