"""Records and evaluations in a person's words: the cells of a table, a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..record.evaluate import Evaluation
from ..record.gradients.check import GradientCheck
from ..record.telemetry import WAITS

COLUMNS = ("stage", "blocks", "pid", "step", "samples/s", "waiting", "queued", "lag", "loss", "synth. loss", "dropped")


def row(worker: int, layers: Sequence[str], record: dict[str, Any]) -> list[str]:
    """A worker's record as the cells of `COLUMNS`."""
    spent = sum(record["seconds"].values()) or 1.0
    waiting = sum(record["seconds"][phase] for phase in WAITS) / spent
    lag = record["lag"]
    return [
        str(worker),
        blocks(layers),
        str(record["pid"]),
        str(record["step"]),
        f"{record['samples_per_second']:,.0f}",
        f"{waiting:.0%}",
        " ".join(f"{name[0]}{depth}" for name, depth in record["queues"].items()),
        f"{lag['min']}/{lag['mean']:.1f}/{lag['max']}" if lag else "",
        number(record["loss"]),
        number(record["synthesizer_loss"]),
        str(record["dropped"]),
    ]


def blocks(layers: Sequence[str]) -> str:
    """The names of a stage's blocks, shortened to the first and the last."""
    return layers[0] if len(layers) == 1 else f"{layers[0]}…{layers[-1]}"


def describe_evaluation(evaluation: Evaluation, steps: int) -> str:
    """An evaluation as a line for a person."""
    error = "" if evaluation.test_error is None else f"test error {evaluation.test_error:.2f} %  "
    where = f"epoch {evaluation.epoch:5.1f}  step {evaluation.step:>{len(str(steps))}}/{steps}"
    found = describe_metrics(evaluation.metrics)
    return f"{where}  {error}test loss {evaluation.test_loss:.4f}  {found}after {evaluation.wall_seconds:.1f} s"


def describe_gradient_check(check: GradientCheck, steps: int) -> str:
    """A gradient check as a line for a person."""
    where = f"gradients    step {check.step:>{len(str(steps))}}/{steps}"
    return f"{where}  {describe_gradients(check.as_dict()['stages'])}"


def describe_gradients(stages: Sequence[Mapping[str, Any]]) -> str:
    """How good each stage's gradients are, as a part of a line: of synthetic ones and, in brackets, of what comes back."""
    cells = []
    for found in stages:
        told = _closeness(found["synthetic"])
        # through the last stage comes the true gradient
        if found["bootstrapped"] is not None and found is not stages[-1]:
            told += f" (bootstrapped {_closeness(found['bootstrapped'])})"
        cells.append(f"stage {found['stage']} {told}")
    return "  ".join(cells)


def _closeness(found: Mapping[str, float | None]) -> str:
    """To the true gradient; a dash where there is no such number."""
    cosine, error = (found[name] for name in ("cosine", "error"))
    return f"cos {'–' if cosine is None else f'{cosine:.2f}'} err {'–' if error is None else f'{error:.2f}'}"


def describe_metrics(metrics: Mapping[str, float]) -> str:
    """Metrics as a part of a line for a person, with the space that follows."""
    return "".join(f"{name} {value:.5g}  " for name, value in metrics.items())


def number(value: float | None) -> str:
    """A number in a few digits; nothing where there is none."""
    return "" if value is None else f"{value:.4g}"


def clock(seconds: float) -> str:
    """Hours, minutes, seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
