"""A run's stages are trained in this process, in a defined order."""

from __future__ import annotations

import torch

from ..learning.random_state import RandomState
from ..record.run import Run
from ..record.schedule import CutKind
from ..record.telemetry import record_all
from ..record.trace.tracing import Traced
from ..runtime.machine.interruption import Interruption
from ..runtime.serial import Serial
from .job import Job
from .plan import Plan
from .prepare import Prepared
from .trained import Trained


def train_in_process(job: Job, prepared: Prepared, plan: Plan, run: Run, interruption: Interruption) -> Trained:
    """Train to the end of the stream, or to an early one. Raises `DivergenceError`."""
    threads, states = torch.get_num_threads(), RandomState.capture()
    torch.set_num_threads(job.threads)
    try:
        return _drive(job, prepared, plan, run, interruption)
    finally:
        states.restore()
        torch.set_num_threads(threads)


def _drive(job: Job, prepared: Prepared, plan: Plan, run: Run, interruption: Interruption) -> Trained:
    stages = [stage.build(torch.device("cpu")) for stage in plan.stages]
    serial = Serial(stages, job.config.effective_lag or 1, job.config.seed)
    states = [stage.state for stage in plan.stages if stage.state is not None]
    if states:
        serial.restore(states)

    def before_batch(step: int) -> bool:
        interruption.check()
        for stage, tracing in zip(stages, tracings, strict=True):
            if tracing is not None:
                tracing.before(step, stage.pending)
        if (kind := prepared.schedule.cut_after(step)) is not None:
            run.on_cut(step, serial.cut(kind), kind, False)
            run.wait()  # random states are the process's, and an early end is to come after this very step
        return not interruption.is_ending

    asked = Traced.read(job.config.trace_steps, None, 0)
    tracings = [asked.of(prepared.run_dir, k, dict) for k in range(len(stages))]
    for telemetry, tracing in zip(serial.telemetry, tracings, strict=True):
        telemetry.spans = None if tracing is None else tracing.spans

    run.on_start()
    with record_all(serial.telemetry, prepared.run_dir, run.on_record):
        prepared.stream.begin(prepared.schedule.start)
        try:
            step = serial.run(prepared.stream, prepared.schedule.start, before_batch)
        finally:
            prepared.stream.close()
        for tracing in filter(None, tracings):
            tracing.end()
    run.on_cut(step, serial.states(), CutKind.FULL, True)
    run.wait()
    return Trained(serial.totals(), [[] for _ in stages])
