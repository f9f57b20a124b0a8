"""The spans of all stages as one trace-event file, which Perfetto and chrome://tracing open.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU: a track a stage, its phases as spans with
their batch, queue depths and lags as counters, an arrow from each activation as it is sent to the forward pass that takes
it, and from each gradient to where it is learnt from; and a track of the run's, with what happened to it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...foundation.atomic_file import write_atomically
from ..reading.json_lines import JsonLines
from ..run_dir import RunDir

PROCESS, RUN = 1000, 0  # numbers of the process, and of the run's own track; stage k has k + 1
MARKS = ("restart", "checkpoint", "evaluating", "evaluated", "note", "warning", "begin", "end")
Span = tuple[str, int | None, bool, int, int]  # phase, batch, whether upstream, from and to in ns


def write_trace(run_dir: RunDir, events: Sequence[Mapping[str, Any]], layers: Sequence[Sequence[str]]) -> list[str]:
    """Write trace.json.gz from what the stages kept; returns what could not be read, a sentence each.

    Raises `OSError` where it can't be written, `FileNotFoundError` where nothing was traced.
    """
    stages, notes = read_spans(run_dir, len(layers))
    if not any(stages.values()):
        raise FileNotFoundError(2, "no stage has written what it did", str(run_dir.spans(0)))
    origin = min(life["spans"][0][3] for lives in stages.values() for life in lives if life["spans"])
    first = next(life for lives in stages.values() for life in lives)
    wall = first["time"] - (first["monotonic_ns"] - origin) / 1e9  # time.time() at the origin
    content = {
        "displayTimeUnit": "ms",
        "otherData": {"run": run_dir.path.name, "time_at_0": wall},
        "traceEvents": [
            *_names(run_dir.path.name, layers),
            *(event for k, lives in stages.items() for event in _of_stage(k, lives, origin)),
            *_arrows(stages, origin),
            *_marks(events, wall, stages, origin),
        ],
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    write_atomically(run_dir.trace, lambda file: file.write(gzip.compress(text, 6)))
    return notes


def read_spans(run_dir: RunDir, stages: int) -> tuple[dict[int, list[dict[str, Any]]], list[str]]:
    """What each stage's processes kept, in time; and what could not be read."""
    found: dict[int, list[dict[str, Any]]] = {}
    notes: list[str] = []
    for k in range(stages):
        lines = JsonLines(run_dir.spans(k), lambda line: "spans")
        found[k] = lines.more()
        notes += lines.notes(has_ended=True)
    return found, notes


def _names(run: str, layers: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": PROCESS, "args": {"name": run}}
    for track, name in enumerate(["run", *(f"stage {k}: {', '.join(names)}" for k, names in enumerate(layers))]):
        yield {"ph": "M", "name": "thread_name", "pid": PROCESS, "tid": track, "args": {"name": name}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": PROCESS, "tid": track, "args": {"sort_index": track}}


def _of_stage(k: int, lives: Iterable[Mapping[str, Any]], origin: int) -> Iterator[dict[str, Any]]:
    """A stage's spans and counters."""
    for life in lives:
        for phase, batch, upstream, began, ended in life["spans"]:
            args = {} if batch is None else {"batch": batch}
            if phase == "send":
                args["what"] = "gradient" if upstream else "activation"
            event = {"ph": "X", "name": phase, "pid": PROCESS, "tid": k + 1, "args": args}
            yield {**event, "ts": _us(began - origin), "dur": _us(ended - began)}
        for when, depths in life["queues"]:
            for queue, depth in depths.items():
                yield _counter(f"stage {k}: {queue} queue", when - origin, {"messages": depth})
        for when, lag in life["lags"]:
            yield _counter(f"stage {k}: lag", when - origin, {"batches": lag})


def _counter(name: str, when: int, value: dict[str, int]) -> dict[str, Any]:
    return {"ph": "C", "name": name, "pid": PROCESS, "tid": RUN, "ts": _us(when), "args": value}


def _arrows(stages: Mapping[int, Sequence[Mapping[str, Any]]], origin: int) -> Iterator[dict[str, Any]]:
    """From each activation to the next stage's forward pass of it, and of its gradient back to where it is learnt from."""
    forward, learn, down, up = ({k: _spans_of(lives, wanted) for k, lives in stages.items()} for wanted in WANTED)
    number = 0
    for k in stages:
        ways = (
            ("activation", down[k], forward.get(k + 1, {}), k + 1),
            ("gradient", up[k], learn.get(k - 1, {}), k - 1),
        )
        for name, sent, taken, other in ways:
            for batch, (_, _, _, began, _) in sent.items():
                if batch not in taken or taken[batch][3] < began:
                    continue
                number += 1
                event = {"cat": name, "name": name, "id": number, "pid": PROCESS}
                yield {**event, "ph": "s", "tid": k + 1, "ts": _us(began - origin)}
                yield {**event, "ph": "f", "bp": "e", "tid": other + 1, "ts": _us(taken[batch][3] - origin)}


WANTED: tuple[tuple[str, bool], ...] = (("forward", False), ("learn", False), ("send", False), ("send", True))


def _spans_of(lives: Iterable[Mapping[str, Any]], wanted: tuple[str, bool]) -> dict[int, Span]:
    """By batch, of those that were to be traced; of one that a worker had to do again, the last."""
    return {
        span[1]: tuple(span)
        for life in lives
        for span in life["spans"]
        if (span[0], span[2]) == wanted and span[1] is not None and life["steps"][0] <= span[1] < life["steps"][1]
    }


def _marks(
    events: Iterable[Mapping[str, Any]], wall: float, stages: Mapping[int, Sequence[Mapping[str, Any]]], origin: int
) -> Iterator[dict[str, Any]]:
    """What happened to the run meanwhile."""
    last = max(life["spans"][-1][4] for lives in stages.values() for life in lives if life["spans"])
    for event in events:
        when = event["time"] - wall
        if event["kind"] in MARKS and 0 <= when <= (last - origin) / 1e9 + 1.0:
            args = {name: value for name, value in event.items() if name not in ("time", "kind")}
            mark = {"ph": "i", "s": "p", "name": event["kind"], "pid": PROCESS, "tid": RUN}
            yield {**mark, "ts": round(when * 1e6, 3), "args": args}


def _us(ns: int) -> float:
    """Microseconds, as the format has them."""
    return ns / 1000


def read_trace(path: Path) -> dict[str, Any]:
    """A trace-event file. Raises `OSError` and `ValueError`, also where it is cut off."""
    try:
        content: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    except EOFError as error:
        raise ValueError(str(error)) from None
    return content
