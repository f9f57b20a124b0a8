"""Which precision a synthesizer's products of matrices have (`precision.py`), where the user left that to us.

    set by the user         as set
    a small prediction      highest: multiplying is not what takes its time
    thin products           highest, likewise: those of low rank
    on a CPU                medium where PyTorch rounds products of that size, which it does where the processor has units
                            that are much faster at that; else highest
    on a CUDA device        medium: TF32

Whether a product is rounded is tried. No time is measured, so the choice is the same in every run on one kind of processor,
as a fixed lag promises. The parent chooses, before the start, and workers are told.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..foundation.error import ConfigError
from ..learning.precision import matmul_precision, rounds_to_bfloat16
from .trial import check_synthesizer

# Numbers in a prediction. Rounding has its price: on a core with AMX, learning from batches of 64×128 takes longer in
# bfloat16, from 250×256 it takes less (docs/performance.md).
WORTH_ROUNDING = 2**15
THIN = 128  # rows or columns of a weight
LARGEST_TRIED = 1024  # rows and features of the product that is tried


def choose_precision(
    given: str | None, synthesizer: nn.Module | None, h: Tensor, labels: Tensor | None, device: str
) -> str:
    """That of a synthesizer on `device` which predicts gradients of h `[batch, *features]`; None has no products."""
    if given is not None:
        return given
    if synthesizer is None or h.numel() < WORTH_ROUNDING or h.dtype != torch.float32 or _is_thin(synthesizer):
        return "highest"
    if torch.device(device).type == "cpu":
        rows, features = (min(size, LARGEST_TRIED) for size in (len(h), h[0].numel()))
        if not rounds_to_bfloat16(rows, features):
            return "highest"
    return "medium" if _takes_medium(synthesizer, h, labels) else "highest"


def _is_thin(synthesizer: nn.Module) -> bool:
    """Whether all its weights are, of those that are matrices."""
    weights = [parameter for parameter in synthesizer.parameters() if parameter.dim() == 2]
    return bool(weights) and all(min(weight.shape) < THIN for weight in weights)


def _takes_medium(synthesizer: nn.Module, h: Tensor, labels: Tensor | None) -> bool:
    """Whether it predicts in `medium`: one that asks PyTorch for the precision gets an error there."""
    try:
        with matmul_precision("medium", h.device):
            check_synthesizer(synthesizer, "", h, labels)
    except ConfigError:
        return False
    return True
