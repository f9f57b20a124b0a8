"""A worker: one stage in a process of its own, driven from queues.

                activation in                        activation out
    worker k-1 ═══════════════► ┌──────────────────┐ ═══════════════► worker k+1
                                │  Stage (k)       │
    worker k-1 ◄═══════════════ └──────────────────┘ ◄═══════════════ worker k+1
                gradient out                         gradient in

Who may wait for whom, and why two bounded queues between neighbours never deadlock, at capacity 1 too: a worker that
waits, for an activation or for room downstream, goes on taking gradients; only a gradient on its way upstream is waited
for without taking others. Stage 0 sends none, so it always takes; so stage 1's gradients always find room; so stage 1
always takes; and so on down.

A worker may be killed at any moment, and another started in its place, on the same queues. A message is in the queue or
not, and a slot is given back only when all that came of it was sent, so the new worker finds the batch in hand where it
was. It does that batch again, from the layers of the last snapshot, but for what was sent before, which the queues
remember (`TensorQueue.last_index`): nothing is sent twice. A gradient that comes back for an activation of the old
worker's is counted as lost where the stage has updated already, and learnt from where the update waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from ..data.stream import BatchStream
from ..learning.batch import Batch
from ..learning.blocks import named_blocks
from ..learning.divergence import DivergenceError
from ..learning.stage import Stage, to_device
from ..record.heartbeat import Heartbeat
from ..record.run_dir import RunDir
from ..record.schedule import Schedule
from ..record.telemetry import INTERVAL, Telemetry
from .events import Cut, to_bytes
from .open_cut import OpenCut
from .snapshots import Snapshots
from .transport.doorbell import Doorbell
from .transport.memory_file import MemoryFile
from .transport.tensor_queue import TensorQueue

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker is made from. `flags` are in shared memory, set by the supervisor: `START`, `STOP`."""

    index: int
    # a pickled StageSpec: pickled plainly, its tensors are copied, not shared; and not sent with this, through a pipe
    # that holds 64 KB, where the supervisor would wait for a process that does not read
    stage: MemoryFile
    device: str
    threads: int
    cores: tuple[int, ...] | None
    seed: int
    schedule: Schedule
    lag: int | None  # None: gradients are learnt from when they come
    drops: bool  # when the activation queue is full
    stream: BatchStream | None  # stage 0's
    activation_in: TensorQueue | None
    activation_out: TensorQueue | None
    gradient_in: TensorQueue | None
    gradient_out: TensorQueue | None
    doorbell: Doorbell
    heartbeat: Heartbeat
    snapshots: Snapshots
    snapshot_every: int  # steps between snapshots, 0: none
    on_divergence: str
    flags: Any  # RawArray("b", 2)
    events: Connection
    run_dir: RunDir | None
    last_cut: int = 0  # of workers of this stage that died before this one: the newest that was received


START, STOP = 0, 1  # positions in WorkerSpec.flags


class Worker:
    """Drives a stage from its queues until the stream of batches ends."""

    def __init__(
        self, spec: WorkerSpec, stage: Stage, telemetry: Telemetry, send_event: Callable[[object], None]
    ) -> None:
        self.spec, self.stage, self.telemetry, self.send_event = spec, stage, telemetry, send_event
        self.device = torch.device(spec.device)
        # gradients that are not due yet, by batch index; None: it will not come
        self.arrived: dict[int, Tensor | None] = {}
        self.open_cuts: list[OpenCut] = []
        self.last_cut = max(spec.schedule.start, spec.last_cut)
        self.last_snapshot = self.restored_at = -1
        self.in_hand: Batch | None = None
        self.end: int | None = None  # the number of batches in the stream, once it is known

    def take_over(self, snapshot: dict[str, Any]) -> None:
        """Take up the last snapshot of a worker that died. The gradients that it waited for are lost."""
        self.stage.load_trained_state(to_device(snapshot, self.device))
        self.stage.pending.clear()
        torch.set_rng_state(snapshot["rng"])
        log.info(
            "in place of a worker that died (%s) in batch %d: from the snapshot after batch %d",
            self.spec.heartbeat.phase,
            self.spec.heartbeat.step,
            self.spec.snapshots.step,
        )

    def describe(self) -> str:
        """Where the worker is: its blocks, and the batch in hand."""
        names = [name for name, _ in named_blocks(self.stage.module)]
        blocks = f"(blocks {names[0]} to {names[-1]})" if len(names) > 1 else f"(block {names[0]})"
        if self.in_hand is None:
            return blocks
        x = self.in_hand.x
        return f"{blocks} on batch {self.in_hand.index}, {list(x.shape)} {x.dtype}"

    def run(self) -> None:
        """Train on every batch of the stream."""
        step = self.spec.heartbeat.step
        if self.spec.lag is None:
            self._learn_restored()
        while True:
            self._learn_due(step)
            self._cut_until(step)
            self._keep_snapshot(step)
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
        self.telemetry.enter("load")
        # A worker that died may have sent batches that this one does again: an early end comes after those; and where
        # it had told of an end, that is it.
        is_stopped = self.spec.flags[STOP] and not has_sent(self.spec.activation_out, step)
        if step >= self.spec.stream.steps or step == self.spec.heartbeat.end or is_stopped:
            self.end = self.spec.heartbeat.end = step
            return None
        batch = self.spec.stream[step]
        return Batch(step, batch.x.to(self.device), batch.target.to(self.device))

    def _take_activation(self) -> Batch | None:
        queue = self.spec.activation_in
        assert queue is not None
        while (message := queue.take()) is None:
            self._wait("wait_activation")
        if not message.tensors:
            self.end = message.index
            return None
        x, target = message.tensors
        # The targets outlive the slot: the synthesizer sees them again when the gradient comes.
        return Batch(message.index, x.to(self.device), target.to(self.device, copy=True))

    def _train(self, batch: Batch) -> None:
        stage, telemetry, self.in_hand = self.stage, self.telemetry, batch
        telemetry.enter("forward")
        h = self._forward(batch)
        learns = self._send_activation(batch, h)
        telemetry.enter("update")
        grad_input = self._guarded(lambda: stage.update(batch.index), batch.index)
        if not stage.holds_input(batch.index):
            self._finish(batch.index, len(batch.x), grad_input)
        if not learns:
            stage.forget(batch.index)
        if self.spec.lag is None and batch.index in self.arrived:
            self._learn_arrived(batch.index)

    def _finish(self, index: int, rows: int, grad_input: Tensor | None) -> None:
        """The layers were updated on a batch: send ∂/∂x upstream, and give the slot back that the batch came in."""
        self._send_gradient(index, grad_input)
        loss = self.stage.method.loss if self.stage.is_last else None
        self.telemetry.step(rows, None if loss is None else float(loss))
        self.spec.heartbeat.step = index + 1
        self._release_input()

    # Sending.

    def _send_activation(self, batch: Batch, h: Tensor) -> bool:
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
            self._wait("wait_room")
        self.telemetry.enter("send")
        queue.put(batch.index, self.stage.weight_version, h, batch.target)
        return True

    def _send_gradient(self, index: int, grad_input: Tensor | None) -> None:
        """Send ∂/∂x upstream; where there should be one and is none, a message that says so."""
        queue = self.spec.gradient_out
        if queue is None or not self.stage.sends_gradient(index) or has_sent(queue, index):
            return
        while not queue.has_room():
            self.telemetry.enter("wait_room")
            self.spec.doorbell.wait(INTERVAL)
        self.telemetry.enter("send")
        queue.put(index, self.stage.weight_version, *([] if grad_input is None else [grad_input]))

    def _release_input(self) -> None:
        if self.spec.activation_in is not None:
            self.spec.activation_in.release()

    # Gradients.

    def _wait(self, phase: str) -> None:
        """Sleep until something changed, unless there was a gradient to take."""
        if not self._take_gradients():
            self.telemetry.enter(phase)
            self.spec.doorbell.wait(INTERVAL)

    def _take_gradients(self) -> int:
        """Take every gradient that has come: learn from it now, or keep it until it is due."""
        queue, taken = self.spec.gradient_in, 0
        while queue is not None and (message := queue.take()) is not None:
            gradient = message.tensors[0].to(self.device) if message.tensors else None
            for cut in self.open_cuts:
                cut.add(message.index, gradient)
            if self._keep_gradient(message.index, gradient):
                queue.release()
            taken += 1
        self._send_complete_cuts()
        return taken

    def _keep_gradient(self, index: int, gradient: Tensor | None) -> bool:
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
            self.arrived[index] = None if gradient is None else gradient.clone()
        return True

    def _learn_due(self, step: int) -> None:
        """Before batch `step` is begun: learn from what has come; with a fixed lag, wait for what is due."""
        self._take_gradients()
        while self.spec.lag is not None and self.stage.pending:
            oldest = next(iter(self.stage.pending))
            if oldest > step - self.spec.lag:
                return
            self._learn_arrived(oldest)

    def _learn_arrived(self, index: int) -> None:
        """Wait for a gradient, with a fixed lag, and learn from it."""
        while index not in self.arrived:
            self._wait("wait_gradient")
        self._learn(index, self.arrived.pop(index))
        if self.stage.method.waits and self.spec.gradient_in is not None:
            self.spec.gradient_in.release()

    def _learn_all(self) -> None:
        """Wait for every gradient that is under way, and learn from it."""
        while self.stage.pending:
            if self.spec.lag is None:
                self._wait("wait_gradient")
            else:
                self._learn_arrived(next(iter(self.stage.pending)))

    def _learn_restored(self) -> None:
        """Learn from the gradients that came with a checkpoint; without a fixed lag they are due at once."""
        for index in sorted(self.arrived):
            self._learn(index, self.arrived.pop(index))

    def _learn(self, index: int, grad_output: Tensor | None) -> None:
        """Learn from a gradient; None: it will not come."""
        self.telemetry.enter("learn")
        pending, in_hand = self.stage.pending[index], self.in_hand
        lag = next(reversed(self.stage.pending)) + 1 - index
        waited, grad_input = self.stage.holds_input(index), None
        self.in_hand = Batch(index, pending.h if pending.x is None else pending.x, pending.target)
        if grad_output is not None:
            grad_input = self._guarded(lambda: self.stage.learn(index, grad_output), index, updates=waited)
        else:
            self.stage.forget(index)
            if waited:
                self.telemetry.skipped()
        if waited:
            self._finish(index, len(pending.h), grad_input)
        if grad_output is not None:
            loss = None if waited else self.stage.method.loss
            self.telemetry.learnt(lag, None if loss is None else float(loss))
        self.in_hand = in_hand

    # Divergence.

    def _forward(self, batch: Batch) -> Tensor:
        """The stage's output. One that is not finite goes on to the stages after, where an update is to be passed over:
        none of them makes one from it, and each has its message of every batch."""
        while True:
            try:
                return self.stage.forward(batch)
            except DivergenceError as error:
                if self.spec.on_divergence == "skip":
                    self.stage.check_weights()  # with those, every update would be passed over
                    log.warning("batch %d: %s", batch.index, error)
                    return self.stage.pending[batch.index].h.detach()
                self._restore(error)

    def _guarded(self, learn: Callable[[], Tensor | None], index: int, updates: bool = True) -> Tensor | None:
        """Make an update; where a number is not finite, do what `on_divergence` says. Returns ∂/∂x, if there is one."""
        try:
            grad_input = learn()
        except DivergenceError as error:
            if self.spec.on_divergence == "skip":
                log.warning("batch %d: %s: passed over", index, error)
            else:
                self._restore(error)
            self.telemetry.skipped()
            if not self.stage.gets_gradient(index) or self.stage.holds_input(index):
                self.stage.forget(index)
            return None
        if updates and not self.stage.holds_input(index):
            self.telemetry.updated()
        return grad_input

    def _restore(self, error: DivergenceError) -> None:
        """Take up the last snapshot, where that is wanted; once, or it would be tried for ever."""
        if self.spec.on_divergence != "restore":
            raise error
        state, count = self.spec.snapshots.load(), self.spec.snapshots.count
        if state is None or count == self.restored_at:
            raise DivergenceError(f"{error}, again, after the last snapshot was restored") from error
        self.stage.load_trained_state(to_device(state, self.device))
        self.restored_at = count
        log.warning("%s: restored from the snapshot after batch %d", error, self.spec.snapshots.step)

    def _check_weights(self) -> None:
        """Before weights are kept: they are finite."""
        try:
            self.stage.check_weights()
        except DivergenceError as error:
            self._restore(error)

    def _keep_snapshot(self, step: int) -> None:
        """Keep the stage's state in memory, for a worker that is started in this one's place."""
        if not self.spec.snapshot_every or step == self.last_snapshot:
            return
        if self.last_snapshot < 0 or step % self.spec.snapshot_every == 0:
            self.telemetry.enter("snapshot")
            self._check_weights()
            self.spec.snapshots.save(step, {**self.stage.trained_state(), "rng": torch.get_rng_state()})
            self.last_snapshot = step

    # Cuts.

    def _cut_until(self, step: int) -> None:
        """Make the cuts that are due up to `step` batches."""
        for cut in range(self.last_cut + 1, step + 1):
            if (is_full := self.spec.schedule.cut_after(cut)) is not None:
                self._cut(cut, is_full, is_final=False)
        self.last_cut = max(self.last_cut, step)

    def _cut(self, step: int, is_full: bool, is_final: bool) -> None:
        if is_full and self.stage.method.waits:
            self._learn_all()  # an update that waits has a graph, which can't be kept
        self.telemetry.enter("snapshot")
        self._check_weights()
        if is_full:
            state = {**self.stage.state_dict(), "rng": torch.get_rng_state(), "gradients": {}}
        else:
            state = {"model": self.stage.module.state_dict()}
        cut = OpenCut(step, is_full, is_final, state)
        for index, gradient in self.arrived.items():
            cut.add(index, gradient)
        self.open_cuts.append(cut)
        self._send_complete_cuts()

    def _send_complete_cuts(self) -> None:
        while self.open_cuts and not self.open_cuts[0].missing:
            self.telemetry.enter("snapshot")
            cut = self.open_cuts.pop(0)
            self.send_event(Cut(cut.step, cut.is_full, cut.is_final, to_bytes(cut.state)))

    def _end_stream(self, end: int) -> None:
        """Tell the next stage that no batch follows; then learn from the gradients that are still to come.

        With a fixed lag, those that are not due yet are kept for the checkpoint instead.
        """
        queue = self.spec.activation_out
        if queue is not None and not has_sent(queue, end):
            while not queue.has_room():
                self._wait("wait_room")
            queue.put(end, self.stage.weight_version)
        if self.spec.lag is None:
            self._learn_all()
        self._cut(end, is_full=True, is_final=True)
        while self.open_cuts:
            self._wait("wait_gradient")


def has_sent(queue: TensorQueue | None, index: int) -> bool:
    """Whether the message of a batch was put before, by this worker or one that died."""
    last = None if queue is None else queue.last_index
    return last is not None and last >= index
