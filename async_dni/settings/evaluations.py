"""Settings of a training: what evaluations find, and when they end a run; how often gradients are checked."""

from __future__ import annotations

from dataclasses import dataclass

from ..foundation.option import all_registered, option, whole
from ..learning.metrics import METRICS


@dataclass(frozen=True)
class Evaluations:
    """What evaluations find, and when they end a run; how often gradients are checked."""

    metrics: tuple[str, ...] = option(
        (), "what evaluations find beside loss and error", all_registered(METRICS), METRICS, metavar="NAMES"
    )
    early_stopping: int = option(
        0,
        "end the run after so many evaluations in a row of which none is better than the best before them; 0: never",
        whole(0),
        metavar="N",
    )
    early_stopping_metric: str = option(
        "loss", "what an evaluation is better by: loss, error, or one of the metrics", metavar="NAME"
    )
    gradient_check_every: int = option(
        0,
        "hold the gradients that stages update with against the true ones, every N batches, on the next batch; 0: never",
        whole(0),
        metavar="N",
    )
