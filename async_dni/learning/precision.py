"""How exactly float32 matrices are multiplied, by the names of `torch.set_float32_matmul_precision`.

    highest     in float32
    high        in TF32 where the device has it
    medium      in bfloat16 where a CPU has it (AMX, AVX-512 BF16), in TF32 where a CUDA device has that

Factors are rounded on their way into the product; sums, inputs and results stay float32. Convolutions are left alone. A
CPU that has none of these multiplies in float32, be it by another routine, whose last bits may differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, backends

PRECISIONS = {"highest": ("ieee", "ieee"), "high": ("tf32", "tf32"), "medium": ("bf16", "tf32")}  # CPU, CUDA

# Numbers in a prediction. Rounding has its price: on a core with AMX, learning from batches of 64×128 takes longer in
# bfloat16, from 250×256 it takes less (docs/performance.md).
WORTH_ROUNDING = 2**15


def prediction_precision(precision: str | None, h: Tensor) -> str:
    """That of a prediction shaped like h: the one given, or, where it is None, what suits the size."""
    return precision or ("medium" if h.numel() >= WORTH_ROUNDING else "highest")


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
