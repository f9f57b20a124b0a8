"""How exactly float32 matrices are multiplied, by the names of `torch.set_float32_matmul_precision`.

    highest     in float32
    high        in TF32 where the device has it
    medium      in bfloat16 on a CPU that has it (AMX, AVX-512 BF16), in TF32 on a CUDA device

Operands are rounded on their way into the product; sums, inputs and results stay float32. Where a device has no faster
product, all three are float32. On a core with AMX, medium is some three times faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import backends

PRECISIONS = {"highest": ("ieee", "ieee"), "high": ("tf32", "tf32"), "medium": ("bf16", "tf32")}  # CPU, CUDA


@contextmanager
def matmul_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Multiply so on this kind of device until the end of the block, then as before: PyTorch has one setting a process."""
    is_cuda = device.type == "cuda"
    backend: Any = backends.cuda if is_cuda else backends.mkldnn
    matmul = backend.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = PRECISIONS[precision][is_cuda]
    try:
        yield
    finally:
        matmul.fp32_precision = before
