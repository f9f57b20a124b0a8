"""The first step of a run: data, network, directory and checkpoint are looked at. Nothing is made or started."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from ..config import TrainerConfig
from ..data.batches import Batches
from ..data.samples import refused
from ..foundation.error import ConfigError
from ..foundation.steps import Steps, read_profile
from ..learning.autocast import autocast
from ..learning.structure import mapped
from ..learning.synthesizers import DEFAULTS
from ..network.outputs import materialized
from ..network.trial import Trial, check_one_row, optimizer_name, try_out
from ..record.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint
from ..record.early_stopping import EarlyStopping
from ..record.run_dir import RunDir
from ..record.schedule import Schedule
from ..runtime.machine.compiler import no_compiler
from ..view.tensorboard import check_installed
from .job import Job
from .metrics import make_early_stopping, make_metrics
from .stream import make_eval_set, make_stream


@dataclass(frozen=True)
class Prepared:
    """What is trained on, and from where; and what one batch came to."""

    model: nn.Sequential  # the user's, or, where that has lazy parameters, a copy that a batch went through
    stream: Batches
    eval_set: Dataset | None
    trial: Trial
    run_dir: RunDir | None
    identity: dict[str, Any]  # what this run and one that goes on from it must share
    checkpoint: Checkpoint | None  # to go on from
    schedule: Schedule
    metrics: dict[str, Any]  # of evaluations
    early_stopping: EarlyStopping


def prepare(
    job: Job,
    train_set: object,
    eval_set: object | None,
    epochs: int | None,
    steps: int | None,
    runs: Path | None,
) -> Prepared:
    """Look at everything that is given. Raises `ConfigError`."""
    if job.config.compile and "cpu" in job.devices and (reason := no_compiler()) is not None:
        raise ConfigError("compile", True, reason)
    stream = make_stream(job, train_set, epochs, steps)
    dataset = make_eval_set(job, eval_set)
    run_dir = find_run_dir(job.config, runs)
    model = whole_model(job, stream)
    with autocast(job.config.autocast, torch.device("cpu")):
        trial = try_out(model, job.loss_fn, job.method, stream, dataset, job.condition)
    identity = _identity(job, model, stream, trial)
    checkpoint = _checkpoint(job, model, stream, identity)
    _check_traced(job.config, stream, run_dir)
    if job.config.tensorboard:
        check_installed("tensorboard", True)
        if run_dir is None:
            raise ConfigError("tensorboard", True, "it is written to the run directory; allowed with run_dir")
    schedule = _schedule(job.config, stream, checkpoint, evaluates=dataset is not None)
    metrics = make_metrics(job, trial, dataset)
    early_stopping = make_early_stopping(job, trial, metrics, dataset)
    if run_dir is not None and checkpoint is not None:
        early_stopping.look_back(run_dir.evaluations(checkpoint.step))
    return Prepared(model, stream, dataset, trial, run_dir, identity, checkpoint, schedule, metrics, early_stopping)


def whole_model(job: Job, stream: Batches) -> nn.Sequential:
    """The network, with all its parameters. Raises `ConfigError` where it takes no batch, or not the smallest."""
    with refused("train_set"):
        x = stream[0].x
    with autocast(job.config.autocast, torch.device("cpu")):
        model = materialized(job.model, x, job.config.seed)
        check_one_row(stream, model, mapped(lambda part: part[:1], x))
    return model


def find_run_dir(config: TrainerConfig, runs: Path | None) -> RunDir | None:
    """The directory that the settings name, or a new one among `runs`; checked and not made. None where there is to be none."""
    if config.resume is not None:
        return RunDir.of(config.resume)
    if config.run_dir is not None:
        run_dir = RunDir(config.run_dir)
    elif runs is not None:
        run_dir = RunDir.new(runs)
    else:
        return None
    run_dir.check()
    return run_dir


def _check_traced(config: TrainerConfig, stream: Batches, run_dir: RunDir | None) -> None:
    """Raise `ConfigError` for steps to look at that are never made, or with no place to write what is found."""
    steps = {} if config.trace_steps is None else {"trace_steps": Steps.read(config.trace_steps)}
    steps |= {} if config.profile is None else {"profile": read_profile(config.profile)[1]}
    for name, looked_at in steps.items():
        if run_dir is None:
            raise ConfigError(name, getattr(config, name), "it is written to the run directory; allowed with run_dir")
        if looked_at.last > stream.steps:
            raise ConfigError(name, getattr(config, name), f"the run has {stream.steps} batches; allowed: up to that")


def _identity(job: Job, model: nn.Sequential, stream: Batches, trial: Trial) -> dict[str, Any]:
    config, target = job.config, trial.first.target.contiguous()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {
        "method": config.method,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "samples": stream.samples,
        "targets_checksum": zlib.crc32(target.view(-1).view(torch.uint8).numpy().tobytes()),
        "optimizer": optimizer_name(job.optimizer, trained),
        "synthesizer_hidden": list(config.hidden) if job.method.synthesizer else None,
        "synthesizer": config.synthesizer or (DEFAULTS if job.method.synthesizer and not config.hidden else None),
        "synthesizer_every": config.synthesizer_every,
        "auxiliary_hidden": list(config.auxiliary_hidden) if job.method.auxiliary_head else None,
        "autocast": config.autocast,  # what is under way between the stages has its type
    }


def _schedule(config: TrainerConfig, stream: Batches, checkpoint: Checkpoint | None, evaluates: bool) -> Schedule:
    every, epoch = config.checkpoint_every, stream.steps_per_epoch
    return Schedule(
        start=0 if checkpoint is None else checkpoint.step,
        steps=stream.steps,
        eval_every=config.eval_every * epoch if evaluates else 0,
        checkpoint_every=epoch if every == "epoch" else int(every),
        check_every=config.gradient_check_every,
    )


def _checkpoint(job: Job, model: nn.Sequential, stream: Batches, identity: dict[str, Any]) -> Checkpoint | None:
    resume = job.config.resume
    if resume is None:
        return None
    path = newest_checkpoint(resume)
    checkpoint = load_checkpoint(path)
    checkpoint.check(path, model, identity)
    if checkpoint.step >= stream.steps:
        at = f"it is at step {checkpoint.step} already; allowed: more --epochs or --steps, not {stream.steps} steps in all"
        raise ConfigError("resume", resume, at)
    return checkpoint
