"""The records of a run are opened: its directory and config.json, and what becomes of its cuts."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from ..learning.blocks import named_blocks
from ..record.evaluator import Evaluator
from ..record.gradients.checker import GradientChecker
from ..record.journal import Journal
from ..record.problems import Problems
from ..record.progress import Progress
from ..record.run import Run
from ..record.run_dir import RunDir
from ..runtime.fork_server import end_server
from ..runtime.machine.device import crowded
from ..runtime.machine.interruption import Interruption
from ..view.tensorboard import FOLDER, TensorBoardProgress
from .habits import changed_schedule
from .job import Job
from .plan import Plan
from .prepare import Prepared


def open_records(job: Job, prepared: Prepared, plan: Plan, settings: dict[str, Any], interruption: Interruption) -> Run:
    """Make the run's directory, if it has one, and tell what the run goes on from. Raises `ConfigError`."""
    run_dir, checkpoint = prepared.run_dir, prepared.checkpoint
    if run_dir is not None:
        run_dir.create(resuming=checkpoint is not None)
    interruption.discard = partial(_discard, run_dir)  # the directory is ours now
    planned = None if run_dir is None or checkpoint is None else run_dir.planned_steps()
    config = _config(job, prepared, plan, settings)
    if run_dir is not None:
        made = {} if checkpoint is not None else {"run_dir": run_dir.path}
        run_dir.write_config({**config, **made})
    problems = Problems(job.progress.on_warning)
    progress = _kept(job, run_dir, problems, prepared.schedule.start)
    progress.on_config(config)
    if not job.config.serial and (warning := crowded(job.config, job.place.workers_beside)):
        progress.on_warning(warning)
    if checkpoint is not None:
        models = "synthesizers" * job.method.synthesizer or "auxiliary heads" * job.method.auxiliary_head
        if models and (afresh := checkpoint.new_cuts(plan.split)):
            progress.on_note(f"new cuts after blocks {', '.join(afresh)}: their {models} start afresh")
        progress.on_note(f"going on from step {checkpoint.step}")
        if note := changed_schedule(job, checkpoint.step, prepared.stream.steps, planned):
            progress.on_note(note)
    run = Run(
        prepared.model,
        _evaluator(job, prepared, interruption),
        _checker(prepared, plan),
        run_dir,
        progress,
        steps=prepared.stream.steps,
        eval_every=prepared.schedule.eval_every,
        keep_checkpoints=job.config.keep_checkpoints,
        threads=job.threads,
        about={
            "identity": prepared.identity,
            "blocks": [name for name, _ in named_blocks(prepared.model)],
            "split": plan.split,
        },
        wall_seconds=0.0 if checkpoint is None else checkpoint.wall_seconds,
        check=interruption.check,
        end_early=interruption.end_early,
        early_stopping=prepared.early_stopping,
        callbacks=job.callbacks,
        problems=problems,
        traces=job.config.trace_steps is not None,
    )
    run.callbacks.on_begin(config)
    return run


def _kept(job: Job, run_dir: RunDir | None, problems: Problems, start: int) -> Progress:
    """Who is told of the run: the display, and what keeps it in files."""
    if run_dir is None:
        return job.progress
    progress: Progress = Journal(job.progress, run_dir, problems, start)
    if job.config.tensorboard:
        progress = TensorBoardProgress(progress, run_dir.path / FOLDER, problems, start)
    return progress


def _evaluator(job: Job, prepared: Prepared, interruption: Interruption) -> Evaluator | None:
    if prepared.eval_set is None:
        return None
    return Evaluator(
        prepared.model, job.loss_fn, prepared.eval_set, prepared.stream, prepared.metrics, interruption.check
    )


def _checker(prepared: Prepared, plan: Plan) -> GradientChecker | None:
    if not prepared.schedule.check_every:
        return None
    return GradientChecker(plan.stages, prepared.stream, prepared.schedule, prepared.trial.first)


def _discard(run_dir: RunDir | None) -> None:
    """End and remove what a run would leave behind whose process ends in the middle of it."""
    end_server()
    if run_dir is not None:
        run_dir.remove_unfinished()


def _config(job: Job, prepared: Prepared, plan: Plan, settings: dict[str, Any]) -> dict[str, Any]:
    """Every setting, as given, and under "used" what came of those that were left to us."""
    given = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in {**dataclasses.asdict(job.config), **settings}.items()
    }
    used = {
        "split": plan.split,
        "devices": job.devices,
        **_hosts(job),
        "threads_per_worker": job.threads,
        "synthesizer_hidden": list(job.config.hidden),
        "synthesizer_matmul_precision": [
            stage.synthesizer_matmul_precision for stage in plan.stages if stage.synthesizer is not None
        ],
        "lag": job.config.effective_lag,
        "steps": prepared.stream.steps,
        "steps_per_epoch": prepared.stream.steps_per_epoch,
    }
    return {**given, "used": used}


def _hosts(job: Job) -> dict[str, Any]:
    """Of several: their addresses, and which of them has each stage."""
    if len(job.place.counts) == 1:
        return {}
    return {"hosts": list(job.addresses), "host_of_stage": [job.place.host_of(k) for k in range(job.config.workers)]}
