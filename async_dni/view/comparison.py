"""Runs held beside each other: settings that differ, and how good they were after as many steps, and as many seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..record.reading.run_reader import RunReader

NO_SETTINGS = ("schema", "run_dir", "resume", "used", "environment", "quiet")


@dataclass(frozen=True)
class Row:
    """One thing, of each run; None where a run has none."""

    name: str
    values: tuple[Any, ...]


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings, with what came of those left open, and what it ran on."""
    used, environment = config.get("used", {}), config.get("environment", {})
    own = {name: value for name, value in config.items() if name not in NO_SETTINGS}
    machine = {name: environment[name] for name in ("processor", "cores", "torch", "git_commit") if name in environment}
    return {**own, **{name: value for name, value in used.items() if value not in (None, [])}, **machine}


def differing(runs: Sequence[RunReader]) -> list[Row]:
    """Settings that are not the same in all."""
    each = [settings_of(run.config) for run in runs]
    names = dict.fromkeys(name for settings in each for name in settings)
    rows = [Row(name, tuple(settings.get(name) for settings in each)) for name in names]
    return [row for row in rows if any(value != row.values[0] for value in row.values)]


def outcomes(runs: Sequence[RunReader]) -> list[Row]:
    """What each came to, as far as it is known."""
    summaries = [run.summary or {} for run in runs]
    names = ("steps", "wall_seconds", "samples_per_second", "test_error")
    found = [Row(name.replace("_", " "), tuple(_short(summary.get(name)) for summary in summaries)) for name in names]
    return [Row("state", tuple(run.state for run in runs)), *found]


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def at_equal(runs: Sequence[RunReader], by: str, figure: str) -> list[Row]:
    """A figure of the evaluations (`test_error`, `test_loss`) at equal steps or seconds; `by`: "step", "wall_seconds".

    A row for each evaluation of the run that went on for least: of each run, its newest evaluation by then.
    """
    curves = [[(each[by], each[figure]) for each in run.evaluations if each[figure] is not None] for run in runs]
    if not all(curves):
        return []
    shortest = min(curves, key=lambda curve: curve[-1][0])
    rows = []
    for where, _ in shortest:
        values = tuple(next((value for at, value in reversed(curve) if at <= where), None) for curve in curves)
        rows.append(Row(f"{where:g}" if by == "step" else f"{where:.1f}", values))
    return rows
