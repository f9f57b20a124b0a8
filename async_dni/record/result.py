"""What a run came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .evaluate import Evaluation
from .gradients.check import GradientCheck


@dataclass(frozen=True)
class TrainResult:
    """What `Trainer.fit` returns."""

    model: Any  # trained, whole, on the CPU; of one that was split, the user's own module
    test_error: float | None  # per cent, of the final network; None without an eval_set or without classes
    history: list[Evaluation]
    summary: dict[str, Any]  # what summary.json holds
    run_dir: Path | None
    interrupted_by: int | None  # the signal that ended the run early
    problems: list[str]  # what could not be written or evaluated, a sentence each; told when it happened
    best: Evaluation | None = None  # by the loss, or by `early_stopping_metric`; of a resumed run's earlier ones too
    averaged_model: Any = None  # with the average of the weights, where `ema` is set
    gradient_checks: list[GradientCheck] = field(default_factory=list)  # where `gradient_check_every` is set
