"""PyTorch's own losses, by module or by function: what is known of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.nn import functional as F

OF_LABELS = (nn.CrossEntropyLoss, nn.NLLLoss)
FUNCTIONS: dict[Any, type[nn.Module]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.kl_div: nn.KLDivLoss,
}


def as_module(loss_fn: object) -> Any:
    """The module of PyTorch's that does what this function of PyTorch's, or a partial of it, does; else what is given."""
    function, keywords = loss_fn, {}
    if isinstance(loss_fn, partial) and not loss_fn.args:
        function, keywords = loss_fn.func, loss_fn.keywords
    try:
        return FUNCTIONS[function](**keywords)
    except (KeyError, TypeError):  # another's, or what can't be hashed
        return loss_fn


def ignored_label(loss_fn: object) -> int | None:
    """The label that a loss ignores, where it is known to ignore one."""
    loss = as_module(loss_fn)
    return loss.ignore_index if isinstance(loss, OF_LABELS) else None
