"""What was measured: metrics and cases."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Curve = Sequence[tuple[float, float]]  # seconds of training, and the metric then


@dataclass(frozen=True)
class Metric:
    """Something that is measured; `stage` where it is one stage's."""

    name: str
    unit: str
    stage: int | None = None

    @property
    def title(self) -> str:
        """The name, with the stage."""
        return self.name if self.stage is None else f"stage {self.stage}: {self.name}"


Measured = Mapping[Metric, float]


@dataclass(frozen=True)
class Published:
    """A figure that others report, in the metric's unit."""

    value: float
    source: str  # with the label that is to stand wherever the figure does


@dataclass
class Case:
    """One metric, measured for every contender under the same settings."""

    name: str
    metric: Metric
    settings: dict[str, Any]
    rounds: dict[str, list[float]]  # of each contender
    panel: str  # of the plot, that the case is drawn in
    reference: str | None = None  # the contender whose ratios to the others are taken
    ratios: dict[str, list[float]] = field(default_factory=dict)
    formulas: dict[str, float] = field(default_factory=dict)  # computed, in the metric's unit
    published: dict[str, Published] = field(default_factory=dict)  # by the contender that repeats it
    missing: dict[str, str] = field(default_factory=dict)  # contenders without a number, and why
    curves: dict[str, list[Curve]] = field(default_factory=dict)  # of each contender, in each round

    def as_dict(self) -> dict[str, Any]:
        """The case as the JSON file holds it."""
        unit = self.metric.unit
        published = {name: {"unit": unit, **vars(figure)} for name, figure in self.published.items()}
        some = {"published": published, "missing": self.missing, "curves": self.curves}
        return {
            "name": f"{self.name}: {self.metric.title}",
            "metric": self.metric.name,
            "settings": self.settings,
            "contenders": {name: {"unit": unit, **spread(rounds)} for name, rounds in self.rounds.items()},
            "ratios": {name: spread(rounds) for name, rounds in self.ratios.items()},
            "formulas": {name: {"unit": unit, "value": value} for name, value in self.formulas.items()},
            **{key: value for key, value in some.items() if value},
        }

    def add_ratio(self, name: str, other: str, label: str | None = None) -> None:
        """The ratio of two contenders, round by round; none where the other measured 0."""
        if all(self.rounds[other]):
            pairs = zip(self.rounds[name], self.rounds[other], strict=True)
            self.ratios[f"{name} / {label or other}"] = [a / b for a, b in pairs]

    def add_ratio_to_best(self, name: str, group: str, others: Sequence[str]) -> None:
        """The ratio to that one of the others whose median is the highest."""
        if present := [other for other in others if other in self.rounds]:
            best = max(present, key=lambda other: statistics.median(self.rounds[other]))
            self.add_ratio(name, best, f"best {group} ({best})")


def spread(rounds: Sequence[float]) -> dict[str, Any]:
    """Median, minimum, maximum, and the rounds they are of."""
    return {"median": statistics.median(rounds), "min": min(rounds), "max": max(rounds), "rounds": list(rounds)}


def cases(
    name: str,
    settings: dict[str, Any],
    results: Mapping[str, Sequence[Measured]],
    reference: str | None = None,
    panel: str | None = None,
) -> list[Case]:
    """A case for each metric that a contender has."""
    metrics = dict.fromkeys(metric for measured in results.values() for metric in measured[0])
    made = []
    for metric in metrics:
        rounds = {key: [m[metric] for m in measured] for key, measured in results.items() if metric in measured[0]}
        stage = {} if metric.stage is None else {"stage": metric.stage}
        case = Case(name, metric, {**settings, **stage}, rounds, panel or name, reference)
        if reference is not None and reference in rounds:
            for other in rounds:
                if other != reference:
                    case.add_ratio(reference, other)
        made.append(case)
    return made
