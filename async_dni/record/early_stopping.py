"""When a run ends early: its evaluations get no better."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .evaluate import Evaluation

LOSS, ERROR = "loss", "error"  # beside the metrics


class EarlyStopping:
    """Knows the best evaluation, and how many came since. `patience`: after how many of those the run is to end, 0: never."""

    def __init__(self, patience: int = 0, metric: str = LOSS, higher_is_better: bool = False) -> None:
        self.patience, self.metric, self.higher_is_better = patience, metric, higher_is_better
        self.best: Evaluation | None = None
        self.since = 0  # evaluations after the best one
        self.sentence: str | None = None  # why the run is to end, when it is

    def look(self, evaluation: Evaluation) -> bool:
        """Take in an evaluation; returns whether the run is to end now."""
        if self._is_better(evaluation):
            self.best, self.since = evaluation, 0
        else:
            self.since += 1
        if self.sentence is not None or not 0 < self.patience <= self.since:
            return False
        best = "" if self.best is None else f" than {self.value(self.best):.6g} (step {self.best.step})"
        times = "an evaluation" if self.since == 1 else f"{self.since} evaluations"
        self.sentence = f"ended early after {times} without a better {self._name}{best}"
        return True

    def look_back(self, evaluations: Sequence[Evaluation]) -> None:
        """Take in those of the run that is gone on with; none of them ends this one."""
        for evaluation in evaluations:
            self.look(evaluation)
        self.sentence = None

    @property
    def _name(self) -> str:
        return f"test {self.metric}" if self.metric in (LOSS, ERROR) else self.metric

    def value(self, evaluation: Evaluation) -> float:
        """What an evaluation is better by; not a number where there is none."""
        found = {LOSS: evaluation.test_loss, ERROR: evaluation.test_error, **evaluation.metrics}.get(self.metric)
        return math.nan if found is None else found

    def _is_better(self, evaluation: Evaluation) -> bool:
        value = self.value(evaluation)
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        best = self.value(self.best)
        return value > best if self.higher_is_better else value < best
