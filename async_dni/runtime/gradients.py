"""The gradients that come back to a stage: taken, kept until they are due, learnt from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..learning.batch import Batch
from ..learning.stage import Stage
from ..learning.structure import Gradient, mapped, one_or_all
from ..record.telemetry import INTERVAL, Telemetry
from .cuts.of_stage import Cuts
from .guard import Guard
from .upstream import Upstream
from .worker_spec import WorkerSpec


class Gradients:
    """Takes gradients from the queue. `finish(index, rows, ∂/∂x)` is called after an update that had waited for one."""

    def __init__(
        self,
        spec: WorkerSpec,
        stage: Stage,
        telemetry: Telemetry,
        guard: Guard,
        cuts: Cuts,
        upstream: Upstream,
        finish: Callable[[int, int, Gradient | None], None],
    ) -> None:
        self.spec, self.stage, self.telemetry, self.guard, self.cuts = spec, stage, telemetry, guard, cuts
        self.upstream, self.finish = upstream, finish
        self.device = torch.device(spec.device)
        # those that are not due yet, by batch index; None: it will not come
        self.arrived: dict[int, Gradient | None] = {}
        self.in_hand: Batch | None = None  # whose gradient is being learnt from

    def wait(self, phase: str) -> None:
        """Sleep until something changed, unless there was a gradient to take."""
        if not self.take():
            self.telemetry.enter(phase)
            self.spec.doorbell.wait(INTERVAL)

    def take(self) -> int:
        """Take every gradient that has come: learn from it now, or keep it until it is due. Returns how many came."""
        queue, taken = self.spec.gradient_in, 0
        while queue is not None and (message := queue.take()) is not None:
            came = [tensor.to(self.device) for tensor in message.tensors]
            gradient = one_or_all(came) if came else None
            self.cuts.add(message.index, gradient)
            if self._keep(message.index, gradient):
                queue.release()
            taken += 1
        self.cuts.send_whole()
        return taken

    def _keep(self, index: int, gradient: Gradient | None) -> bool:
        """Learn from a gradient, or keep it; returns whether its slot can be given back."""
        waits, is_pending = self.stage.method.waits, index in self.stage.pending
        # of a batch that a worker that died had sent, and this one has still to do again
        is_early = waits and not is_pending and index >= self.spec.heartbeat.step
        if not is_pending and not is_early:
            self.telemetry.lost()
        elif self.spec.lag is None and not is_early:
            self._learn(index, gradient)
        elif waits:
            self.arrived[index] = gradient  # in its slot until it is learnt from, so that it can't die with the worker
            return False
        else:
            self.arrived[index] = None if gradient is None else mapped(Tensor.clone, gradient)
        return True

    def learn_due(self, step: int) -> None:
        """Before batch `step` is begun: learn from what has come; with a fixed lag, wait for what is due."""
        self.take()
        while self.spec.lag is not None and self.stage.pending:
            oldest = next(iter(self.stage.pending))
            if oldest > step - self.spec.lag:
                return
            self._learn_awaited(oldest)

    def learn_early(self, index: int) -> None:
        """The gradient of a batch came before the batch was done again: with no fixed lag it is due now."""
        if self.spec.lag is None and index in self.arrived:
            self._learn_awaited(index)

    def learn_all(self) -> None:
        """Wait for every gradient that is under way, and learn from it."""
        while self.stage.pending:
            if self.spec.lag is None:
                self.wait("wait_gradient")
            else:
                self._learn_awaited(next(iter(self.stage.pending)))

    def learn_restored(self) -> None:
        """Learn from the gradients that came with a checkpoint; without a fixed lag they are due at once."""
        if self.spec.lag is None:
            for index in sorted(self.arrived):
                self._learn(index, self.arrived.pop(index))

    def _learn_awaited(self, index: int) -> None:
        """Wait for a gradient, and learn from it."""
        while index not in self.arrived:
            self.wait("wait_gradient")
        self._learn(index, self.arrived.pop(index))
        if self.stage.method.waits and self.spec.gradient_in is not None:
            self.spec.gradient_in.release()

    def _learn(self, index: int, grad_output: Gradient | None) -> None:
        """Learn from a gradient; None: it will not come."""
        self.telemetry.enter("learn", index)
        pending = self.stage.pending[index]
        lag = next(reversed(self.stage.pending)) + 1 - index
        waited, defers, grad_input = self.stage.holds_input(index), self.stage.defers(index), None
        self.in_hand = Batch(index, one_or_all(pending.h if pending.x is None else pending.x), pending.target)
        if grad_output is not None:
            grad_input = self.guard.update(lambda: self.stage.learn(index, grad_output), index, updates=waited)
        else:
            grad_input = self.stage.forget(index)
            if waited:
                self.telemetry.skipped()
        if waited:
            self.finish(index, len(pending.target), grad_input)
        elif defers:
            self.upstream.send(index, grad_input)
        if grad_output is not None:
            loss = None if waited else self.stage.method.loss
            self.telemetry.learnt(lag, None if loss is None else float(loss))
        self.in_hand = None
