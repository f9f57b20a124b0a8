"""The facade: `Trainer(model, …).fit(data)` cuts a network into stages and trains it, each stage in its own process."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import TrainerConfig
from .fit.heads import own_head
from .fit.job import Job, OwnHead, OwnSynthesizer
from .fit.plan import make_plan
from .fit.prepare import prepare
from .fit.run import Given, met, run_job
from .fit.stream import sized
from .foundation.error import ConfigError
from .learning.condition import OwnCondition
from .learning.methods import METHODS, Loss
from .learning.metrics import Metric, MetricFunction
from .learning.schedules import SchedulerFactory
from .learning.stage import OptimizerFactory, StageSpec
from .learning.updates.habits import ParamGroups
from .network.partition import check_partition
from .network.split import split
from .record.callback import Callback, checked_callbacks
from .record.checkpoint import load_checkpoint, newest_checkpoint
from .record.progress import Progress
from .record.result import TrainResult
from .runtime.hosts.group import Hosts
from .runtime.hosts.place import Place
from .runtime.hosts.torchrun import has_others
from .runtime.machine.device import assign_devices
from .runtime.machine.interruption import Interruption
from .view.choice import make_progress


class Trainer:
    """Trains a network in stages, one process each, that update without waiting for each other.

    `model`: an `nn.Sequential`, each child of which is a block; a cut may fall between any two. Or, with `split_points`, any
    module whose forward is a chain. It is not changed: `fit` returns a trained copy of it.
    `config` and `settings`: a `TrainerConfig` and fields to change in it (`workers=3, method="cdni", …`).
    `optimizer`: called with a stage's parameters. `loss_fn(output, target)`: a mean over the batch.
    `synthesizer`: called as `synthesizer(features, classes)` with the shape of one sample of a stage's output and the
    number of classes it sees (0: none); returns a module called as `module(h, labels)` (`async_dni.learning.synthesizers`).
    `auxiliary_head`: called as `auxiliary_head(features, output_features)` with the shapes of one sample of a stage's output
    and of the network's; returns a module that makes of h `[batch, *features]` what is shaped like the network's output
    (`async_dni.learning.auxiliary_head`). Or a text, as on the command line.
    `condition`: called with targets `[batch, ...]`; gives what the synthesizers of cDNI see of them, `[batch, width]` or
    `[batch, *positions, width]` of floats. Without, that is the targets themselves, made to fit (`async_dni.learning.condition`).
    `metrics`: what evaluations find, too: names (`async_dni.METRICS`), or functions of all outputs and targets of the
    `eval_set` that return a number, or objects with `update`, `compute` and `reset`, as those of torchmetrics, by a name.
    `scheduler`: called with each stage's optimizer; what it makes is stepped once a batch, so that the rate is a function of
    the batch index. `param_groups`: called with a stage's layers, whose parameters have their names in the network; returns
    groups as optimizers take them: `[{"params": […], "weight_decay": 0.0}, …]`.
    `progress`: what shows the run while it goes on; None: nothing. "auto": a picture in a notebook or on a terminal, else
    lines; "live", "plain", "notebook": that.
    `callbacks`: told of the run while it goes on (`async_dni.Callback`).
    Model, optimizer, loss, synthesizers and heads are sent to other processes, so they must be picklable.

    Raises `ConfigError` for settings that can't be used.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainerConfig | None = None,
        *,
        optimizer: OptimizerFactory = partial(torch.optim.Adam, lr=1e-3, fused=True),
        loss_fn: Loss | None = None,
        synthesizer: OwnSynthesizer | str | None = None,
        auxiliary_head: OwnHead | str | None = None,
        condition: OwnCondition | None = None,
        metrics: Mapping[str, Metric | MetricFunction] | Sequence[str] | None = None,
        callbacks: Sequence[Callback] | Callback = (),
        scheduler: SchedulerFactory | None = None,
        param_groups: ParamGroups | None = None,
        progress: Progress | str | None = None,
        **settings: Any,
    ) -> None:
        unknown = set(settings) - {field.name for field in dataclasses.fields(TrainerConfig)}
        if unknown:
            raise TypeError(f"Trainer has no setting {', '.join(sorted(unknown))}")
        if isinstance(synthesizer, str):
            settings, synthesizer = {**settings, "synthesizer": synthesizer}, None
        if isinstance(auxiliary_head, str):
            settings, auxiliary_head = {**settings, "auxiliary_head": auxiliary_head}, None
        if metrics is not None and not isinstance(metrics, Mapping):
            settings, metrics = {**settings, "metrics": metrics}, None
        self.config = dataclasses.replace(config or TrainerConfig(), **settings)
        _check_own(self.config, synthesizer, condition)
        self.auxiliary_head = own_head(self.config, auxiliary_head)
        if self.config.split_points is not None:
            model = split(model, self.config.split_points)
        network = check_partition(model, self.config.workers, self.config.split)
        self.callbacks = checked_callbacks(callbacks)
        self.devices = ["cpu"] * self.config.workers
        if not has_others():  # else each host assigns its own, when it is known which stages it has
            devices = assign_devices(self.config.device_map, self.config.workers)
            self.devices = self.devices if self.config.serial else devices
        self.model, self.optimizer, self.loss_fn = network, optimizer, loss_fn or nn.CrossEntropyLoss()
        self.synthesizer, self.condition, self.progress = synthesizer, condition, make_progress(progress)
        self.metrics = dict(metrics or {})
        self.scheduler, self.param_groups = scheduler, param_groups

    @property
    def job(self) -> Job:
        """What is to be trained, and how."""
        return Job(
            self.model,
            self.config,
            self.optimizer,
            self.loss_fn,
            self.synthesizer,
            self.devices,
            self.progress,
            Place((self.config.workers,)),
            (),
            self.condition,
            self.metrics,
            self.callbacks,
            self.scheduler,
            self.param_groups,
            self.auxiliary_head,
        )

    def fit(
        self,
        train_set: Any,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        eval_set: Any = None,
        settings: dict[str, Any] | None = None,
        runs: Path | None = None,
        interruption: Interruption | None = None,
        hosts: Hosts | None = None,
    ) -> TrainResult:
        """Train for a number of epochs (or of steps: batches) and return the trained network.

        `train_set` and `eval_set`: a pair (samples, targets) of tensors or arrays `[samples, ...]`, `numpy.memmap` too; a
        dictionary of them; a data set, of `(sample, target)` pairs or of dictionaries; a `DataLoader`, whose batch size then
        is the run's; an `IterableDataset`.
        The `eval_set` is evaluated every `eval_every` epochs and at the end, here, while the workers train on.
        `settings` are added to config.json. Where no `run_dir` is set, the run makes one of its own in the directory `runs`,
        named by the date and time; without that, it writes no files. Raises `ConfigError` before anything is started, and
        `WorkerError` where a worker fails. Ctrl-C ends the run early, and what was trained so far is returned; a second one
        raises `KeyboardInterrupt`, within half a second or a batch, or does what the `interruption` is made with.

        With `resume`, epochs and steps count from the beginning of the run that is gone on with.

        Under torchrun each process is a host, which has some of the stages, and calls this with the same arguments. The first one
        evaluates and writes; all return the trained network, and raise `HostError` where a host is lost. `hosts`: those that
        have met already.
        """
        if getattr(current_process(), "_inheriting", False):
            sys.exit(1)  # a worker imports a script that trains when it is imported; the supervisor says so
        given = Given(train_set, eval_set, epochs, steps, settings or {}, runs)
        with met(self.config, hosts) as hosts:
            return run_job(self.job, given, interruption or Interruption(), hosts)

    def cut(self, train_set: Any) -> tuple[list[int], list[StageSpec], list[Any]]:
        """What `fit` would cut the network into: the index of each stage's first block, but for the first stage; what
        each stage is made from; and an example of each one's output, `[batch, *features]`.
        """
        # of a run with more than one step, and evaluations
        sized_job = sized(self.job, train_set)
        config = dataclasses.replace(
            sized_job.config,
            warmup=0,
            metrics=(),
            early_stopping=0,
            early_stopping_metric=TrainerConfig.early_stopping_metric,
        )
        job = dataclasses.replace(sized_job, config=config, metrics={})
        resume = self.config.resume
        steps = 1 if resume is None else load_checkpoint(newest_checkpoint(resume)).step + 1
        plan = make_plan(job, prepare(job, train_set, None, None, steps, None))
        return plan.split, plan.stages, [output.structure for output in plan.outputs]


def _check_own(config: TrainerConfig, synthesizer: OwnSynthesizer | None, condition: OwnCondition | None) -> None:
    """Raise `ConfigError` for functions of a user's own that can't go with the settings."""
    if synthesizer is not None and config.synthesizer is not None:
        raise ConfigError("synthesizer", config.synthesizer, "a function is given, too; allowed: one of the two")
    if synthesizer is not None and not METHODS[config.method].synthesizer:
        raise ConfigError("synthesizer", "a function", f"{config.method} has no synthesizers; allowed: none")
    if condition is not None and not METHODS[config.method].conditioned:
        raise ConfigError("condition", "a function", f"{config.method} sees nothing of the target; allowed: none")
