"""Long series, made short enough to be drawn: what a screen shows is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOST_POINTS = 400  # of a line


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most about so many points, in order; of each stretch the least and the greatest."""
    if len(points) <= most:
        return list(points)
    size = -(-2 * len(points) // most)
    kept = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        ends = sorted({part.index(min(part, key=_value)), part.index(max(part, key=_value))})
        kept += [part[index] for index in ends]
    return [*kept, points[-1]] if kept[-1] != points[-1] else kept


def _value(point: tuple[float, float]) -> float:
    return point[1]


def grouped(records: Sequence[Mapping[str, Any]], most: int) -> list[Sequence[Mapping[str, Any]]]:
    """Records in at most so many stretches of equal length."""
    size = max(1, -(-len(records) // most))
    return [records[start : start + size] for start in range(0, len(records), size)]


def histogram(values: Sequence[float], bins: int = 30) -> list[tuple[float, float, int]]:
    """From, to and how many; of whole numbers that are few, one each."""
    if not values:
        return []
    least, greatest = min(values), max(values)
    width = (greatest - least) / bins
    if greatest - least <= bins and all(value == int(value) for value in values):
        width, bins = 1.0, int(greatest - least) + 1
    bins, width = (1, 1.0) if not width else (bins, width)
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - least) / width))] += 1
    return [(least + i * width, least + (i + 1) * width, count) for i, count in enumerate(counts)]
