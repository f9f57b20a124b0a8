"""A run, step by step, on this host and with the others."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..config import TrainerConfig
from ..foundation.error import ConfigError
from ..learning.blocks import copy_of
from ..network.split import joined as as_given
from ..record.checkpoint import list_checkpoints
from ..record.evaluate import Evaluation
from ..record.result import TrainResult
from ..record.run import Run
from ..record.run_dir import RunDir
from ..runtime.events import from_bytes
from ..runtime.fork_server import end_server
from ..runtime.hosts.group import Group, Hosts, joined
from ..runtime.hosts.host_error import HostError
from ..runtime.hosts.torchrun import HostEnvironment
from ..runtime.machine.interruption import Interruption
from ..runtime.wiring import Wiring
from .agreement import agreed, agreed_plan, located
from .in_process import train_in_process
from .in_workers import tell_done, train_for_first, train_in_workers, wire
from .job import Job
from .plan import Plan
from .prepare import Prepared, prepare
from .record import open_records
from .stream import sized


@dataclass(frozen=True)
class Given:
    """What `Trainer.fit` was called with."""

    train_set: Any
    eval_set: Any
    epochs: int | None
    steps: int | None
    settings: dict[str, Any]  # added to config.json
    runs: Path | None


@contextmanager
def met(config: TrainerConfig, hosts: Hosts | None) -> Iterator[Hosts]:
    """The hosts of a run: those that have met already, or all that torchrun has started."""
    if hosts is not None:
        yield hosts
        return
    with joined(HostEnvironment.read(), config.start_timeout, config.link_timeout) as hosts:
        yield hosts


def run_job(job: Job, given: Given, interruption: Interruption, hosts: Hosts) -> TrainResult:
    """Prepare, agree, plan, wire, train, record."""
    if job.config.serial and hosts.size > 1:
        raise ConfigError(
            "serial", True, f"one process has all stages, and there are {hosts.size} hosts; allowed: False"
        )
    job = dataclasses.replace(job, place=hosts.place(job.config.workers), addresses=hosts.addresses)
    with located(job, given.runs, hosts) as (job, runs):
        job.progress.on_phase("looking at the data and the network")
        job = sized(job, given.train_set)
        prepared = prepare(job, given.train_set, given.eval_set, given.epochs, given.steps, runs)
        job, prepared = agreed(job, prepared, given.settings, hosts)
        job.progress.on_phase("cutting the network into stages")
        plan = agreed_plan(job, prepared, hosts)
        wiring = None if job.config.serial else wire(job, prepared, plan, hosts)
        with interruption.handled():
            if isinstance(hosts, Group) and not hosts.is_first and wiring is not None:
                return _run_elsewhere(job, prepared, wiring, interruption, hosts)
            run = open_records(job, prepared, plan, given.settings, interruption)
            return _run_here(job, prepared, plan, wiring, run, interruption, hosts)


def _run_here(
    job: Job,
    prepared: Prepared,
    plan: Plan,
    wiring: Wiring | None,
    run: Run,
    interruption: Interruption,
    hosts: Hosts,
) -> TrainResult:
    """On the first host, or the only one."""
    try:
        with run.open(), run.progress.running(plan.layers, prepared.stream.steps):
            if wiring is None:
                trained = train_in_process(job, prepared, plan, run, interruption)
            else:
                trained = train_in_workers(job, wiring, run, interruption, hosts)
    except HostError as error:
        raise error.and_then(_what_is_left(prepared.run_dir)) from None
    result = run.result(trained.summary(job, prepared, plan), lambda: interruption.number)
    tell_done(hosts, result.summary, [each.as_dict() for each in result.history], result.model.state_dict())
    return result


def _what_is_left(run_dir: RunDir | None) -> str:
    """From where a run can go on whose hosts were lost."""
    found = [] if run_dir is None else list_checkpoints(run_dir.checkpoints)
    if run_dir is None or not found:
        return "there is no checkpoint to go on from (--checkpoint-every)"
    return f"--resume {run_dir.path} goes on from {found[-1].name}"


def _discard(run_dir: RunDir) -> None:
    """End and remove what a host leaves behind whose process ends in the middle of a run."""
    end_server()
    shutil.rmtree(run_dir.path.parent, ignore_errors=True)


def _run_elsewhere(
    job: Job, prepared: Prepared, wiring: Wiring, interruption: Interruption, hosts: Group
) -> TrainResult:
    """On a host that is not the first: train its stages, and return what the first says that all came to."""
    assert prepared.run_dir is not None
    prepared.run_dir.create(resuming=prepared.checkpoint is not None)
    interruption.discard = partial(_discard, prepared.run_dir)
    here = ", ".join(map(str, job.place.stages))
    of = f"host {hosts.rank} of {hosts.size}: stage{'s' * (len(job.place.stages) > 1)} {here}"
    job.progress.on_note(f"{of}; host 0 ({hosts.addresses[0]}) shows the run")
    done = train_for_first(job, wiring, prepared.run_dir, interruption, hosts)
    model = as_given(copy_of(prepared.model)).cpu()
    model.load_state_dict(from_bytes(done.body))
    summary = done.values["summary"]
    history = [Evaluation(**each) for each in done.values["evaluations"]]
    return TrainResult(model, summary["test_error"], history, summary, None, interruption.number, [])
