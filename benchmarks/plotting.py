"""Plots of what was measured: a bar a contender, or a line a contender over a setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import Case, spread
from matplotlib.figure import Figure


def plot(path: Path, measured: Sequence[Case], x: str | None) -> None:
    """Draw the cases into a file; `x` as of `harness.report`."""
    panels: dict[tuple[str, str], list[Case]] = {}
    for case in measured:
        panels.setdefault((case.panel, f"{case.metric.name} ({case.metric.unit})"), []).append(case)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(6 * columns, 4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, ((title, label), shown) in zip(axes.flat, panels.items(), strict=False):
        axis.set_title(title)
        if x is None:
            _draw_bars(axis, shown[0], label)
        else:
            _draw_lines(axis, shown, x, label)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(path)


def _draw_bars(axis: Any, case: Case, label: str) -> None:
    numbers = {name: spread(rounds) for name, rounds in case.rounds.items()}
    medians = [one["median"] for one in numbers.values()]
    below = [one["median"] - one["min"] for one in numbers.values()]
    above = [one["max"] - one["median"] for one in numbers.values()]
    axis.barh(list(numbers), medians, xerr=[below, above])
    axis.invert_yaxis()
    axis.set_xlabel(label)


def _draw_lines(axis: Any, shown: Sequence[Case], x: str, label: str) -> None:
    """A line a contender through its medians, in a band from minimum to maximum; formulas are dashed."""
    for name in dict.fromkeys(name for case in shown for name in case.rounds):
        points = [(case.settings[x], spread(case.rounds[name])) for case in shown if name in case.rounds]
        at = [value for value, _ in points]
        (line,) = axis.plot(at, [one["median"] for _, one in points], marker="o", label=name)
        axis.fill_between(
            at, [one["min"] for _, one in points], [one["max"] for _, one in points], alpha=0.2, color=line.get_color()
        )
    for name in dict.fromkeys(name for case in shown for name in case.formulas):
        formulas = [(case.settings[x], case.formulas[name]) for case in shown if name in case.formulas]
        axis.plot(*zip(*formulas, strict=True), linestyle="--", label=f"{name} (formula)")
    values = [case.settings[x] for case in shown]
    if min(values) > 0 and max(values) / min(values) > 50:
        axis.set_xscale("log")
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
        axis.set_xticks(sorted(set(values)))
    axis.set_xlabel(x)
    axis.set_ylabel(label)
    axis.legend()
