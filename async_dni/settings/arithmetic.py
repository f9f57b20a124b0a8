"""Settings of a training: how numbers are computed, and what becomes of those that are not finite."""

from __future__ import annotations

from dataclasses import dataclass

from ..foundation.option import number, one_of, option
from ..learning.autocast import AUTOCASTS
from ..learning.precision import MATMUL_PRECISIONS

AUTOCAST_TYPES = tuple(AUTOCASTS)
DIVERGENCE_ACTIONS = ("stop", "skip", "restore")


@dataclass(frozen=True)
class Arithmetic:
    """How numbers are computed, and what becomes of those that are not finite."""

    matmul_precision: str | None = option(
        None,
        "the same of the layers' products; default: as PyTorch is set in the process (highest, if by nobody)",
        one_of(MATMUL_PRECISIONS),
        choices=MATMUL_PRECISIONS,
    )
    autocast: str | None = option(
        None,
        "let layers and loss compute in half precision where PyTorch's autocast knows that it does no harm; with float16, "
        "gradients are scaled; default: as they are",
        one_of(AUTOCAST_TYPES),
        choices=AUTOCAST_TYPES,
    )
    compile: bool = option(
        False,
        "let torch.compile make code of each stage's layers, in its worker, before the first batch; needs a C++ compiler",
        action="store_true",
    )
    channels_last: bool = option(
        False,
        "keep the weights of convolutions, and so what they put out, in PyTorch's channels-last memory format",
        action="store_true",
    )
    on_divergence: str = option(
        "stop",
        "when a loss, gradient or output is not finite: end the run (stop), pass over the update (skip), or take up the "
        "stage's last snapshot and go on (restore)",
        one_of(DIVERGENCE_ACTIONS),
        choices=DIVERGENCE_ACTIONS,
    )
    clip_grad_norm: float | None = option(
        None,
        "scale the gradients of a stage's layers down to this norm, and what goes upstream with them where they came of a "
        "synthesizer; with --accumulate, the mean of several batches; default: never",
        number(above=0),
        metavar="NORM",
    )
