"""A run's stages are wired, and trained, each in a worker of its own: those of this host."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from ..data.brought.reducers import register_reducers
from ..data.samples import check_picklable
from ..record.run import Run
from ..record.run_dir import RunDir
from ..runtime.cuts.whole import Gathered, WholeCuts
from ..runtime.events import to_bytes
from ..runtime.fork_server import worker_context
from ..runtime.hosts.first_host import FirstHost
from ..runtime.hosts.group import Group, Hosts
from ..runtime.hosts.other_host import OtherHost, SentCuts
from ..runtime.hosts.outside import Outside
from ..runtime.hosts.wire.conversation import Message
from ..runtime.listener import Listener
from ..runtime.machine.descriptors import check_descriptors, limit_raised
from ..runtime.machine.interruption import Interruption
from ..runtime.machine.socket_folder import make_socket_folder
from ..runtime.supervisor import Patience, Supervisor
from ..runtime.transport.queue_memory import check_queues
from ..runtime.transport.shared_tensors import check_room, share, storages_of
from ..runtime.wiring import Wiring, pickle_stage
from .job import Job
from .plan import Plan
from .prepare import Prepared
from .trained import Trained


def wire(job: Job, prepared: Prepared, plan: Plan, hosts: Hosts) -> Wiring:
    """All that workers are made from. Raises `ConfigError` where it can't be sent to them, or their queues don't fit."""
    config, stream, target, here = job.config, prepared.stream, prepared.trial.first.target, job.place.stages
    make_socket_folder()
    stages = [pickle_stage(plan.stages[k]) for k in here]
    joined = plan.outputs[max(here.start - 1, 0) : min(here.stop, config.workers - 1) + 1]
    check_queues(config.queue_capacity, config.batch_size, joined, target, job.method.gradients, config.autocast)
    register_reducers()
    storages = storages_of(check_picklable(stream.dataset, "train_set")) if 0 in here else []
    check_room(storages, "train_set")
    return Wiring(
        config=config,
        place=job.place,
        clock=hosts.clock,
        stream=stream,
        schedule=prepared.schedule,
        devices=job.devices,
        run_dir=prepared.run_dir,
        stages=stages,
        outputs=plan.outputs,
        target=target,
        storages=storages,
        descriptors_needed=check_descriptors(len(here), storages),
    )


def train_in_workers(job: Job, wiring: Wiring, run: Run, interruption: Interruption, hosts: Hosts) -> Trained:
    """Train to the end of the stream, or to an early one. Raises `WorkerError` and `HostError`."""
    listener = Listener(
        on_start=run.on_start,
        on_record=run.on_record,
        on_ready=run.progress.on_ready,
        on_restart=run.progress.on_restart,
        on_failure=partial(_salvage, job, run),
    )
    cuts = WholeCuts(job.config.workers, wiring.schedule.start, run.on_cut)
    if not isinstance(hosts, Group):
        return _supervise(job, wiring, interruption, hosts, listener, Outside(), cuts)
    tell, end_early = run.progress.on_note, interruption.end_early
    first = FirstHost(hosts, listener, cuts, wiring.run_dir, tell, end_early)
    _supervise(job, wiring, interruption, hosts, listener, first, cuts)
    ranks = range(hosts.size)
    return Trained(
        [totals for rank in ranks for totals in first.totals[rank]],
        [deaths for rank in ranks for deaths in first.deaths[rank]],
    )


def tell_done(hosts: Hosts, summary: dict[str, Any], evaluations: list[dict[str, Any]], state: dict[str, Any]) -> None:
    """Tell the other hosts what the run came to."""
    if isinstance(hosts, Group):
        hosts.end_links()
        plain = json.loads(json.dumps(summary, default=str))
        hosts.send_all("done", to_bytes(state), summary=plain, evaluations=evaluations)


def train_for_first(job: Job, wiring: Wiring, run_dir: RunDir, interruption: Interruption, hosts: Group) -> Message:
    """Train the stages of a host that is not the first, until that one says what the run came to."""
    other = OtherHost(hosts, run_dir.path)
    listener = other.listener(job.progress.on_warning)
    _supervise(job, wiring, interruption, hosts, listener, other, SentCuts(hosts, job.config.workers))
    assert other.done is not None
    return other.done


def _supervise(
    job: Job,
    wiring: Wiring,
    interruption: Interruption,
    hosts: Hosts,
    listener: Listener,
    outside: Outside,
    cuts: Gathered,
) -> Trained:
    config = job.config
    with limit_raised(wiring.descriptors_needed):
        share(wiring.storages, "train_set")
        with interruption.held():
            context = worker_context(job.threads)
            specs, receivers, ends = wiring.connect(context)
        hosts.open_links(ends)
        patience = Patience(config.start_timeout, config.heartbeat_timeout, config.max_restarts)
        supervisor = Supervisor(context, specs, receivers, listener, patience, interruption, cuts, outside=outside)
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
