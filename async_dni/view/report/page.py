"""The page: all of a run, or of several, in one file that needs no network."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...record.reading.run_reader import RunReader
from ..cells import blocks
from ..comparison import Row, at_equal, differing, outcomes, settings_of
from .confused import confused_samples
from .figure import Figure
from .reproduce import command
from .results import confusion, curves, gradients, training_loss
from .work import distributions, rates, time_use, timeline, waiting

TEMPLATE = Path(__file__).with_name("page.html")


def figures_of(run: RunReader, others: Sequence[RunReader] = ()) -> list[Figure]:
    """All that there is something to show in."""
    runs = named([run, *others])
    own = (training_loss, rates, time_use, timeline, distributions, gradients, confusion)
    return [*curves(runs), *(figure for kind in own for figure in kind(run))]


def named(runs: Sequence[RunReader]) -> dict[str, RunReader]:
    """By the names of their directories; by their paths, where two have one name."""
    names = [run.path.resolve().name for run in runs]
    return {name if names.count(name) == 1 else str(run.path): run for name, run in zip(names, runs, strict=True)}


def render(run: RunReader, others: Sequence[RunReader], samples: int, javascript: Callable[[], str]) -> str:
    """The page's HTML; `javascript` gives what draws its charts."""
    import jinja2

    found, why = confused_samples(run, samples)
    everything = [run, *others]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    figures = figures_of(run, others)
    return environment.from_string(TEMPLATE.read_text()).render(
        name=run.path.resolve().name,
        state=run.state,
        key_figures=key_figures(run),
        notes=[(name, note) for name, each in named(everything).items() for note in each.notes],
        figures=figures,
        specs=_script({figure.name: figure.spec() for figure in figures}),
        runs=list(named(everything)),
        differences=differing(everything) if others else [],
        outcomes=outcomes(everything) if others else [],
        comparisons=comparisons(everything) if others else [],
        settings=[
            Row(name, (value,)) for name, value in settings_of(run.config).items() if value not in (None, [], "")
        ],
        workers=workers(run),
        happenings=happenings(run),
        samples=found,
        no_samples=why,
        command=command(run.config),
        environment=run.config.get("environment", {}),
        made=time.strftime("%Y-%m-%d %H:%M"),
        javascript=javascript(),
    )


def comparisons(runs: Sequence[RunReader]) -> list[tuple[str, list[Row]]]:
    """The error, or where there is none the loss, at equal steps and at equal seconds."""
    figure = (
        "test_error"
        if all(run.evaluations and run.evaluations[-1]["test_error"] is not None for run in runs)
        else "test_loss"
    )
    tables = (("step", "after as many batches"), ("wall_seconds", "after as many seconds"))
    return [(f"{figure.replace('_', ' ')} {what}", at_equal(runs, by, figure)) for by, what in tables]


def key_figures(run: RunReader) -> list[tuple[str, str]]:
    """What it came to, in a few words each."""
    summary = run.summary or {}
    last = run.evaluations[-1] if run.evaluations else {}
    error = summary.get("test_error", last.get("test_error"))
    found = [("test error", None if error is None else f"{error:.2f} %")]
    found += [("steps", f"{run.step:,} of {run.steps:,}" if run.steps else f"{run.step:,}")]
    if rate := summary.get("samples_per_second"):
        found.append(("samples a second", f"{rate:,.0f}"))
    seconds = summary.get("wall_seconds", last.get("wall_seconds"))
    found.append(("training", None if seconds is None else f"{seconds:,.1f} s"))
    found.append(("method", run.config.get("method")))
    found.append(("workers", str(run.num_workers)))
    return [(name, str(value)) for name, value in found if value is not None]


def workers(run: RunReader) -> list[dict[str, Any]]:
    """A row a stage."""
    totals: dict[int, Mapping[str, Any]] = {each["index"]: each for each in (run.summary or {}).get("workers", [])}
    devices = run.config.get("used", {}).get("devices") or []
    rows = []
    for k in range(run.num_workers):
        records, total = run.records.get(k, []), totals.get(k, {})
        last = records[-1] if records else {}
        layers = run.layers[k] if k < len(run.layers) else []
        lag = total.get("mean_lag")
        rows.append(
            {
                "stage": k,
                "device": devices[k] if k < len(devices) else "",
                "blocks": blocks(layers) if layers else "",
                "batches": f"{last.get('step', total.get('steps', 0)):,}",
                "updates": f"{total['updates']:,}" if "updates" in total else "",
                "waiting": f"{waiting(records):.0%}" if records else "",
                "mean lag": "" if lag is None else f"{lag:.1f}",
                "dropped": last.get("dropped", ""),
                "skipped": last.get("skipped", ""),
                "gradients lost": last.get("lost", ""),
                "restarts": run.restarts.get(k, 0),
                "memory": f"{last['rss_bytes'] / 2**20:,.0f} MB" if last else "",
            }
        )
    return rows


TOLD = ("start", "restart", "warning", "note", "checkpoint", "end")


def happenings(run: RunReader) -> list[tuple[str, str, str]]:
    """When, what, and a sentence."""
    began = run.began
    rows = []
    for event in run.events:
        if event["kind"] in TOLD:
            when = time.strftime("%H:%M:%S", time.localtime(event["time"]))
            since = "" if began is None else f" ({event['time'] - began:+.1f} s)"
            text = event.get("message") or ("" if "step" not in event else f"step {event['step']:,}")
            rows.append((when + since, event["kind"], text))
    return rows


def _script(value: Any) -> str:
    """JSON that can stand in a script: nothing in it ends the element."""
    return json.dumps(value, separators=(",", ":"), default=str).replace("<", "\\u003c").replace("\u2028", "\\u2028")
