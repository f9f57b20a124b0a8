"""Settings of a training: where a run is kept, and when."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..foundation.option import option, path, steps_or_epoch, whole
from ..foundation.steps import profiled, traced


@dataclass(frozen=True)
class Files:
    """Where a run is kept, and when."""

    run_dir: Path | None = option(
        None, "directory of the run's files; default of the command line: runs/<date-time>", path, metavar="DIR"
    )
    resume: Path | None = option(None, "run directory, or checkpoint in one, to go on from", path, metavar="RUN_DIR")
    checkpoint_every: int | str = option(
        0, "batches between checkpoints, or `epoch`; 0: at the end only", steps_or_epoch, metavar="STEPS|epoch"
    )
    keep_checkpoints: int = option(3, "newest checkpoints to keep", whole(1), metavar="N")
    trace_steps: str | None = option(
        None,
        "write what each worker does when in batches A to B - 1 to trace.json.gz, which Perfetto and chrome://tracing open",
        traced,
        metavar="A:B",
    )
    profile: str | None = option(
        None,
        "let torch.profiler look at batches A to B - 1 of stage K: workers/K.profile.json.gz",
        profiled,
        metavar="K:A:B",
    )
    tensorboard: bool = option(
        False, "write records for TensorBoard, too, to the run directory's tensorboard", action="store_true"
    )
    eval_every: int = option(1, "epochs between evaluations; 0: at the end only", whole(0), metavar="EPOCHS")
