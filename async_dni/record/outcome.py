"""What a run came to, put together and written: its summary, the trained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .early_stopping import EarlyStopping
from .problems import Problems
from .reading.run_reader import RunReader
from .run_dir import RunDir, write_json
from .trace.merge import write_trace


def best_of(stopping: EarlyStopping) -> dict[str, Any] | None:
    """The best evaluation, and what it is the best by, for summary.json."""
    if stopping.best is None:
        return None
    best = stopping.best.as_dict()
    return {"by": stopping.metric, **{name: best[name] for name in best if name != "confusion"}}


def times_of(workers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """From the first batch taken to the last update made; takes these moments out of the workers' totals."""
    started = [worker.pop("started") for worker in workers]
    ended = [worker.pop("ended") for worker in workers]
    began = min((moment for moment in started if moment is not None), default=0.0)
    last = max((moment for moment in ended if moment is not None), default=began)
    samples = workers[0]["samples"]
    seconds = last - began
    return {"samples": samples, "wall_seconds": seconds, "samples_per_second": samples / seconds if seconds else 0.0}


def write_outcome(
    run_dir: RunDir,
    problems: Problems,
    state: dict[str, Tensor],
    averaged_model: nn.Module | None,
    summary: dict[str, Any],
    traces: bool,
) -> None:
    """Write model.pt, model-ema.pt where weights were averaged, trace.json.gz where steps were traced, and summary.json.

    What can't be written is told.
    """
    with problems.of_writing(run_dir.model):
        run_dir.write_model(state)
    if averaged_model is not None:
        with problems.of_writing(run_dir.averaged_model):
            run_dir.write_model(averaged_model.state_dict(), run_dir.averaged_model)
    if traces:
        with problems.of_writing(run_dir.trace):
            write_trace(run_dir, RunReader(run_dir.path).events, [worker["layers"] for worker in summary["workers"]])
    with problems.of_writing(run_dir.summary):
        write_json(run_dir.summary, {**summary, "problems": problems.left})
