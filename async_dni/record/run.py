"""What becomes of a run's cuts: evaluations, checkpoints, and in the end the trained network and the summary.

A file that can't be written, or an evaluation that fails, ends nothing: it is told (`Problems`), and the run goes on.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data.batches import Batches
from ..learning.blocks import copy_of
from ..learning.methods import Loss
from ..network.split import joined
from .checkpoint import Checkpoint, save_checkpoint
from .evaluate import Evaluation, error_percent, evaluate
from .problems import Problems
from .progress import Progress
from .run_dir import RunDir, write_json


@dataclass(frozen=True)
class TrainResult:
    """What `Trainer.fit` returns."""

    model: Any  # trained, whole, on the CPU; of one that was split, the user's own module
    test_error: float | None  # per cent, of the final network; None without an eval_set or without classes
    history: list[Evaluation]
    summary: dict[str, Any]  # what summary.json holds
    run_dir: Path | None
    interrupted_by: int | None  # the signal that ended the run early
    problems: list[str]  # what could not be written or evaluated, a sentence each; told when it happened


class Run:
    """One run's results. Cuts are evaluated and written in a thread, so that the workers are watched meanwhile."""

    def __init__(
        self,
        model: nn.Sequential,
        loss_fn: Loss,
        eval_set: Dataset | None,
        stream: Batches,
        run_dir: RunDir | None,
        progress: Progress,
        *,
        eval_every: int,  # steps, 0: at the end only
        keep_checkpoints: int,
        threads: int,
        about: dict[str, Any],  # what a checkpoint says of the run: identity, blocks, split
        wall_seconds: float,  # of the run that this one goes on from
        check: Callable[[], None],  # raises where the run is to end at once
    ) -> None:
        self.model, self.loss_fn, self.eval_set, self.stream = copy_of(model), loss_fn, eval_set, stream
        self.run_dir, self.progress, self.eval_every, self.keep_checkpoints = (
            run_dir,
            progress,
            eval_every,
            keep_checkpoints,
        )
        self.about, self.history, self.check = about, list[Evaluation](), check
        self.problems = Problems(progress.on_warning)
        self._unwritten: list[dict[str, Any]] = []  # lines of metrics.jsonl
        self._threads, self._wall_seconds, self._began = threads, wall_seconds, time.monotonic()
        self._final: tuple[int, dict[str, Tensor]] | None = None
        self._executor = ThreadPoolExecutor(1, "cuts")
        self._futures: list[Future[None]] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """While the run goes on; what is under way is finished at the end."""
        try:
            yield
        finally:
            self._executor.shutdown(wait=True)

    def on_start(self) -> None:
        """The workers are ready, and begin."""
        self._began = time.monotonic()

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        """A worker's record; under "unwritten" it says which file of the worker's could not be written, and why."""
        if unwritten := record.get("unwritten"):
            self.problems.add(f"worker {worker}", unwritten)
        else:
            self.problems.solved(f"worker {worker}")
        self.progress.on_record(worker, record)

    def on_cut(self, step: int, states: list[dict[str, Any]], is_full: bool, is_final: bool) -> None:
        """Take the stages' states after `step` batches (a full one is a checkpoint), and return at once."""
        seconds = self._wall_seconds + time.monotonic() - self._began
        self._futures.append(self._executor.submit(self._handle, step, states, is_full, is_final, seconds))

    def on_failure(self, step: int, states: list[dict[str, Any]]) -> None:
        """Keep the stages' states after about `step` batches, of a run that failed, as a checkpoint."""
        if self.run_dir is not None:
            self.on_cut(step, states, True, False)
            self.progress.on_warning(f"the stages' last snapshots are kept as a checkpoint, step {step}")

    def _handle(
        self, step: int, states: list[dict[str, Any]], is_full: bool, is_final: bool, wall_seconds: float
    ) -> None:
        self.check()
        torch.set_num_threads(self._threads)  # this thread's
        model = {name: value for state in states for name, value in state["model"].items()}
        if is_full and self.run_dir is not None:
            checkpoint = Checkpoint.of(states, step=step, wall_seconds=wall_seconds, **self.about)
            with self.problems.of_writing(self.run_dir.checkpoints):
                save_checkpoint(self.run_dir.checkpoints, checkpoint, self.keep_checkpoints)
        if is_final:
            self._final = step, model
        if self.eval_set is not None and (is_final or (self.eval_every and step % self.eval_every == 0)):
            with self.problems.of_evaluation(step):
                self._evaluate(self.eval_set, step, model, wall_seconds)

    def _evaluate(self, dataset: Dataset, step: int, state: dict[str, Tensor], wall_seconds: float) -> None:
        self.model.load_state_dict(state)
        loss, confusion = evaluate(self.model, dataset, self.loss_fn, self.stream.batch_size, self.check)
        epoch = step / self.stream.steps_per_epoch
        evaluation = Evaluation(step, epoch, wall_seconds, error_percent(confusion), loss, confusion)
        self.history.append(evaluation)
        if self.run_dir is not None:
            self._unwritten.append(evaluation.as_dict())
            with self.problems.of_writing(self.run_dir.metrics):
                while self._unwritten:
                    self.run_dir.append_metrics(self._unwritten[0])
                    del self._unwritten[0]
        self.progress.on_evaluation(evaluation)

    def result(self, summary: dict[str, Any], interrupted: Callable[[], int | None]) -> TrainResult:
        """Wait for the evaluations, write what is left to write, and return the result.

        `interrupted` tells which signal, if any, asked for an early end.
        """
        self.check()
        for future in self._futures:
            future.result()
        assert self._final is not None
        step, state = self._final
        self.model.load_state_dict(state)
        is_evaluated = bool(self.history) and self.history[-1].step == step
        error = self.history[-1].test_error if is_evaluated else None
        summary = {**summary, **_times(summary["workers"]), "steps": step, "test_error": error}
        interrupted_by = interrupted()  # which may have come until now
        summary["interrupted_by"] = None if interrupted_by is None else signal.Signals(interrupted_by).name
        model = joined(self.model).cpu()
        if model is not self.model:
            state = model.state_dict()  # by the names of the user's own module
        if self.run_dir is not None:
            with self.problems.of_writing(self.run_dir.model):
                self.run_dir.write_model(state)
            with self.problems.of_writing(self.run_dir.summary):
                write_json(self.run_dir.summary, {**summary, "problems": self.problems.left})
        path = None if self.run_dir is None else self.run_dir.path
        return TrainResult(model, error, self.history, summary, path, interrupted_by, self.problems.left)


def _times(workers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """From the first batch taken to the last update made; takes these moments out of the workers' totals."""
    started = [worker.pop("started") for worker in workers]
    ended = [worker.pop("ended") for worker in workers]
    began = min((moment for moment in started if moment is not None), default=0.0)
    last = max((moment for moment in ended if moment is not None), default=began)
    samples = workers[0]["samples"]
    seconds = last - began
    return {"samples": samples, "wall_seconds": seconds, "samples_per_second": samples / seconds if seconds else 0.0}
