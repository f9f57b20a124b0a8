"""How exactly float32 matrices are multiplied, by the names of `torch.set_float32_matmul_precision`.

    highest     in float32
    high        in TF32 where the device has it
    medium      in bfloat16 where PyTorch has that for the CPU and the size, in TF32 where a CUDA device has that

Factors are rounded on their way into the product; sums, inputs and results stay float32. Convolutions are left alone.
Whether a CPU's product is rounded is for PyTorch's oneDNN to say, which goes by the processor and the size: no flag of a
processor tells (of those seen, AMX rounds; AVX-512 BF16 by itself does not). One that is not rounded may be made by another
routine all the same, which may be slower, and whose last bits may differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import backends

PRECISIONS = {"highest": ("ieee", "ieee"), "high": ("tf32", "tf32"), "medium": ("bf16", "tf32")}  # CPU, CUDA
MATMUL_PRECISIONS = tuple(PRECISIONS)


@contextmanager
def matmul_precision(precision: str | None, device: torch.device) -> Iterator[None]:
    """Within the block, products on this kind of device have this precision; None: that which they have anyway.

    PyTorch has one setting a process; it is put back after the block.
    """
    if precision is None:
        yield
        return
    cpu, cuda = PRECISIONS[precision]
    backend: Any = backends.cuda if device.type == "cuda" else backends.mkldnn
    matmul, before = backend.matmul, backend.matmul.fp32_precision
    matmul.fp32_precision = cuda if device.type == "cuda" else cpu
    try:
        yield
    finally:
        matmul.fp32_precision = before


@cache
def rounds_to_bfloat16(rows: int, size: int) -> bool:
    """Whether, in `medium`, the CPU rounds the factors of a product `[rows, size] @ [size, size]`: tried, not looked up."""
    x, y = (torch.full((count, size), 1 + 2**-12) for count in (rows, size))  # 1 in bfloat16
    with matmul_precision("medium", x.device):
        return bool((x @ y)[0, 0] == size)
