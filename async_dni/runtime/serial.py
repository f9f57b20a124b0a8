"""The stages in one process, in a defined order: the reference for the workers, and the debugger's friend.

Before batch n is begun, the gradients of batch n - lag are learnt from, in the last stage first (its update may have
one to send, that the stage before it is to learn from, too); then batch n goes down. With three stages and lag 1,
in the order of time:

    stage 0   forward n, update n ┐                                                             ┌ learn n    forward n+1 …
    stage 1                       └► forward n, update n ┐ (δ_0 to stage 0)           ┌ learn n ┘
    stage 2                                              └► forward n, update n ──────┘ (δ_1 to stage 1)

This is the paper's scheme, and the five updates of a batch in the experiment that this project grew out of. With
backprop, `update` waits, and `learn` is the update. With lag 2, `learn n` comes before forward n+2, and so on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..data.batches import Batches
from ..learning.batch import Batch
from ..learning.divergence import REMEDY, DivergenceError
from ..learning.random_state import RandomState
from ..learning.stage import Stage
from ..learning.structure import Gradient
from ..learning.updates.loss_scale import Float16OverflowError
from ..record.schedule import CutKind
from ..record.telemetry import Telemetry
from .cuts.of_stage import state_of


class Serial:
    """Drives all stages of a network, on the CPU, over a stream of batches."""

    def __init__(self, stages: Sequence[Stage], lag: int = 1, seed: int = 0) -> None:
        self.stages, self.lag = stages, lag
        self.telemetry = [Telemetry() for _ in stages]
        # gradients under way to each stage, by batch index; None: it will not come
        self.arrived: list[dict[int, Gradient | None]] = [{} for _ in stages]
        self._rng = [stage_rng(seed, k) for k in range(len(stages))]

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Take up the gradients under way and the random states of a checkpoint; the stages have taken up theirs."""
        self.arrived = [dict(state["gradients"]) for state in states]
        self._rng = [
            rng if state["rng"] is None else RandomState.of(state["rng"])
            for rng, state in zip(self._rng, states, strict=True)
        ]

    def run(self, stream: Batches, start: int, before_batch: Callable[[int], bool]) -> int:
        """Train from batch `start` to the end of the stream; returns the number of batches trained on.

        `before_batch(n)` is called before batch n is begun, and ends the run where it says False.
        """
        for telemetry in self.telemetry:
            telemetry.start = start
            telemetry.begin()
        for step in range(start, stream.steps):
            self.learn_due(step)
            if not before_batch(step):
                return step
            self.train(stream[step])
        self.learn_due(stream.steps)
        return stream.steps

    def learn_due(self, step: int) -> None:
        """Before batch `step` is begun: learn from the gradients that are due."""
        for index in sorted({index for arrived in self.arrived for index in arrived if index <= step - self.lag}):
            self._learn(index)

    def _learn(self, index: int) -> None:
        for k in reversed(range(len(self.stages) - 1)):
            if index not in self.arrived[k]:
                continue
            stage, telemetry = self.stages[k], self.telemetry[k]
            telemetry.enter("learn", index)
            waited, defers = stage.holds_input(index), stage.defers(index)
            newest = next(reversed(stage.pending))
            gradient = self.arrived[k].pop(index)
            if gradient is None:
                self._lose(k, index)
                continue
            try:
                with self._at(k, index):
                    grad_input = stage.learn(index, gradient)
            except Float16OverflowError:
                self._pass_over(k, index)
                continue
            if waited:
                telemetry.updated(stage.updater.made)
            if defers and grad_input is None:
                self._lose(k - 1, index)
            elif waited or defers:
                self._send_gradient(k, index, grad_input)
            loss = None if waited else stage.method.loss
            telemetry.learnt(newest + 1 - index, None if loss is None else float(loss))
            telemetry.enter("wait_activation")

    def train(self, batch: Batch) -> None:
        """One batch through all stages."""
        x = batch.x
        for k, stage in enumerate(self.stages):
            telemetry = self.telemetry[k]
            try:
                with self._at(k, batch.index):
                    telemetry.enter("forward", batch.index)
                    h = stage.forward(Batch(batch.index, x, batch.target))
                    telemetry.enter("update", batch.index)
                    grad_input = stage.update(batch.index)
            except Float16OverflowError:
                self._pass_over(k, batch.index)
            else:
                if not stage.holds_input(batch.index):
                    telemetry.updated(stage.updater.made)
                    self._send_gradient(k, batch.index, grad_input)
            loss = stage.method.loss if stage.is_last or not stage.gradients else None
            telemetry.step(len(batch), None if loss is None else float(loss))
            telemetry.enter("wait_activation")
            x = h

    def _pass_over(self, k: int, index: int) -> None:
        """Stage k makes no update on a batch, so the stage before it gets no gradient; nor do those before that wait for one."""
        self.telemetry[k].skipped()
        if not self.stages[k].gets_gradient(index) or self.stages[k].method.waits:
            self.stages[k].forget(index)
        if k > 0 and not self.stages[k].defers(index):
            self._lose(k - 1, index)

    def _lose(self, k: int, index: int) -> None:
        """No gradient comes to stage k for a batch."""
        stage = self.stages[k]
        if index not in stage.pending:
            return
        waited, defers = stage.holds_input(index), stage.defers(index)
        grad_input = stage.forget(index)
        if waited:
            self._pass_over(k, index)
        elif grad_input is not None:
            self._send_gradient(k, index, grad_input)
        elif defers:
            self._lose(k - 1, index)

    def _send_gradient(self, k: int, index: int, grad_input: Gradient | None) -> None:
        if grad_input is not None and k > 0:
            self.arrived[k - 1][index] = grad_input

    def states(self) -> list[dict[str, Any]]:
        """Every stage's state, as of `OpenCut`: all that it needs to go on. Updates that wait are made first."""
        if self.stages[0].method.waits:
            for index in list(self.stages[0].pending):
                self._learn(index)
        return [
            {**stage.state_dict(), "rng": rng.as_dict(), "gradients": dict(arrived)}
            for stage, rng, arrived in zip(self.stages, self._rng, self.arrived, strict=True)
        ]

    def cut(self, kind: CutKind) -> list[dict[str, Any]]:
        """Every stage's state, as of a cut of this kind."""
        return self.states() if kind is CutKind.FULL else [state_of(stage, kind) for stage in self.stages]

    def totals(self) -> list[dict[str, Any]]:
        """Every stage's totals, as a worker's."""
        return [{**telemetry.totals(), "pid": os.getpid()} for telemetry in self.telemetry]

    @contextmanager
    def _at(self, k: int, index: int) -> Iterator[None]:
        """What stage k does on a batch. Random numbers are its own, as they are in a process of its own."""
        self._rng[k].restore()
        try:
            yield
        except Float16OverflowError:
            self._rng[k] = RandomState.capture()
            raise
        except DivergenceError as error:
            raise DivergenceError(f"stage {k} diverged on batch {index}: {error}; {REMEDY}") from error
        self._rng[k] = RandomState.capture()


def stage_rng(seed: int, index: int) -> RandomState:
    """The random states that a stage starts with."""
    state = torch.Generator().manual_seed(seed * 1_000_003 + index).get_state()
    return replace(RandomState.seeded(seed, index), torch=state)
