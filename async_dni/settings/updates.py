"""Settings of a training: how the weights change from batch to batch."""

from __future__ import annotations

from dataclasses import dataclass

from ..foundation.option import number, numbers, one_of, option, whole
from ..learning.schedules import SCHEDULES

SYNTHESIZER_SCHEDULES = ("same", "constant")


@dataclass(frozen=True)
class Updates:
    """How the weights change from batch to batch."""

    lr_schedule: str = option("constant", "how the learning rate changes over the run", registry=SCHEDULES)
    warmup: int = option(0, "batches over which the learning rate grows to its own at first", whole(0), metavar="N")
    synthesizer_lr_schedule: str = option(
        "same",
        "of the synthesizers' learning rate: times the same factor as the layers', or constant",
        one_of(SYNTHESIZER_SCHEDULES),
        choices=SYNTHESIZER_SCHEDULES,
    )
    stage_lr: tuple[float, ...] | None = option(
        None, "learning rate of each stage, e.g. 1e-3,5e-4; default: the optimizer's", numbers, metavar="RATES"
    )
    accumulate: int = option(1, "make a step every N batches, on the mean of their gradients", whole(1), metavar="N")
    ema: float | None = option(
        None,
        "average the weights over the updates with this decay, e.g. 0.999, and evaluate the average; default: no average",
        number(above=0, below=1),
        metavar="DECAY",
    )
