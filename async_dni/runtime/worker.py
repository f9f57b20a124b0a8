"""A worker: one stage in a process of its own, driven from queues.

                activation in                        activation out
    worker k-1 ═══════════════► ┌──────────────────┐ ═══════════════► worker k+1
                                │  Stage (k)       │
    worker k-1 ◄═══════════════ └──────────────────┘ ◄═══════════════ worker k+1
                gradient out                         gradient in

Who may wait for whom, and why two bounded queues between neighbours never deadlock, at capacity 1 too: a worker that
waits, for an activation or for room downstream, goes on taking gradients; only a gradient on its way upstream is waited
for without taking others. Stage 0 sends none, so it always takes; so stage 1's gradients always find room; so stage 1
always takes; and so on down. That holds whether a gradient goes upstream with the update or, with `target_lambda`, when
the batch is learnt from: each batch that was sent down is answered by the last stage, and by each stage before it that
has taken the answer; a worker that waits for a gradient that is due has sent down all that the stages after it need to
have for it.

A worker may be killed at any moment, and another started in its place, on the same queues. A message is in the queue or
not, and a slot is given back only when all that came of it was sent, so the new worker finds the batch in hand where it
was. It does that batch again, from the layers of the last snapshot, but for what was sent before, which the queues
remember (`TensorQueue.last_index`): nothing is sent twice. A gradient that comes back for an activation of the old
worker's is counted as lost where the stage has updated already, and learnt from where the update waits for it. What the
old worker was to send upstream later is lost with it: the new one begins with messages that say so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from ..learning.batch import Batch
from ..learning.blocks import named_blocks
from ..learning.random_state import RandomState
from ..learning.stage import Stage, to_device
from ..learning.structure import Gradient, Structure, form, parts_of, together
from ..record.schedule import CutKind
from ..record.telemetry import Telemetry
from .cuts.of_stage import Cuts
from .gradients import Gradients
from .guard import Guard
from .upstream import Upstream, has_sent
from .worker_spec import STOP, WorkerSpec

log = logging.getLogger(__name__)


class Worker:
    """Drives a stage from its queues until the stream of batches ends."""

    def __init__(
        self, spec: WorkerSpec, stage: Stage, telemetry: Telemetry, send_event: Callable[[object], None]
    ) -> None:
        self.spec, self.stage, self.telemetry, self.send_event = spec, stage, telemetry, send_event
        self.device = torch.device(spec.device)
        self.guard = Guard(spec, stage, telemetry)
        self.cuts = Cuts(spec, stage, telemetry, self.guard, send_event)
        self.upstream = Upstream(spec, stage, telemetry)
        self.gradients = Gradients(spec, stage, telemetry, self.guard, self.cuts, self.upstream, self._finish)
        self._in_hand: Batch | None = None
        self.end: int | None = None  # the number of batches in the stream, once it is known
        self.tracing = spec.traced.of(spec.run_dir, spec.index, self.queue_depths)
        if self.tracing is not None:
            telemetry.spans = self.tracing.spans

    def take_over(self, snapshot: dict[str, Any]) -> None:
        """Take up the last snapshot of a worker that died. The gradients that it waited for are lost."""
        self.stage.load_trained_state(to_device(snapshot, self.device))
        self.stage.pending.clear()
        self.upstream.give_up()
        RandomState.of(snapshot["rng"]).restore()
        log.info(
            "in place of a worker that died (%s) in batch %d: from the snapshot after batch %d",
            self.spec.heartbeat.phase,
            self.spec.heartbeat.step,
            self.spec.snapshots.step,
        )

    @property
    def in_hand(self) -> Batch | None:
        """The batch that is trained on, or whose gradient is learnt from."""
        return self.gradients.in_hand or self._in_hand

    def describe(self) -> str:
        """Where the worker is: its blocks, and the batch in hand."""
        names = [name for name, _ in named_blocks(self.stage.module)]
        blocks = f"(blocks {names[0]} to {names[-1]})" if len(names) > 1 else f"(block {names[0]})"
        if self.in_hand is None:
            return blocks
        return f"{blocks} on batch {self.in_hand.index}, {form(self.in_hand.x)}"

    def run(self) -> None:
        """Train on every batch of the stream."""
        step = self.spec.heartbeat.step
        self.upstream.flush()
        self.gradients.learn_restored()
        while True:
            self.gradients.learn_due(step)
            self._cut_until(step)
            self.guard.keep_snapshot(step)
            if self.tracing is not None:
                self.tracing.before(step, self.stage.pending)
            batch = self._take(step)
            if batch is None:
                break
            self._cut_until(batch.index)  # batches that were dropped upstream leave gaps
            if batch.index < self.spec.heartbeat.step:
                self._release_input()  # the worker before this one had done all but that
            else:
                self._train(batch)
            step = batch.index + 1
        assert self.end is not None
        self._cut_until(self.end - 1)
        self._end_stream(self.end)
        if self.tracing is not None:
            self.tracing.end()

    def queue_depths(self) -> dict[str, int]:
        """Messages in each of the queues that the worker takes from."""
        queues = {"activation": self.spec.activation_in, "gradient": self.spec.gradient_in}
        return {name: len(queue) for name, queue in queues.items() if queue is not None}

    # Batches.

    def _take(self, step: int) -> Batch | None:
        """The next batch, or None at the end of the stream. Gradients are taken while it is waited for."""
        batch = self._load(step) if self.spec.stream is not None else self._take_activation()
        if batch is not None and not self.telemetry.has_begun:
            self.telemetry.begin()
        return batch

    def _load(self, step: int) -> Batch | None:
        assert self.spec.stream is not None
        self.telemetry.enter("load", step)
        # A worker that died may have sent batches that this one does again: an early end comes after those; and where
        # it had told of an end, that is it.
        is_stopped = self.spec.flags[STOP] and not has_sent(self.spec.activation_out, step)
        if step >= self.spec.schedule.steps or step == self.spec.heartbeat.end or is_stopped:
            self.end = self.spec.heartbeat.end = step
            return None
        return self.spec.stream[step].to(self.device)

    def _take_activation(self) -> Batch | None:
        queue = self.spec.activation_in
        assert queue is not None
        while (message := queue.take()) is None:
            self.gradients.wait("wait_activation")
        if not message.tensors:
            self.end = message.index
            return None
        *parts, target = message.tensors
        x = together([part.to(self.device) for part in parts], self.stage.input_layout)
        # The targets outlive the slot: the synthesizer sees them again when the gradient comes.
        return Batch(message.index, x, target.to(self.device, copy=True))

    def _train(self, batch: Batch) -> None:
        stage, telemetry, self._in_hand = self.stage, self.telemetry, batch
        telemetry.enter("forward", batch.index)
        h = self.guard.forward(batch)
        learns = self._send_activation(batch, h)
        telemetry.enter("update", batch.index)
        grad_input = self.guard.update(lambda: stage.update(batch.index), batch.index)
        if not learns and (left := stage.forget(batch.index)) is not None:
            grad_input = left
        if not stage.holds_input(batch.index):
            self._finish(batch.index, len(batch), grad_input)
        self.gradients.learn_early(batch.index)

    def _finish(self, index: int, rows: int, grad_input: Gradient | None) -> None:
        """The layers were updated on a batch: send ∂/∂x upstream, if it is known, and give the slot back that the batch
        came in."""
        self.upstream.send(index, grad_input)
        has_loss = self.stage.is_last or not self.stage.gradients  # a stage's own, where none come back
        loss = self.stage.method.loss if has_loss else None
        self.telemetry.step(rows, None if loss is None else float(loss))
        self.spec.heartbeat.step = index + 1
        self._release_input()

    # Sending.

    def _send_activation(self, batch: Batch, h: Structure) -> bool:
        """Send h downstream, and say whether its gradient will be learnt from.

        A full queue is waited for, or the batch is dropped. What a worker that died had sent is not sent again: an
        update that waits takes its gradient all the same.
        """
        queue = self.spec.activation_out
        if queue is None:
            return True
        if has_sent(queue, batch.index):
            return self.stage.method.waits
        while not queue.has_room():
            if self.spec.drops:
                self.telemetry.dropped()
                return False
            self.gradients.wait("wait_room")
        self.telemetry.enter("send", batch.index)
        queue.put(batch.index, self.stage.weight_version, *parts_of(h), batch.target)
        return True

    def _release_input(self) -> None:
        if self.spec.activation_in is not None:
            self.spec.activation_in.release()

    # Cuts, and the end.

    def _cut_until(self, step: int) -> None:
        """Make the cuts that are due up to `step` batches."""
        for cut, kind in self.cuts.due(step):
            self._cut(cut, kind, is_final=False)

    def _cut(self, step: int, kind: CutKind, is_final: bool) -> None:
        if kind is CutKind.FULL and self.stage.method.waits:
            self.gradients.learn_all()  # an update that waits has a graph, which can't be kept
        self.cuts.make(step, kind, is_final, self.gradients.arrived)

    def _end_stream(self, end: int) -> None:
        """Tell the next stage that no batch follows; then learn from the gradients that are still to come.

        With a fixed lag, those that are not due yet are kept for the checkpoint instead.
        """
        queue = self.spec.activation_out
        if queue is not None and not has_sent(queue, end):
            while not queue.has_room():
                self.gradients.wait("wait_room")
            queue.put(end, self.stage.weight_version)
        if self.spec.lag is None:
            self.gradients.learn_all()
        self._cut(end, CutKind.FULL, is_final=True)
        while self.cuts.open:
            self.gradients.wait("wait_gradient")
        if self.spec.gradient_in is not None:
            self.spec.gradient_in.close()  # more may come, for batches that a worker before this one died with
