"""The facade: `Trainer(model, …).fit(data)` cuts a network into stages and trains it, each stage in its own process."""

from __future__ import annotations

import copy
import dataclasses
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .config import TrainerConfig
from .data.samples import as_dataset, check_picklable, refused
from .data.stream import BatchStream
from .foundation.error import ConfigError
from .learning.batch import Batch
from .learning.blocks import named_blocks
from .learning.divergence import DivergenceError
from .learning.methods import METHODS, Loss
from .learning.precision import matmul_precision, prediction_precision
from .learning.stage import OptimizerFactory, StageSpec
from .learning.synthesizers import make_synthesizer
from .network.cost import count_costs, measure_costs
from .network.memory import check_fits
from .network.partition import balance, check_partition, check_shared, partition
from .network.trial import Trial, check_last_batch, check_synthesizer, optimizer_name, try_out
from .record.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint
from .record.progress import Progress
from .record.run import Run, TrainResult
from .record.run_dir import RunDir
from .record.telemetry import record_all
from .runtime.machine.device import assign_devices
from .runtime.machine.interruption import Interruption
from .runtime.serial import Serial
from .runtime.supervisor import Listener, Patience, Supervisor
from .runtime.transport.queue_memory import check_queues
from .runtime.wiring import Wiring, pickle_stage, threads_per_worker, worker_context

SynthesizerFactory = Callable[[Sequence[int], int], nn.Module]


class Trainer:
    """Trains an `nn.Sequential` in stages, one process each, that update without waiting for each other.

    `model`: each child is a block; a cut may fall between any two. It is not changed: `fit` returns a trained copy.
    `config` and `settings`: a `TrainerConfig` and fields to change in it (`workers=3, method="cdni", …`).
    `optimizer`: called with a stage's parameters. `loss_fn(output, target)`: a mean over the batch.
    `synthesizer`: called as `synthesizer(features, classes)` with the shape of one sample of a stage's output and the
    number of classes it sees (0: none); returns a module called as `module(h, labels)` (`async_dni.learning.synthesizer`).
    Model, optimizer, loss and synthesizers are sent to other processes, so they must be picklable.

    Raises `ConfigError` for settings that can't be used.
    """

    def __init__(
        self,
        model: nn.Sequential,
        config: TrainerConfig | None = None,
        *,
        optimizer: OptimizerFactory = partial(torch.optim.Adam, lr=1e-3, fused=True),
        loss_fn: Loss | None = None,
        synthesizer: SynthesizerFactory | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> None:
        unknown = set(settings) - {field.name for field in dataclasses.fields(TrainerConfig)}
        if unknown:
            raise TypeError(f"Trainer has no setting {', '.join(sorted(unknown))}")
        self.config = dataclasses.replace(config or TrainerConfig(), **settings)
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn or nn.CrossEntropyLoss()
        self.synthesizer, self.progress = synthesizer, progress or Progress()
        check_partition(model, self.config.workers, self.config.split)
        devices = assign_devices(self.config.device_map, self.config.workers)
        self.devices = ["cpu"] * len(devices) if self.config.serial else devices

    def fit(
        self,
        train_set: Dataset | Sequence[Tensor],
        *,
        epochs: int | None = None,
        steps: int | None = None,
        eval_set: Dataset | Sequence[Tensor] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> TrainResult:
        """Train for a number of epochs (or of steps: batches) and return the trained network.

        `train_set` and `eval_set`: a data set of `(sample, target)` pairs, or a pair of tensors `[samples, ...]`.
        The `eval_set` is evaluated every `eval_every` epochs and at the end, here, while the workers train on.
        `settings` are added to config.json. Raises `ConfigError` before anything is started, and `WorkerError` where a
        worker fails. Ctrl-C ends the run early, and what was trained so far is returned.

        With `resume`, epochs and steps count from the beginning of the run that is gone on with.
        """
        if getattr(current_process(), "_inheriting", False):
            sys.exit(1)  # a worker imports a script that trains when it is imported; the supervisor says so
        config = self.config
        stream = self._stream(as_dataset(train_set), epochs, steps)
        check_last_batch(stream, [self.model])
        eval_set = None if eval_set is None else as_dataset(eval_set, "eval_set")
        run_dir = self._run_dir()
        trial = try_out(self.model, self.loss_fn, METHODS[config.method], stream, eval_set)
        identity = self._identity(stream, trial.first)
        checkpoint = self._checkpoint(stream, identity)
        split, stages, activations = self._cut(stream, trial, checkpoint)
        check_last_batch(stream, [stage.synthesizer for stage in stages if stage.synthesizer is not None])
        pickled = [pickle_stage(stage) for stage in stages]
        if not config.serial:
            check_picklable(stream.dataset, "train_set")
            check_queues(config.queue_capacity, config.batch_size, activations, trial.first.target)
        if run_dir is not None:
            run_dir.create(resuming=checkpoint is not None)
            run_dir.write_config(self._settings(split, activations, stream, settings or {}))
        if checkpoint is not None and METHODS[config.method].synthesizer and (afresh := checkpoint.new_cuts(split)):
            self.progress.on_note(f"new cuts after blocks {', '.join(afresh)}: their synthesizers start afresh")
        if checkpoint is not None:
            self.progress.on_note(f"going on from step {checkpoint.step}")
        eval_every = config.eval_every * stream.steps_per_epoch if eval_set is not None else 0
        run = Run(
            self.model,
            self.loss_fn,
            eval_set,
            stream,
            run_dir,
            self.progress,
            eval_every=eval_every,
            keep_checkpoints=config.keep_checkpoints,
            threads=threads_per_worker(config),
            about={"identity": identity, "blocks": [name for name, _ in named_blocks(self.model)], "split": split},
            wall_seconds=0.0 if checkpoint is None else checkpoint.wall_seconds,
        )
        every = config.checkpoint_every
        wiring = Wiring(
            config=config,
            stream=stream,
            start=0 if checkpoint is None else checkpoint.step,
            eval_every=eval_every,
            checkpoint_every=stream.steps_per_epoch if every == "epoch" else int(every),
            devices=self.devices,
            run_dir=run_dir,
        )
        layers = [stage.layers for stage in stages]
        deaths: list[list[str]] = [[] for _ in stages]
        interruption = Interruption()
        with interruption.handled():
            with run.open(), self.progress.running(layers, stream.steps):
                if config.serial:
                    totals = self._run_serially(stages, wiring, run, interruption)
                else:
                    context = worker_context(threads_per_worker(config))
                    specs, receivers = wiring.connect(context, pickled, activations, trial.first.target)
                    pickled.clear()  # the workers' parts hold it
                    listener = Listener(
                        on_start=run.on_start,
                        on_record=run.on_record,
                        on_cut=run.on_cut,
                        on_warning=self.progress.on_warning,
                        on_failure=lambda snapshots: self._salvage(run, snapshots),
                    )
                    patience = Patience(config.start_timeout, config.heartbeat_timeout, config.max_restarts)
                    supervisor = Supervisor(context, specs, receivers, listener, patience, interruption)
                    totals = supervisor.run()
                    deaths = supervisor.deaths
            summary = {**self._summary(totals, layers, deaths), "start": wiring.start}
            return run.result(summary, interruption.number)

    def _salvage(self, run: Run, snapshots: list[tuple[int, dict[str, Any]]]) -> None:
        """Keep the stages' last snapshots of a run that failed as a checkpoint, where a run can go on from them.

        They need not be of the same batch. With a fixed lag the result is to depend on the seed alone, so there they must.
        """
        steps = [step for step, _ in snapshots]
        is_exact = self.config.effective_lag == 1 and self.config.waits and len(set(steps)) == 1
        if len(snapshots) == self.config.workers and min(steps) > 0 and (is_exact or self.config.effective_lag is None):
            run.on_failure(min(steps), [{**state, "pending": [], "gradients": {}} for _, state in snapshots])

    def cut(self, train_set: Dataset | Sequence[Tensor]) -> tuple[list[int], list[StageSpec], list[Tensor]]:
        """What `fit` would cut the network into: the index of each stage's first block, but for the first stage; what
        each stage is made from; and an example of each one's output, `[batch, *features]`.
        """
        stream = self._stream(as_dataset(train_set), None, 1)
        return self._cut(stream, try_out(self.model, self.loss_fn, METHODS[self.config.method], stream, None), None)

    def _stream(self, dataset: Dataset, epochs: int | None, steps: int | None) -> BatchStream:
        samples: int = len(dataset)  # type: ignore[arg-type]
        size = self.config.batch_size
        if size > samples:
            raise ConfigError("batch_size", size, f"the data set has {samples} samples; allowed: 1 to {samples}")
        if (epochs is None) == (steps is None):
            raise ConfigError("epochs", epochs, "give either epochs or steps")
        for name, value in (("epochs", epochs), ("steps", steps)):
            if value is not None and value < 1:
                raise ConfigError(name, value, "allowed: a whole number of at least 1")
        length = steps if steps is not None else (epochs or 0) * -(-samples // size)
        return BatchStream(dataset, size, length, self.config.seed)

    def _run_dir(self) -> RunDir | None:
        if self.config.resume is not None:
            return RunDir.of(self.config.resume)
        if self.config.run_dir is None:
            return None
        run_dir = RunDir(self.config.run_dir)
        run_dir.check()
        return run_dir

    def _checkpoint(self, stream: BatchStream, identity: dict[str, Any]) -> Checkpoint | None:
        """The checkpoint to go on from, checked."""
        if self.config.resume is None:
            return None
        path = newest_checkpoint(self.config.resume)
        checkpoint = load_checkpoint(path)
        checkpoint.check(path, self.model, identity)
        if checkpoint.step >= stream.steps:
            at = f"it is at step {checkpoint.step} already; allowed: more --epochs or --steps, not {stream.steps} steps in all"
            raise ConfigError("resume", self.config.resume, at)
        return checkpoint

    def _identity(self, stream: BatchStream, first: Batch) -> dict[str, Any]:
        """What a run and one that goes on from it must share."""
        config = self.config
        return {
            "method": config.method,
            "seed": config.seed,
            "batch_size": config.batch_size,
            "samples": stream.samples,
            "targets_checksum": zlib.crc32(first.target.contiguous().numpy().tobytes()),
            "optimizer": optimizer_name(self.optimizer),
            "synthesizer_hidden": list(config.hidden) if METHODS[config.method].synthesizer else None,
            "synthesizer_every": config.synthesizer_every,
        }

    def _cut(
        self, stream: BatchStream, trial: Trial, checkpoint: Checkpoint | None
    ) -> tuple[list[int], list[StageSpec], list[Tensor]]:
        """The cuts, the stages, and an example of each stage's output."""
        config, outputs, classes = self.config, trial.outputs, trial.classes
        model = copy.deepcopy(self.model).cpu()
        synthesizers = [self._make_synthesizer(i, h, trial) for i, h in enumerate(outputs[:-1])]
        spec = StageSpec(
            index=0,
            num_stages=config.workers,
            module=model,
            optimizer=self.optimizer,
            loss_fn=self.loss_fn,
            method=METHODS[config.method],
            synthesizer=None,
            synthesizer_every=config.synthesizer_every,
            lag=config.effective_lag,
            synthesizer_lr=config.synthesizer_lr,
            synthesizer_matmul_precision=config.synthesizer_matmul_precision,
            matmul_precision=config.matmul_precision,
            clip_grad_norm=config.clip_grad_norm,
            checks_gradients=config.on_divergence == "skip",
            classes=classes,
        )
        if config.split is not None:
            split = list(config.split)
        elif config.workers in (1, len(model)):
            split = list(range(1, config.workers))
        elif checkpoint is not None and len(checkpoint.split) == config.workers - 1:
            split = checkpoint.split
        else:
            costs = self._costs(spec, list(model), [*synthesizers, None], stream, trial)
            split = balance(*costs, config.workers)
        check_shared(model, split)
        lasts = [*(cut - 1 for cut in split), len(model) - 1]  # each stage's last block
        states = checkpoint.stage_states(split) if checkpoint is not None else [None] * len(lasts)
        stages = [
            dataclasses.replace(
                spec, index=k, module=module, synthesizer=[*synthesizers, None][lasts[k]], state=states[k]
            )
            for k, module in enumerate(partition(model, split))
        ]
        return split, stages, [outputs[last] for last in lasts]

    def _costs(
        self,
        spec: StageSpec,
        blocks: list[nn.Module],
        synthesizers: list[nn.Module | None],
        stream: BatchStream,
        trial: Trial,
    ) -> tuple[list[float], list[float]]:
        """Of blocks, and of a cut after each. With a lag, the result is to depend on the seed alone, so cuts not on time."""
        if self.config.effective_lag is None:
            with refused("train_set"), suppress(DivergenceError):  # a worker will tell where it diverged
                return measure_costs(spec, blocks, synthesizers, lambda: stream[0], threads_per_worker(self.config))
        every = self.config.synthesizer_every
        return count_costs(blocks, synthesizers, trial.outputs, trial.first.x, trial.classes, every)

    def _make_synthesizer(self, block: int, h: Tensor, trial: Trial) -> nn.Module | None:
        """The synthesizer of a cut after a block; its weights depend on the seed and the block, not on other cuts."""
        if not METHODS[self.config.method].synthesizer:
            return None
        features = tuple(h.shape[1:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed * 1_000_003 + 1 + block)
            if self.synthesizer is None:
                return self._default_synthesizer(features, trial.classes)
            synthesizer = self.synthesizer(features, trial.classes)
        labels = trial.first.target if trial.classes else None
        with matmul_precision(self._synthesizer_precision(h), h.device):
            check_synthesizer(synthesizer, named_blocks(self.model)[block][0], h, labels)
        return synthesizer

    def _synthesizer_precision(self, h: Tensor) -> str:
        return prediction_precision(self.config.synthesizer_matmul_precision, h)

    def _default_synthesizer(self, features: tuple[int, ...], classes: int) -> nn.Module:
        make = partial(make_synthesizer, features, self.config.hidden, classes)
        check_fits(make, "synthesizer_hidden", self.config.hidden, f"a synthesizer for an output {list(features)}")
        return make()

    def _settings(
        self, split: list[int], activations: Sequence[Tensor], stream: BatchStream, more: dict[str, Any]
    ) -> dict[str, Any]:
        """Every setting, as given, and under "used" what came of those that were left to us."""
        given = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in {**dataclasses.asdict(self.config), **more}.items()
        }
        used = {
            "split": split,
            "devices": self.devices,
            "threads_per_worker": threads_per_worker(self.config),
            "synthesizer_hidden": list(self.config.hidden),
            "synthesizer_matmul_precision": [
                self._synthesizer_precision(h) for h in activations[:-1] if METHODS[self.config.method].synthesizer
            ],
            "lag": self.config.effective_lag,
            "steps": stream.steps,
            "steps_per_epoch": stream.steps_per_epoch,
        }
        return {**given, "used": used}

    def _run_serially(
        self, stages: list[StageSpec], wiring: Wiring, run: Run, interruption: Interruption
    ) -> list[dict[str, Any]]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads_per_worker(self.config))
        try:
            with torch.random.fork_rng(devices=[]):
                return self._drive_serially(stages, wiring, run, interruption)
        finally:
            torch.set_num_threads(before)

    def _drive_serially(
        self, stages: list[StageSpec], wiring: Wiring, run: Run, interruption: Interruption
    ) -> list[dict[str, Any]]:
        built = [stage.build(torch.device("cpu")) for stage in stages]
        serial = Serial(built, self.config.effective_lag or 1, self.config.seed)
        states = [stage.state for stage in stages if stage.state is not None]
        if states:
            serial.restore(states)

        def before_batch(step: int) -> bool:
            if step > wiring.start and (is_full := wiring.is_cut(step)) is not None:
                run.on_cut(step, copy.deepcopy(serial.states() if is_full else serial.layers()), is_full, False)
            return interruption.number is None

        run.on_start()
        with record_all(serial.telemetry, wiring.run_dir, run.on_record):
            step = serial.run(wiring.stream, wiring.start, before_batch)
        run.on_cut(step, serial.states(), True, True)
        return serial.totals()

    def _summary(
        self, totals: list[dict[str, Any]], layers: list[list[str]], deaths: list[list[str]]
    ) -> dict[str, Any]:
        workers = [
            {
                "index": k,
                "device": self.devices[k],
                "layers": layers[k],
                **worker,
                "restarts": len(deaths[k]),
                "deaths": deaths[k],
            }
            for k, worker in enumerate(totals)
        ]
        return {"method": self.config.method, "num_workers": len(workers), "workers": workers}
