"""The facade: `Trainer(model, …).fit(data)` cuts a network into stages and trains it, each stage in its own process."""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .checkpoint import Checkpoint, load_checkpoint, newest_checkpoint
from .config import ConfigError, TrainerConfig
from .cost import count_costs, measure_costs
from .data import Batch, BatchStream, as_dataset
from .device import assign_devices
from .interruption import Interruption
from .method import Loss
from .partition import balance, block_outputs, check_partition, partition
from .progress import Progress
from .run import Run, TrainResult
from .run_dir import RunDir
from .serial import Serial
from .stage import OptimizerFactory, StageSpec
from .supervisor import Listener, Supervisor
from .synthesizer import make_synthesizer
from .telemetry import record_all
from .wiring import Wiring, pickle_stage, threads_per_worker, worker_context

SynthesizerFactory = Callable[[Sequence[int], int], nn.Module]


class Trainer:
    """Trains an `nn.Sequential` in stages, one process each, that update without waiting for each other.

    `model`: each child is a block; a cut may fall between any two. It is not changed: `fit` returns a trained copy.
    `config` and `settings`: a `TrainerConfig` and fields to change in it (`workers=3, method="cdni", …`).
    `optimizer`: called with a stage's parameters. `loss_fn(output, target)`: a mean over the batch.
    `synthesizer`: called as `synthesizer(features, classes)` with the shape of one sample of a stage's output and the
    number of classes it sees (0: none); returns a module called as `module(h, labels)` (`async_dni.synthesizer`).
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
        config = self.config
        stream = self._stream(as_dataset(train_set), epochs, steps)
        self._check_last_batch(stream)
        first = stream[0]
        checkpoint = self._checkpoint(stream)
        run_dir = self._run_dir()
        split, stages, activations = self._cut(first, checkpoint)
        pickled = [pickle_stage(stage) for stage in stages]
        if run_dir is not None:
            run_dir.create(resuming=checkpoint is not None)
            run_dir.write_config(self._settings(split, stream, settings or {}))
        if checkpoint is not None and not config.waits and (afresh := checkpoint.new_cuts(split)):
            self.progress.on_note(f"new cuts after blocks {', '.join(afresh)}: their synthesizers start afresh")
        eval_every = config.eval_every * stream.steps_per_epoch if eval_set is not None else 0
        run = Run(
            self.model,
            self.loss_fn,
            None if eval_set is None else as_dataset(eval_set),
            stream,
            run_dir,
            self.progress,
            eval_every=eval_every,
            keep_checkpoints=config.keep_checkpoints,
            threads=threads_per_worker(config),
            about={"identity": self._identity(stream), "blocks": self._blocks(), "split": split},
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
        interruption = Interruption()
        with interruption.handled(), run.open(), self.progress.running(layers, stream.steps):
            if config.serial:
                totals = self._run_serially(stages, wiring, run, interruption)
            else:
                context = worker_context(threads_per_worker(config))
                specs, receivers = wiring.connect(context, pickled, activations, first.target)
                listener = Listener(run.on_start, self.progress.on_record, run.on_cut)
                supervisor = Supervisor(context, specs, receivers, listener, config.start_timeout, interruption)
                totals = supervisor.run()
        return run.result(self._summary(totals, layers), interruption.number)

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

    def _check_last_batch(self, stream: BatchStream) -> None:
        has_batch_norm = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in self.model.modules())
        if has_batch_norm and stream.samples % stream.batch_size == 1 and stream.steps >= stream.steps_per_epoch:
            size = stream.batch_size
            allowed = f"batch norm needs two samples, and the last of {stream.samples} would be a batch of its own"
            raise ConfigError("batch_size", size, f"{allowed}; allowed: a size that leaves none or more than one")

    def _run_dir(self) -> RunDir | None:
        if self.config.resume is not None:
            resume = self.config.resume
            return RunDir(resume.absolute().parents[1] if resume.is_file() else resume)
        if self.config.run_dir is None:
            return None
        run_dir = RunDir(self.config.run_dir)
        run_dir.check()
        return run_dir

    def _checkpoint(self, stream: BatchStream) -> Checkpoint | None:
        """The checkpoint to go on from, checked."""
        if self.config.resume is None:
            return None
        path = newest_checkpoint(self.config.resume)
        checkpoint = load_checkpoint(path)
        checkpoint.check(path, self.model, self._identity(stream))
        if checkpoint.step >= stream.steps:
            at = f"the run is at step {checkpoint.step} already; allowed: more"
            raise ConfigError("steps", stream.steps, at)
        return checkpoint

    def _identity(self, stream: BatchStream) -> dict[str, Any]:
        """What a run and one that goes on from it must share."""
        config = self.config
        return {
            "method": config.method,
            "seed": config.seed,
            "batch_size": config.batch_size,
            "samples": stream.samples,
            "targets_checksum": zlib.crc32(stream[0].target.contiguous().numpy().tobytes()),
            "optimizer": type(self.optimizer([nn.Parameter(torch.zeros(1))])).__name__,
            "synthesizer_hidden": None if config.waits else list(config.hidden),
            "synthesizer_every": config.synthesizer_every,
        }

    def _blocks(self) -> list[str]:
        return [name for name, _ in self.model.named_children()]

    def _cut(self, first: Batch, checkpoint: Checkpoint | None) -> tuple[list[int], list[StageSpec], list[Tensor]]:
        """The cuts, the stages, and an example of each stage's output."""
        config = self.config
        model = copy.deepcopy(self.model).cpu()
        outputs = block_outputs(model, first.x)
        classes = self._classes(outputs[-1], first.target)
        synthesizers = [self._make_synthesizer(i, h, classes) for i, h in enumerate(outputs[:-1])]
        spec = StageSpec(
            index=0,
            num_stages=config.workers,
            module=model,
            optimizer=self.optimizer,
            loss_fn=self.loss_fn,
            synthesizer=None,
            synthesizer_every=config.synthesizer_every,
            late=config.method == "delayed" and config.lag != 1,
            synthesizer_lr=config.synthesizer_lr,
            classes=classes,
        )
        if config.split is not None:
            split = list(config.split)
        elif config.workers in (1, len(model)):
            split = list(range(1, config.workers))
        elif checkpoint is not None and len(checkpoint.split) == config.workers - 1:
            split = checkpoint.split
        else:
            blocks, at_cuts = list(model), [*synthesizers, None]
            if (
                config.effective_lag is not None
            ):  # the result is to depend on the seed alone, so the cuts must not depend on time
                costs = count_costs(blocks, at_cuts, outputs, first.x, classes)
            else:
                costs = measure_costs(spec, blocks, at_cuts, first, threads_per_worker(config))
            split = balance(*costs, config.workers)
        lasts = [*(cut - 1 for cut in split), len(model) - 1]  # each stage's last block
        states = checkpoint.stage_states(split) if checkpoint is not None else [None] * len(lasts)
        stages = [
            dataclasses.replace(
                spec, index=k, module=module, synthesizer=[*synthesizers, None][lasts[k]], state=states[k]
            )
            for k, module in enumerate(partition(model, split))
        ]
        return split, stages, [outputs[last] for last in lasts]

    def _classes(self, output: Tensor, target: Tensor) -> int:
        """Classes of the labels that the synthesizers see."""
        if self.config.method != "cdni":
            return 0
        if output.dim() != 2 or target.dim() != 1 or target.dtype != torch.int64:
            found = f"outputs {list(output.shape)}, targets {list(target.shape)} {target.dtype}"
            allowed = f"cdni needs outputs [batch, classes] and int64 labels [batch], not {found}"
            raise ConfigError("method", "cdni", allowed)
        return output.shape[1]

    def _make_synthesizer(self, block: int, h: Tensor, classes: int) -> nn.Module | None:
        """The synthesizer of a cut after a block; its weights depend on the seed and the block, not on other cuts."""
        if self.config.waits:
            return None
        features = tuple(h.shape[1:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed * 1_000_003 + 1 + block)
            if self.synthesizer is not None:
                return self.synthesizer(features, classes)
            return make_synthesizer(features, self.config.hidden, classes)

    def _settings(self, split: list[int], stream: BatchStream, more: dict[str, Any]) -> dict[str, Any]:
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
                run.on_cut(step, copy.deepcopy(serial.states()), is_full, False)
            return interruption.number is None

        run.on_start()
        with record_all(serial.telemetry, wiring.run_dir, self.progress.on_record):
            step = serial.run(wiring.stream, wiring.start, before_batch)
        run.on_cut(step, serial.states(), True, True)
        return serial.totals()

    def _summary(self, totals: list[dict[str, Any]], layers: list[list[str]]) -> dict[str, Any]:
        workers = [
            {"index": k, "device": self.devices[k], "layers": layers[k], **worker, "restarts": 0}
            for k, worker in enumerate(totals)
        ]
        return {"method": self.config.method, "num_workers": len(workers), "workers": workers}
