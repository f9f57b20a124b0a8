"""The course of a training: its test error over time, and when that comes down to a target.

A target counts as reached where it is reached in all rounds: the median of those that happened to would flatter.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """An evaluation."""

    step: int  # batches trained on before
    seconds: float  # of training before
    error: float  # per cent of the test set


Course = Sequence[Point]
Courses = Mapping[float, Sequence[Course]]  # by learning rate, of each round


def lowest_error(course: Course) -> float:
    """Of all evaluations, in per cent."""
    return min(point.error for point in course)


def time_to(target: float, course: Course) -> float | None:
    """Seconds to the first evaluation whose error, in per cent, is at most the target; None where there is none."""
    return next((point.seconds for point in course if point.error <= target), None)


def times_to(target: float, rounds: Sequence[Course]) -> list[float] | None:
    """Seconds to the target in each round; None unless all reach it."""
    times = [seconds for course in rounds if (seconds := time_to(target, course)) is not None]
    return times if len(times) == len(rounds) else None


def why_missing(target: float, rounds: Sequence[Course]) -> str:
    """In how many rounds a target was not reached."""
    failed = sum(time_to(target, course) is None for course in rounds)
    return "not reached" if failed == len(rounds) else f"not reached in {failed} of {len(rounds)} rounds"


def fastest_rate(target: float, courses: Courses) -> float | None:
    """The learning rate with the least median time to a target; None where none reaches it."""
    times = {lr: times for lr, rounds in courses.items() if (times := times_to(target, rounds)) is not None}
    return min(times, key=lambda lr: statistics.median(times[lr]), default=None)


def best_rate(targets: Sequence[float], courses: Courses) -> float:
    """The fastest learning rate to the lowest target that is reached; where none is, that with the lowest error."""
    for target in sorted(targets):
        if (lr := fastest_rate(target, courses)) is not None:
            return lr
    return min(courses, key=lambda lr: statistics.median(lowest_error(course) for course in courses[lr]))
