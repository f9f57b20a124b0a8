"""Figures of how good the network became: error and loss, gradients, which class was taken for which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...record.reading.run_reader import RunReader
from .figure import Figure, axis, lines
from .series import thinned

NAMES = {"test_error": "test error, %", "test_loss": "test loss"}
BY = {"step": "batches", "wall_seconds": "seconds of training"}


def curves(runs: Mapping[str, RunReader]) -> Iterator[Figure]:
    """Error and loss over batches and over seconds, of all runs."""
    for figure, title in NAMES.items():
        for by, over in BY.items():
            rows = [
                {by: at, figure: value, "run": name}
                for name, run in runs.items()
                for at, value in thinned(
                    [(each[by], each[figure]) for each in run.evaluations if each[figure] is not None]
                )
            ]
            if rows:
                last = "; ".join(
                    f"{name}: {own[-1][figure]:.4g}"
                    for name in runs
                    if (own := [row for row in rows if row["run"] == name])
                )
                alt = f"{title} over {over}. At the end: {last}."
                chart = lines(axis(by, over), axis(figure, title), "run", "run", points=len(rows) < 100)
                short = "steps" if by == "step" else "seconds"
                yield Figure(f"{figure}_over_{short}", f"{title[0].upper()}{title[1:]}, over {over}", alt, rows, chart)


def training_loss(run: RunReader) -> Iterator[Figure]:
    """The loss that each stage sees in training, and its synthesizer's."""
    for name, title in (("loss", "training loss"), ("synthesizer_loss", "synthesizer's loss")):
        rows = [
            {"step": step, name: value, "stage": f"stage {k}"}
            for k, records in run.records.items()
            for step, value in thinned([(r["step"], r[name]) for r in records if r[name] is not None])
        ]
        if rows:
            chart = lines(axis("step", "batches"), axis(name, title), "stage", None)
            yield Figure(f"training_{name}", title.capitalize(), f"{title} of each stage over batches.", rows, chart)


def gradients(run: RunReader) -> Iterator[Figure]:
    """How close the gradients that stages update with are to the true ones."""
    for measure, title in (("cosine", "cosine to the true gradient"), ("error", "relative error")):
        rows = [
            {"step": check["step"], measure: found[what][measure], "stage": f"stage {found['stage']}, {what}"}
            for check in run.gradient_checks
            for found in check["stages"]
            for what in ("synthetic", "bootstrapped")
            if found[what] is not None and found[what][measure] is not None
        ]
        if rows:
            chart = lines(axis("step", "batches"), axis(measure, title), "stage", None, points=len(rows) < 200)
            alt = f"{title} of synthetic and bootstrapped gradients, by stage, over batches."
            yield Figure(f"gradient_{measure}", f"Gradient quality: {title}", alt, rows, chart)


MOST_CLASSES = 40  # that a picture has room for


def confusion(run: RunReader) -> Iterator[Figure]:
    """Of the last evaluation."""
    table: Sequence[Sequence[int]] | None = run.evaluations[-1]["confusion"] if run.evaluations else None
    if not table or len(table) > MOST_CLASSES:
        return
    rows = [
        {"true": true, "taken for": found, "samples": count, "share": count / max(1, sum(row))}
        for true, row in enumerate(table)
        for found, count in enumerate(row)
    ]
    worst = most_confused(table)[:3]
    told = (
        "; ".join(f"{true} taken for {found}: {count}" for true, found, count in worst) or "none is taken for another"
    )
    encoding: dict[str, Any] = {
        "x": {"field": "taken for", "type": "ordinal", "axis": {"labelAngle": 0}},
        "y": {"field": "true", "type": "ordinal"},
        "color": {
            "field": "share",
            "type": "quantitative",
            "title": "share of the class",
            "scale": {"type": "sqrt", "scheme": "blues"},
        },
        "tooltip": [{"field": name, "type": "quantitative"} for name in ("true", "taken for", "samples", "share")],
    }
    texts = {
        "mark": {"type": "text", "fontSize": 10},
        "encoding": {
            "text": {"field": "samples", "type": "quantitative"},
            "color": {"condition": {"test": "datum.share > 0.4", "value": "white"}, "value": "black"},
        },
    }
    layer: list[Any] = [{"mark": "rect", "encoding": {"color": encoding.pop("color")}}]
    layer += [texts] if len(table) <= 20 else []
    alt = f"Confusion matrix of the last evaluation. Most confused: {told}."
    yield Figure("confusion", "Which class was taken for which", alt, rows, {"encoding": encoding, "layer": layer}, 320)


def most_confused(table: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """True class, what it was taken for, how often; most often first."""
    pairs = [(t, f, n) for t, row in enumerate(table) for f, n in enumerate(row) if t != f and n]
    return sorted(pairs, key=lambda pair: -pair[2])
