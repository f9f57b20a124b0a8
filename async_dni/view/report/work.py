"""Figures of what the workers did: samples a second, where time went, lags and queues, the steps that were traced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...record.reading.run_reader import RunReader
from ...record.trace.merge import read_trace
from ..drawing import KINDS
from .figure import Figure, axis, lines
from .series import grouped, histogram, thinned

MOST_SPANS, STRETCHES = 6000, 80
# by kind: wait, load, forward, update, learn, send, snapshot
PHASE_COLOURS = ("#BBBBBB", "#56B4E9", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#D55E00")
_COLOUR = {
    "type": "nominal",
    "title": None,
    "scale": {"domain": [kind.name for kind in KINDS], "range": list(PHASE_COLOURS)},
}
KIND_OF = {phase: kind.name for kind in KINDS for phase in kind.phases}


def rates(run: RunReader) -> Iterator[Figure]:
    """Samples a second, by stage."""
    began = run.began or 0.0
    rows = [
        {"second": at, "samples/s": value, "stage": f"stage {k}"}
        for k, records in run.records.items()
        for at, value in thinned([(r["time"] - began, r["samples_per_second"]) for r in records])
    ]
    if rows:
        chart = lines(axis("second", "seconds"), axis("samples/s", "samples a second"), "stage", None)
        yield Figure("samples_per_second", "Samples a second", "Samples a second of each stage over time.", rows, chart)


def time_use(run: RunReader) -> Iterator[Figure]:
    """Where each stage's time went, over the run."""
    began = run.began or 0.0
    rows = []
    for k, records in run.records.items():
        for part in grouped(records, STRETCHES):
            spent = spent_on(part)
            whole = sum(spent.values()) or 1.0
            rows += [
                {"stage": f"stage {k}", "second": part[-1]["time"] - began, "phase": name, "share": value / whole}
                for name, value in spent.items()
            ]
    if not rows:
        return
    area = {
        "mark": {"type": "area", "clip": True},
        "encoding": {
            "x": axis("second", "seconds"),
            "y": {
                "field": "share",
                "type": "quantitative",
                "stack": "normalize",
                "axis": {"format": "%"},
                "title": None,
            },
            "color": {"field": "phase", **_COLOUR},
            "tooltip": [{"field": name, "type": "nominal"} for name in ("stage", "phase", "share")],
        },
        "height": 70,
        "width": 400,
    }
    facet = {
        "row": {"field": "stage", "type": "nominal", "title": None, "header": {"labelAngle": 0, "labelAlign": "left"}}
    }
    told = ", ".join(f"stage {k} waits {waiting(records):.0%}" for k, records in run.records.items() if records)
    alt = f"Share of each stage's time by phase, over the run: {told} of it."
    yield Figure("time_use", "Where the time went", alt, rows, {"facet": facet, "spec": area})


def spent_on(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds by kind."""
    by_phase: dict[str, float] = {}
    for record in records:
        for phase, seconds in record["seconds"].items():
            by_phase[phase] = by_phase.get(phase, 0.0) + seconds
    return {kind.name: sum(by_phase.get(phase, 0.0) for phase in kind.phases) for kind in KINDS}


def waiting(records: Sequence[Mapping[str, Any]]) -> float:
    """The share of a stage's time that it waited."""
    spent = spent_on(records)
    whole = sum(spent.values())
    return spent[KINDS[0].name] / whole if whole else 0.0


def distributions(run: RunReader) -> Iterator[Figure]:
    """How late gradients were learnt from, and how full the queues were."""
    lags = {f"stage {k}": [r["lag"]["mean"] for r in rs if r["lag"]] for k, rs in run.records.items()}
    yield from _distribution("lag", "Lag, batches (means of half a second)", lags)
    queues: dict[str, list[float]] = {}
    for k, records in run.records.items():
        for record in records:
            for name, depth in record["queues"].items():
                queues.setdefault(f"stage {k}, {name}", []).append(depth)
    yield from _distribution("queues", "Messages in the queues", queues)


def _distribution(name: str, title: str, values: Mapping[str, Sequence[float]]) -> Iterator[Figure]:
    rows = [
        {"of": which, "from": low, "to": high, "records": count}
        for which, found in values.items()
        for low, high, count in histogram(found)
    ]
    if not rows:
        return
    encoding = {
        "x": {"field": "from", "type": "quantitative", "title": title, "bin": {"binned": True}},
        "x2": {"field": "to"},
        "y": {"field": "records", "type": "quantitative", "title": "records", "stack": None},
        "color": {"field": "of", "type": "nominal", "title": None},
        "tooltip": [{"field": field, "type": "nominal"} for field in ("of", "from", "to", "records")],
    }
    chart = {"mark": {"type": "bar", "opacity": 0.6}, "encoding": encoding}
    yield Figure(f"distribution_of_{name}", title, f"Distribution: {title}, by stage.", rows, chart, 180)


def timeline(run: RunReader) -> Iterator[Figure]:
    """The steps that were traced; the first of them where they are very many."""
    try:
        events = read_trace(run.run_dir.trace)["traceEvents"]
        spans = [event for event in events if event.get("ph") == "X"]
        rows = [
            {
                "stage": f"stage {span['tid'] - 1}",
                "from": span["ts"] / 1000,
                "to": (span["ts"] + span["dur"]) / 1000,
                "phase": KIND_OF.get(span["name"], span["name"]),
                "batch": span["args"].get("batch"),
            }
            for span in sorted(spans, key=lambda span: span["ts"])[:MOST_SPANS]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if not rows:
        return
    encoding = {
        "x": {
            "field": "from",
            "type": "quantitative",
            "title": "milliseconds",
            "scale": {"nice": False, "zero": False},
        },
        "x2": {"field": "to"},
        "y": {"field": "stage", "type": "nominal", "title": None},
        "color": {"field": "phase", **_COLOUR},
        "tooltip": [{"field": field, "type": "nominal"} for field in ("stage", "phase", "batch", "from", "to")],
    }
    zoom = [{"name": "zoom", "select": {"type": "interval", "encodings": ["x"]}, "bind": "scales"}]
    count = len({row["stage"] for row in rows})
    alt = f"What each of {count} stages did when, over {rows[-1]['to'] - rows[0]['from']:.0f} milliseconds of traced steps."
    first = "" if len(spans) <= MOST_SPANS else f" (the first {MOST_SPANS:,} of {len(spans):,} spans)"
    chart = {"mark": {"type": "bar", "clip": True}, "encoding": encoding, "params": zoom}
    yield Figure("timeline", f"Timeline of the traced steps{first}", alt, rows, chart, 40 * count + 20)
