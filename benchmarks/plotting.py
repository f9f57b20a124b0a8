"""Plots of what was measured: a bar a contender, a line a contender over a setting, or its curves over time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from case import Case, Curve, spread
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter


def plot(path: Path, measured: Sequence[Case], x: str | None, log2: bool) -> None:
    """Draw the cases into a file; `x` and `log2` as of `harness.report`."""
    panels: dict[tuple[str, str], list[Case]] = {}
    for case in [case for case in measured if case.curves] or measured:
        panels.setdefault((case.panel, f"{case.metric.name} ({case.metric.unit})"), []).append(case)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(6 * columns, 4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, ((title, label), shown) in zip(axes.flat, panels.items(), strict=False):
        axis.set_title(title)
        if shown[0].curves:
            _draw_curves(axis, shown[0], label)
        elif x is None:
            _draw_bars(axis, shown[0], label)
        else:
            _draw_lines(axis, shown, x, label, log2)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(path)


def _draw_bars(axis: Any, case: Case, label: str) -> None:
    numbers = {name: spread(rounds) for name, rounds in case.rounds.items()}
    medians = [one["median"] for one in numbers.values()]
    below = [one["median"] - one["min"] for one in numbers.values()]
    above = [one["max"] - one["median"] for one in numbers.values()]
    axis.barh(list(numbers), medians, xerr=[below, above], color="lightgray")
    for source in dict.fromkeys(figure.source for figure in case.published.values()):
        of = {name: figure.value for name, figure in case.published.items() if figure.source == source}
        axis.plot(list(of.values()), list(of), "D", label=f"published: {source}")
    if case.published:
        axis.legend(fontsize="x-small")
    axis.invert_yaxis()
    axis.set_xlabel(label)


def _draw_curves(axis: Any, case: Case, label: str) -> None:
    """A thin line a round, and a thick one through the medians of all rounds, at each point of the curves."""
    for name, curves in case.curves.items():
        (line,) = axis.plot(*_median(curves), linewidth=2, label=name)
        for curve in curves if len(curves) > 1 else []:
            axis.plot(*zip(*curve, strict=True), linewidth=0.5, color=line.get_color())
    _scale_y(axis, [value for curves in case.curves.values() for curve in curves for _, value in curve])
    axis.set_xlabel("seconds of training")
    axis.set_ylabel(label)
    axis.legend()


def _scale_y(axis: Any, values: Sequence[float]) -> None:
    """From 0; in powers of 10 where the values span more than one."""
    if min(values) > 0 and max(values) > 10 * min(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(bottom=0)


def _median(curves: Sequence[Curve]) -> tuple[list[float], list[float]]:
    points = list(zip(*curves, strict=True))  # of all rounds, at the same step
    return tuple([statistics.median(point[axis] for point in at) for at in points] for axis in (0, 1))  # type: ignore


def _draw_lines(axis: Any, shown: Sequence[Case], x: str, label: str, log2: bool) -> None:
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
    if log2:
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(set(values)), labels=[str(value) for value in sorted(set(values))])
        _scale_y(axis, [value for case in shown for rounds in case.rounds.values() for value in rounds])
    elif min(values) > 0 and max(values) / min(values) > 50:
        axis.set_xscale("log")
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
        axis.set_xticks(sorted(set(values)))
    axis.set_xlabel(x)
    axis.set_ylabel(label)
    axis.legend()
