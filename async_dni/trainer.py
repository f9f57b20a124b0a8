"""The facade: `Trainer(model, …).fit(data)` cuts a network into stages and trains it, each stage in its own process."""

from __future__ import annotations

import copy
import dataclasses
import io
import signal
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from .config import ConfigError, TrainerConfig
from .cost import measure_costs
from .data import Batch, BatchStream, as_dataset
from .device import assign_devices
from .evaluate import Evaluation, error_percent, evaluate
from .method import Loss
from .partition import balance, check_partition, partition
from .progress import Progress
from .run_dir import RunDir, write_json
from .serial import Serial
from .stage import OptimizerFactory, StageSpec
from .supervisor import Listener, Supervisor
from .synthesizer import make_synthesizer
from .wiring import threads_per_worker, wire, worker_context
from .worker import WorkerSpec

SynthesizerFactory = Any  # (features: Sequence[int], classes: int) -> nn.Module


@dataclass(frozen=True)
class TrainResult:
    """What `Trainer.fit` returns."""

    model: nn.Sequential  # trained, whole, on the CPU
    test_error: float | None  # per cent, of the final network; None without an eval_set or without classes
    history: list[Evaluation]
    summary: dict[str, Any]  # what summary.json holds
    run_dir: Path | None
    interrupted_by: int | None  # the signal that ended the run early


class Trainer:
    """Trains an `nn.Sequential` in stages, one process each, that update without waiting for each other.

    `model`: each child is a block; a cut may fall between any two. It is not changed: `fit` returns a trained copy.
    `config` and `settings`: a `TrainerConfig` and fields to change in it (`workers=3, method="cdni", …`).
    `optimizer`: called with a stage's parameters. `loss_fn(output, target)`: a mean over the batch.
    `synthesizer`: called as `synthesizer(features, classes)` with the shape of one sample of a stage's output and the
    number of classes it sees (0: none); returns a module called as `module(h, condition)` (`async_dni.synthesizer`).
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
        self.devices = assign_devices(self.config.device_map, self.config.workers)

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
        """
        stream = self._stream(as_dataset(train_set), epochs, steps)
        run_dir = RunDir(self.config.run_dir) if self.config.run_dir is not None else None
        if run_dir is not None:
            run_dir.check()
        first = stream[0]
        split, stages, activations = self._cut(first)
        cut_every = self.config.eval_every * stream.steps_per_epoch if eval_set is not None else 0
        specs: list[WorkerSpec] = []
        receivers: list[Connection] = []
        if not self.config.serial:
            context = worker_context()
            specs, receivers = wire(
                context, self.config, stages, activations, first.target, stream, cut_every, self.devices, run_dir
            )
        if run_dir is not None:
            run_dir.create()
            run_dir.write_config(self._settings(split, stream, settings or {}))
        run = _Run(
            self.model,
            self.loss_fn,
            as_dataset(eval_set) if eval_set is not None else None,
            stream,
            run_dir,
            self.progress,
        )
        layers = [stage.layers for stage in stages]
        with self.progress.running(layers, stream.steps):
            if self.config.serial:
                totals, interrupted_by = self._run_serially(stages, stream, cut_every, run)
            else:
                supervisor = Supervisor(
                    context,
                    specs,
                    receivers,
                    Listener(run.on_start, self.progress.on_record, run.on_cut),
                    self.config.start_timeout,
                )
                totals = supervisor.run()
                interrupted_by = supervisor.interrupted_by
            return run.finish(self._summary(totals, layers), interrupted_by)

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

    def _cut(self, first: Batch) -> tuple[list[int], list[StageSpec], list[Tensor]]:
        """The cuts, the stages, and an example of each stage's output."""
        config = self.config
        model = copy.deepcopy(self.model).cpu()
        outputs = block_outputs(model, first.x)
        synthesizers = [
            None if i == len(outputs) - 1 else self._make_synthesizer(i, h, outputs[-1]) for i, h in enumerate(outputs)
        ]
        spec = StageSpec(
            index=0,
            num_stages=config.workers,
            module=model,
            method=config.method,
            optimizer=self.optimizer,
            loss_fn=self.loss_fn,
            synthesizer=None,
            synthesizer_lr=config.synthesizer_lr,
            classes=self._classes(outputs[-1]),
        )
        if config.split is not None:
            split = list(config.split)
        elif config.workers in (1, len(model)):
            split = list(range(1, config.workers))
        else:
            costs = measure_costs(spec, list(model), synthesizers, first, threads_per_worker(config))
            split = balance(*costs, config.workers)
        lasts = [*(cut - 1 for cut in split), len(model) - 1]  # each stage's last block
        stages = [
            dataclasses.replace(spec, index=k, module=module, synthesizer=synthesizers[lasts[k]])
            for k, module in enumerate(partition(model, split))
        ]
        return split, stages, [outputs[last] for last in lasts]

    def _classes(self, output: Tensor) -> int:
        """Classes of the labels that the synthesizers see."""
        return output.shape[1] if self.config.method == "cdni" else 0

    def _make_synthesizer(self, block: int, h: Tensor, output: Tensor) -> nn.Module | None:
        """The synthesizer of a cut after a block; its weights depend on the seed and the block, not on other cuts."""
        if self.config.method == "backprop":
            return None
        features, classes = tuple(h.shape[1:]), self._classes(output)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed * 1_000_003 + 1 + block)
            if self.synthesizer is not None:
                return self.synthesizer(features, classes)
            return make_synthesizer(features, self.config.hidden, classes)

    def _settings(self, split: list[int], stream: BatchStream, more: dict[str, Any]) -> dict[str, Any]:
        """Every setting as used."""
        used = dataclasses.asdict(self.config)
        used["run_dir"] = str(self.config.run_dir)
        used["split"], used["devices"] = split, self.devices
        used["threads_per_worker"] = threads_per_worker(self.config)
        used["synthesizer_hidden"] = self.config.hidden
        return {**more, **used, "steps": stream.steps, "steps_per_epoch": stream.steps_per_epoch}

    def _run_serially(
        self, stages: list[StageSpec], stream: BatchStream, cut_every: int, run: _Run
    ) -> tuple[list[dict[str, Any]], int | None]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads_per_worker(self.config))
        serial = Serial([stage.build(torch.device("cpu")) for stage in stages])
        interrupted_by, step = None, 0

        def on_step(n: int) -> bool:
            nonlocal step
            step = n
            if cut_every and n and n % cut_every == 0:
                run.evaluate(n, _merge(serial.states()))
            return True

        run.on_start()
        try:
            serial.run(stream, on_step)
            step = stream.steps
        except KeyboardInterrupt:
            interrupted_by = signal.SIGINT
        finally:
            torch.set_num_threads(before)
        run.evaluate(step, _merge(serial.states()))
        return serial.totals(), interrupted_by

    def _summary(self, totals: list[dict[str, Any]], layers: list[list[str]]) -> dict[str, Any]:
        workers = [
            {"index": k, "device": self.devices[k], "layers": layers[k], **worker, "restarts": 0}
            for k, worker in enumerate(totals)
        ]
        return {"method": self.config.method, "num_workers": len(workers), "workers": workers}


@dataclass
class _Run:
    """What becomes of a run's cuts: evaluations, and in the end the trained network."""

    model: nn.Sequential
    loss_fn: Loss
    eval_set: Dataset | None
    stream: BatchStream
    run_dir: RunDir | None
    progress: Progress
    history: list[Evaluation] = field(default_factory=list)
    final: tuple[int, dict[str, Tensor]] | None = None
    began: float = 0.0
    executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "evaluate"))
    futures: list[Future[None]] = field(default_factory=list)

    def on_start(self) -> None:
        """The workers are ready, and begin."""
        self.began = time.monotonic()

    def on_cut(self, step: int, states: list[bytes], is_final: bool) -> None:
        """Evaluate the network as it was after `step` batches, in a thread: the supervisor goes on watching."""
        state = _merge([torch.load(io.BytesIO(state), map_location="cpu", weights_only=True) for state in states])
        if is_final:
            self.final = step, state
        self.futures.append(self.executor.submit(self.evaluate, step, state))

    def evaluate(self, step: int, state: dict[str, Tensor]) -> None:
        """Evaluate a state of the network, and remember it as the newest."""
        self.final = step, state
        seconds = time.monotonic() - self.began
        if self.eval_set is None or (self.history and self.history[-1].step == step):
            return
        model = copy.deepcopy(self.model)
        model.load_state_dict(state)
        loss, confusion = evaluate(model, self.eval_set, self.loss_fn)
        error = error_percent(confusion)
        evaluation = Evaluation(step, step / self.stream.steps_per_epoch, seconds, error, loss, confusion)
        self.history.append(evaluation)
        if self.run_dir is not None:
            self.run_dir.append_metrics(evaluation.as_dict())
        self.progress.on_evaluation(evaluation)

    def finish(self, summary: dict[str, Any], interrupted_by: int | None) -> TrainResult:
        """Wait for the evaluations, write what is left to write, and return the result."""
        self.executor.shutdown(wait=True)
        for future in self.futures:
            future.result()
        assert self.final is not None
        step, state = self.final
        model = copy.deepcopy(self.model)
        model.load_state_dict(state)
        error = self.history[-1].test_error if self.history else None
        summary = {**summary, **_times(summary["workers"]), "steps": step, "test_error": error}
        summary["interrupted_by"] = None if interrupted_by is None else signal.Signals(interrupted_by).name
        if self.run_dir is not None:
            self.run_dir.write_model(state)
            write_json(self.run_dir.summary, summary)
        path = None if self.run_dir is None else self.run_dir.path
        return TrainResult(model, error, self.history, summary, path, interrupted_by)


def block_outputs(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    """An example of every block's output, `[batch, *features]`; running statistics are left as they were."""
    model.eval()
    outputs = []
    with torch.no_grad():
        for name, block in model.named_children():
            try:
                x = block(x)
            except (RuntimeError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise ConfigError(
                    "model", f"block {name!r}", f"it does not take what comes before it ({reason})"
                ) from None
            if not isinstance(x, Tensor):
                raise ConfigError("model", f"block {name!r}", f"its output must be one tensor, not {type(x).__name__}")
            outputs.append(x)
    model.train()
    return outputs


def _merge(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The stages' state dicts as the network's: blocks keep their names in a stage."""
    return {name: value for state in states for name, value in state.items()}


def _times(workers: list[dict[str, Any]]) -> dict[str, Any]:
    """From the first batch taken to the last update made; takes these moments out of the workers' totals."""
    started = [worker.pop("started") for worker in workers]
    ended = [worker.pop("ended") for worker in workers]
    began = min((moment for moment in started if moment is not None), default=0.0)
    last = max((moment for moment in ended if moment is not None), default=began)
    samples = workers[0]["samples"]
    seconds = last - began
    return {"samples": samples, "wall_seconds": seconds, "samples_per_second": samples / seconds if seconds else 0.0}
