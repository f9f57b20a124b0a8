"""What a gradient check found.

δ_k   true           ∂L/∂h_k, by backpropagation through the whole network
δ̂_k   synthetic      what the method of stage k answers at once: a synthesizer's prediction, an auxiliary loss's gradient
β_k   bootstrapped   what stage k + 1 sends upstream: δ̂_{k+1} backpropagated through it (through the last stage, δ_{k+1})
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any

from .comparison import Comparison

KIND = "gradient_check"  # of such a line of metrics.jsonl


@dataclass(frozen=True)
class StageGradients:
    """The gradients of a stage's output, against each other."""

    stage: int
    norm: float | None  # ‖δ‖, of the loss's mean over the batch
    synthetic: Comparison  # δ̂ against δ
    bootstrapped: Comparison | None = None  # β against δ; None with methods that send no gradients upstream
    regression: Comparison | None = None  # δ̂ against β, which is what a synthesizer learns


@dataclass(frozen=True)
class GradientCheck:
    """The gradients of every stage but the last, with the network and the synthesizers as they were after `step` batches."""

    step: int
    epoch: float
    wall_seconds: float  # since the workers began
    batch: int  # the index of the batch that it was made on
    stages: tuple[StageGradients, ...]

    def as_dict(self) -> dict[str, Any]:
        """As an object of metrics.jsonl, under "kind" what it is."""
        return {"kind": KIND, **asdict(self)}


def summary_of(checks: Sequence[GradientCheck]) -> dict[str, Any] | None:
    """For summary.json: how many there were, the last, and the means by stage; None where there were none."""
    if not checks:
        return None
    by_stage = zip(*(check.stages for check in checks), strict=True)
    means = [asdict(_mean_of(each)) for each in by_stage]
    return {"checks": len(checks), "last": asdict(checks[-1]), "mean": means}


def _mean_of(found: Sequence[StageGradients]) -> StageGradients:
    """Of one stage's, of what there is of each number."""

    def mean(values: Sequence[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return fmean(there) if there else None

    def mean_comparison(name: str) -> Comparison | None:
        there = [value for each in found if (value := getattr(each, name)) is not None]
        names = [field.name for field in fields(Comparison)]
        return Comparison(*(mean([getattr(one, name) for one in there]) for name in names)) if there else None

    return StageGradients(
        found[0].stage,
        mean([each.norm for each in found]),
        mean_comparison("synthetic") or Comparison(),
        mean_comparison("bootstrapped"),
        mean_comparison("regression"),
    )
