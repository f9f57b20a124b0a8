"""A run's stages are wired, and trained, each in a worker of its own."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..data.brought.reducers import register_reducers
from ..data.samples import check_picklable
from ..record.run import Run
from ..runtime.fork_server import worker_context
from ..runtime.machine.descriptors import check_descriptors, limit_raised
from ..runtime.machine.device import threads_per_worker
from ..runtime.machine.interruption import Interruption
from ..runtime.machine.socket_folder import make_socket_folder
from ..runtime.supervisor import Listener, Patience, Supervisor
from ..runtime.transport.queue_memory import check_queues
from ..runtime.transport.shared_tensors import check_room, share, storages_of
from ..runtime.wiring import Wiring, pickle_stage
from .job import Job
from .plan import Plan
from .prepare import Prepared
from .trained import Trained


def wire(job: Job, prepared: Prepared, plan: Plan) -> Wiring:
    """All that workers are made from. Raises `ConfigError` where it can't be sent to them, or their queues don't fit."""
    config, stream, target = job.config, prepared.stream, prepared.trial.first.target
    make_socket_folder()
    stages = [pickle_stage(stage) for stage in plan.stages]
    check_queues(config.queue_capacity, config.batch_size, plan.outputs, target, job.method.gradients, config.autocast)
    register_reducers()
    storages = storages_of(check_picklable(stream.dataset, "train_set"))
    check_room(storages, "train_set")
    return Wiring(
        config=config,
        stream=stream,
        schedule=prepared.schedule,
        devices=job.devices,
        run_dir=prepared.run_dir,
        stages=stages,
        outputs=plan.outputs,
        target=target,
        storages=storages,
        descriptors_needed=check_descriptors(config.workers, storages),
    )


def train_in_workers(job: Job, wiring: Wiring, run: Run, interruption: Interruption) -> Trained:
    """Train to the end of the stream, or to an early one. Raises `WorkerError`."""
    config = job.config
    with limit_raised(wiring.descriptors_needed):
        share(wiring.storages, "train_set")
        with interruption.held():
            context = worker_context(threads_per_worker(config))
            specs, receivers = wiring.connect(context)
        listener = Listener(
            on_start=run.on_start,
            on_record=run.on_record,
            on_cut=run.on_cut,
            on_ready=run.progress.on_ready,
            on_restart=run.progress.on_restart,
            on_failure=partial(_salvage, job, run),
        )
        patience = Patience(config.start_timeout, config.heartbeat_timeout, config.max_restarts)
        supervisor = Supervisor(context, specs, receivers, listener, patience, interruption)
        totals = supervisor.run()
    return Trained(totals, supervisor.deaths)


def _salvage(job: Job, run: Run, snapshots: list[tuple[int, dict[str, Any]]]) -> None:
    """Keep the stages' last snapshots of a run that failed as a checkpoint, where a run can go on from them.

    They need not be of the same batch. With a fixed lag the result is to depend on the seed alone, so there they must.
    """
    steps = [step for step, _ in snapshots]
    is_exact = job.config.effective_lag == 1 and job.config.waits and len(set(steps)) == 1
    if len(snapshots) == job.config.workers and min(steps) > 0 and (is_exact or job.config.effective_lag is None):
        run.on_failure(min(steps), [{**state, "pending": [], "gradients": {}} for _, state in snapshots])
