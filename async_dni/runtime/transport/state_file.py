"""A state in a file in memory, from process to process: `torch.save`'s form without its checksums, which have no use there.

What is kept on disk has them (`record/checkpoint.py`).
"""

from __future__ import annotations

from typing import IO, Any

import torch
from torch.serialization import get_crc32_options, set_crc32_options


def write_state(state: dict[str, Any], file: IO[bytes]) -> None:
    """From the position on: tensors, of any device, and plain values."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        torch.save(state, file)
    finally:
        set_crc32_options(before)


def read_state(file: IO[bytes]) -> dict[str, Any]:
    """What was written from the position on, on the CPU."""
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state
