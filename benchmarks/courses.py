"""The course of a training: its error (or bits) over time, and when that comes down to a target.

A target counts as reached where it is reached in all rounds: the median of those that happened to would flatter.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar


class Point(NamedTuple):
    """An evaluation."""

    step: int  # batches trained on before
    seconds: float  # of training before
    error: float  # per cent of the test set, or bits; infinite where training came apart


Course = Sequence[Point]  # empty where the training was ended, as it came apart
Target = float | Sequence[float]  # for all rounds, or of each
S = TypeVar("S")  # a setting that courses differ in, such as the learning rate
Courses = Mapping[S, Sequence[Course]]  # of each round


def lowest_error(course: Course) -> float:
    """Of all evaluations."""
    return min((point.error for point in course), default=math.inf)


def last_error(course: Course) -> float:
    """At the end."""
    return course[-1].error if course else math.inf


def error_at(step: int, course: Course) -> float:
    """Of the last evaluation after at most so many steps."""
    return next((point.error for point in reversed(course) if point.step <= step), math.inf)


def time_to(target: float, course: Course) -> float | None:
    """Seconds to the first evaluation whose error is at most the target; None where there is none."""
    return next((point.seconds for point in course if point.error <= target), None)


def _each(target: Target, rounds: Sequence[Course]) -> list[float | None]:
    targets = [target] * len(rounds) if isinstance(target, int | float) else target
    return [time_to(each, course) for each, course in zip(targets, rounds, strict=True)]


def times_to(target: Target, rounds: Sequence[Course]) -> list[float] | None:
    """Seconds to the target in each round; None unless all reach it."""
    times = [seconds for seconds in _each(target, rounds) if seconds is not None]
    return times if len(times) == len(rounds) else None


def why_missing(target: Target, rounds: Sequence[Course]) -> str:
    """In how many rounds a target was not reached."""
    failed = sum(seconds is None for seconds in _each(target, rounds))
    return "not reached" if failed == len(rounds) else f"not reached in {failed} of {len(rounds)} rounds"


def fastest_rate(target: Target, courses: Courses[S]) -> S | None:
    """The learning rate with the least median time to a target; None where none reaches it."""
    times = {lr: times for lr, rounds in courses.items() if (times := times_to(target, rounds)) is not None}
    return min(times, key=lambda lr: statistics.median(times[lr]), default=None)


def best_rate(targets: Sequence[float], courses: Courses[S]) -> S:
    """The fastest learning rate to the lowest target that is reached; where none is, that with the lowest error."""
    for target in sorted(targets):
        if (lr := fastest_rate(target, courses)) is not None:
            return lr
    return min(courses, key=lambda lr: statistics.median(lowest_error(course) for course in courses[lr]))
