"""The stages in one process, in a defined order: the reference for the workers, and the debugger's friend.

Before batch n is begun, the gradients of batch n - lag are learnt from, the last stage's first; then batch n goes down.
With three stages and lag 1:

    stage 0   forward n, update n                                                         learn n    forward n+1 …
    stage 1                        forward n, update n                           learn n
    stage 2                                             forward n, update n
                       h_0 ↓          δ_0 ↑      h_1 ↓          δ_1 ↑
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .data import Batch, BatchStream
from .stage import Stage
from .telemetry import Telemetry


class Serial:
    """Drives all stages of a network, on the CPU, over a stream of batches."""

    def __init__(self, stages: Sequence[Stage], lag: int = 1) -> None:
        self.stages, self.lag = stages, lag
        self.telemetry = [Telemetry() for _ in stages]
        # gradients under way to each stage, by batch index
        self.arrived: list[dict[int, Tensor]] = [{} for _ in stages]

    def run(self, stream: BatchStream, on_step: Callable[[int], bool]) -> None:
        """Train on the stream; `on_step(n)` is called before batch n is begun, and ends the run where it says False."""
        for telemetry in self.telemetry:
            telemetry.begin()
        for step in range(stream.steps):
            self.learn_due(step)
            if not on_step(step):
                return
            self.train(stream[step])
        self.learn_due(stream.steps)

    def learn_due(self, step: int) -> None:
        """Learn from the gradients of batch `step - lag`, in the last stage first: it may have one to send."""
        due = step - self.lag
        for k in reversed(range(len(self.stages) - 1)):
            if due not in self.arrived[k]:
                continue
            stage, telemetry = self.stages[k], self.telemetry[k]
            telemetry.enter("learn")
            waited = stage.holds_input(due)
            newest = next(reversed(stage.pending))
            grad_input = stage.learn(due, self.arrived[k].pop(due))
            if waited:
                telemetry.updated()
                self._send_gradient(k, due, grad_input)
            loss = None if waited or stage.synthesizer_loss is None else float(stage.synthesizer_loss)
            telemetry.learnt(newest - due, loss)

    def train(self, batch: Batch) -> None:
        """One batch through all stages."""
        x = batch.x
        for k, stage in enumerate(self.stages):
            telemetry = self.telemetry[k]
            telemetry.enter("forward")
            h = stage.forward(Batch(batch.index, x, batch.target))
            telemetry.enter("update")
            grad_input = stage.update(batch.index)
            if not stage.holds_input(batch.index):
                telemetry.updated()
                self._send_gradient(k, batch.index, grad_input)
            telemetry.step(len(x), None if stage.loss is None else float(stage.loss))
            telemetry.enter("wait_activation")
            x = h

    def _send_gradient(self, k: int, index: int, grad_input: Tensor | None) -> None:
        if grad_input is not None and k > 0:
            self.arrived[k - 1][index] = grad_input

    def totals(self) -> list[dict[str, Any]]:
        """Every stage's totals, as a worker's."""
        return [{**telemetry.totals(), "pid": os.getpid()} for telemetry in self.telemetry]

    def states(self) -> list[dict[str, Tensor]]:
        """Every stage's layers, copied."""
        return [
            {name: torch.clone(value) for name, value in stage.module.state_dict().items()} for stage in self.stages
        ]
