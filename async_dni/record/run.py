"""What becomes of a run's cuts: evaluations, gradient checks, checkpoints, and in the end the trained network and the summary.

A file that can't be written, or an evaluation that fails, ends nothing: it is told (`Problems`), and the run goes on.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..learning.blocks import copy_of
from ..network.split import joined
from .callback import Callback, Callbacks
from .checkpoint import Checkpoint, save_checkpoint
from .early_stopping import EarlyStopping
from .evaluate import Evaluation
from .evaluator import Evaluator
from .gradients.check import GradientCheck, summary_of
from .gradients.checker import GradientChecker
from .outcome import best_of, times_of, write_outcome
from .problems import Problems
from .progress import Progress
from .result import TrainResult
from .run_dir import RunDir
from .schedule import CutKind

MOST_WAITING = 16  # cuts, before those that come for a gradient check alone are passed over: each holds a network


class Run:
    """One run's results. Cuts are evaluated and written in a thread, so that the workers are watched meanwhile."""

    def __init__(
        self,
        model: nn.Sequential,
        evaluator: Evaluator | None,
        checker: GradientChecker | None,
        run_dir: RunDir | None,
        progress: Progress,
        *,
        steps: int,  # of the whole stream
        eval_every: int,  # steps, 0: at the end only
        keep_checkpoints: int,
        threads: int,
        about: dict[str, Any],  # what a checkpoint says of the run: identity, blocks, split
        wall_seconds: float,  # of the run that this one goes on from
        check: Callable[[], None],  # raises where the run is to end at once
        end_early: Callable[[], None],  # asks for an early end
        early_stopping: EarlyStopping,
        callbacks: Sequence[Callback],
        problems: Problems,
        traces: bool,  # whether the workers write what they do
    ) -> None:
        self.model, self.evaluator, self.checker = copy_of(model), evaluator, checker
        self.early_stopping, self.callbacks, self.end_early = early_stopping, Callbacks(callbacks, end_early), end_early
        self.run_dir, self.progress, self.eval_every, self.keep_checkpoints = (
            run_dir,
            progress,
            eval_every,
            keep_checkpoints,
        )
        self.steps, self.about, self.history, self.check = steps, about, list[Evaluation](), check
        self.gradient_checks: list[GradientCheck] = []
        self.problems, self.traces = problems, traces
        self._unwritten: list[dict[str, Any]] = []  # lines of metrics.jsonl
        self._threads, self._wall_seconds, self._began = threads, wall_seconds, time.monotonic()
        self._final: tuple[int, dict[str, Tensor], dict[str, Tensor] | None] | None = None  # step, network, its average
        self._executor = ThreadPoolExecutor(1, "cuts")
        self._futures: list[Future[None]] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """While the run goes on; what is under way is finished at the end."""
        try:
            yield
        except BaseException:
            self._executor.shutdown(wait=True)
            self.progress.on_closed()
            raise
        self._executor.shutdown(wait=True)

    def on_start(self) -> None:
        """The workers are ready, and begin."""
        self._began = time.monotonic()
        self.progress.on_begin()

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        """A worker's record; under "unwritten" it says which file of the worker's could not be written, and why."""
        if unwritten := record.get("unwritten"):
            self.problems.add(f"worker {worker}", unwritten)
        else:
            self.problems.solved(f"worker {worker}")
        self.progress.on_record(worker, record)
        self.callbacks.on_step(worker, record)

    def on_cut(self, step: int, states: list[dict[str, Any]], kind: CutKind, is_final: bool) -> None:
        """Take the stages' states after `step` batches (a full one is a checkpoint), and return at once."""
        if self._passes_over(step, kind):
            return
        seconds = self._wall_seconds + time.monotonic() - self._began
        self._futures.append(self._executor.submit(self._handle, step, states, kind, is_final, seconds))

    def _passes_over(self, step: int, kind: CutKind) -> bool:
        """Whether a cut that came for a gradient check alone is let go, as others wait before it."""
        is_behind = len(self._futures) >= MOST_WAITING and not self._futures[-MOST_WAITING].done()
        if kind is not CutKind.MODELS or not is_behind or (self.eval_every and step % self.eval_every == 0):
            return False
        rest = f"{MOST_WAITING} were waiting; see --gradient-check-every"
        self.progress.on_warning(f"the gradient check after step {step} was passed over, as {rest}")
        return True

    def wait(self) -> None:
        """Until the cuts so far are evaluated and written. What one of them raised is raised by `result`."""
        wait(self._futures)

    def on_failure(self, step: int, states: list[dict[str, Any]]) -> None:
        """Keep the stages' states after about `step` batches, of a run that failed, as a checkpoint."""
        if self.run_dir is not None:
            self.checker = None  # the snapshots need not be of the same batch
            self.on_cut(step, states, CutKind.FULL, False)
            self.progress.on_warning(f"the stages' last snapshots are kept as a checkpoint, step {step}")

    def _handle(
        self, step: int, states: list[dict[str, Any]], kind: CutKind, is_final: bool, wall_seconds: float
    ) -> None:
        self.check()
        torch.set_num_threads(self._threads)  # this thread's
        model = {name: value for state in states for name, value in state["model"].items()}
        if kind is CutKind.FULL and self.run_dir is not None:
            checkpoint = Checkpoint.of(states, step=step, wall_seconds=wall_seconds, **self.about)
            with self.problems.of_writing(self.run_dir.checkpoints):
                path = save_checkpoint(self.run_dir.checkpoints, checkpoint, self.keep_checkpoints)
                self.progress.on_checkpoint(step)
                self.callbacks.on_checkpoint(path)
        averages = {name: value for state in states for name, value in state.get("average", {}).items()}
        averaged = {**model, **averages} if any("average" in state for state in states) else None
        if is_final:
            self._final = step, model, averaged
        if self.checker is not None and self.checker.is_due(step):
            self._check_gradients(self.checker, step, wall_seconds, states)
        if self.evaluator is not None and (is_final or (self.eval_every and step % self.eval_every == 0)):
            self._evaluate(self.evaluator, step, wall_seconds, averaged or model)

    def _evaluate(self, evaluator: Evaluator, step: int, wall_seconds: float, state: dict[str, Tensor]) -> None:
        if self.history and self.history[-1].step == step and evaluator.is_of(state):
            return  # a run that was ended by its last evaluation, before another batch
        self.progress.on_evaluating(step)
        with self.problems.of_evaluation(step):
            self._keep(evaluator.evaluate(step, wall_seconds, state))

    def _keep(self, evaluation: Evaluation) -> None:
        self.history.append(evaluation)
        self._append(evaluation.as_dict())
        self.progress.on_evaluation(evaluation)
        self.callbacks.on_evaluation(evaluation)
        if self.early_stopping.look(evaluation):
            self.end_early()
            self.progress.on_note(f"{self.early_stopping.sentence}")

    def _check_gradients(
        self, checker: GradientChecker, step: int, wall_seconds: float, states: Sequence[dict[str, Any]]
    ) -> None:
        if self.gradient_checks and self.gradient_checks[-1].step == step:
            return  # a run that was ended after this very cut, before another batch
        with self.problems.of_evaluation(step, "gradient check"):
            check = checker.check(step, wall_seconds, states)
            self.gradient_checks.append(check)
            self._append(check.as_dict())
            self.progress.on_gradient_check(check)
            self.callbacks.on_gradient_check(check)

    def _append(self, line: dict[str, Any]) -> None:
        """To metrics.jsonl, after what could not be written before."""
        if self.run_dir is not None:
            self._unwritten.append(line)
            with self.problems.of_writing(self.run_dir.metrics):
                while self._unwritten:
                    self.run_dir.append_metrics(self._unwritten[0])
                    del self._unwritten[0]

    def result(self, summary: dict[str, Any], interrupted: Callable[[], int | None]) -> TrainResult:
        """Wait for the evaluations, write what is left to write, and return the result.

        `interrupted` tells which signal, if any, asked for an early end.
        """
        self.check()
        for future in self._futures:
            future.result()
        assert self._final is not None
        step, state, averaged = self._final
        self.model.load_state_dict(state)
        averaged_model: nn.Module | None = None
        if averaged is not None:
            copied = copy_of(self.model)
            copied.load_state_dict(averaged)
            averaged_model = joined(copied).cpu()
        is_evaluated = bool(self.history) and self.history[-1].step == step
        error, metrics = (self.history[-1].test_error, self.history[-1].metrics) if is_evaluated else (None, {})
        summary = {**summary, **times_of(summary["workers"]), "steps": step, "test_error": error, "metrics": metrics}
        summary |= {
            "best": best_of(self.early_stopping),
            "ended_early": self.early_stopping.sentence if step < self.steps else None,
        }
        if self.checker is not None:
            summary["gradient_checks"] = summary_of(self.gradient_checks)
        interrupted_by = interrupted()  # which may have come until now
        summary["interrupted_by"] = None if interrupted_by is None else signal.Signals(interrupted_by).name
        model = joined(self.model).cpu()
        if model is not self.model:
            state = model.state_dict()  # by the names of the user's own module
        if self.run_dir is not None:
            write_outcome(self.run_dir, self.problems, state, averaged_model, summary, self.traces)
        path = None if self.run_dir is None else self.run_dir.path
        result = TrainResult(
            model,
            error,
            self.history,
            summary,
            path,
            interrupted_by,
            self.problems.left,
            self.early_stopping.best,
            averaged_model,
            self.gradient_checks,
        )
        self.progress.on_closed()
        self.callbacks.on_end(result)
        return result
