"""Images and labels in IDX files, gzipped or not: the format of MNIST's.

Two zero bytes, the type (8: unsigned bytes), the number of dimensions, their sizes as big-endian 32-bit numbers, the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from ...foundation.error import ConfigError


def find_idx(folder: Path, part: str) -> tuple[Tensor, Tensor] | None:
    """Images `[samples, height, width]` and labels `[samples]`, uint8, of `part` (train, t10k); None where they are not there.

    Raises `ConfigError` for files that can't be read.
    """
    names = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    paths = [next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None) for name in names]
    if paths[0] is None or paths[1] is None:
        return None
    return read_idx(paths[0], dimensions=3), read_idx(paths[1], dimensions=1)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The bytes of a file, as a tensor of so many dimensions. Raises `ConfigError` where it is none, or not whole."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError("data_dir", path, f"it can't be read ({error})") from None
    head = 4 + 4 * dimensions
    if len(content) < head or content[:4] != bytes([0, 0, 8, dimensions]):
        raise ConfigError("data_dir", path, f"it is no IDX file of unsigned bytes in {dimensions} dimensions")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    if len(content) != head + math.prod(shape):
        found = f"it has {len(content) - head} values; its head says {' × '.join(map(str, shape))}"
        raise ConfigError("data_dir", path, found)
    return torch.frombuffer(bytearray(content[head:]), dtype=torch.uint8).view(shape)
