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
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from .data import Batch, BatchStream
from .events import Cut, to_bytes
from .run_dir import RunDir
from .stage import Stage
from .telemetry import INTERVAL, Telemetry
from .tensor_queue import Doorbell, TensorQueue


@dataclass(frozen=True)
class WorkerSpec:
    """All that a worker is made from. `start` and `stop` are flags in shared memory, set by the supervisor."""

    index: int
    stage: bytes  # a pickled StageSpec: pickled plainly, its tensors are copied, not shared
    device: str
    threads: int
    cores: tuple[int, ...] | None
    seed: int
    steps: int
    start: int  # batches of the stream that were trained on before
    eval_every: int  # steps between cuts of the layers, 0: at the end only
    checkpoint_every: int  # steps between full cuts, 0: at the end only
    lag: int | None  # None: gradients are learnt from when they come
    drops: bool  # when the activation queue is full
    stream: BatchStream | None  # stage 0's
    activation_in: TensorQueue | None
    activation_out: TensorQueue | None
    gradient_in: TensorQueue | None
    gradient_out: TensorQueue | None
    doorbell: Doorbell
    flags: Any  # RawArray("b", 2)
    events: Connection
    run_dir: RunDir | None


START, STOP = 0, 1  # positions in WorkerSpec.flags


class OpenCut:
    """A full cut that waits for gradients: those of batches before the cut that were under way when it was made."""

    def __init__(self, step: int, is_final: bool, state: dict[str, Any], arrived: dict[int, Tensor]) -> None:
        self.step, self.is_final = step, is_final
        # copied: the stage goes on changing its weights while the cut waits
        self.state = copy.deepcopy({**state, "rng": torch.get_rng_state()})
        self.state["gradients"] = dict(arrived)
        self.missing = {pending["index"] for pending in state["pending"]} - set(arrived)

    def add(self, index: int, gradient: Tensor) -> None:
        """A gradient came."""
        if index in self.missing:
            self.missing.discard(index)
            self.state["gradients"][index] = gradient.clone()


class Worker:
    """Drives a stage from its queues until the stream of batches ends."""

    def __init__(
        self, spec: WorkerSpec, stage: Stage, telemetry: Telemetry, send_event: Callable[[object], None]
    ) -> None:
        self.spec, self.stage, self.telemetry, self.send_event = spec, stage, telemetry, send_event
        self.device = torch.device(spec.device)
        self.arrived: dict[int, Tensor] = {}  # gradients that are not due yet, by batch index
        self.open_cuts: list[OpenCut] = []
        self.last_cut = spec.start
        self.end: int | None = None  # the number of batches in the stream, once it is known

    def run(self) -> None:
        """Train on every batch of the stream."""
        step = self.spec.start
        if self.spec.lag is None:
            self._learn_restored()
        while True:
            self._learn_due(step)
            self._cut_until(step)
            batch = self._take(step)
            if batch is None:
                break
            self._cut_until(batch.index)  # batches that were dropped upstream leave gaps
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
        if batch is not None and self.telemetry.started is None:
            self.telemetry.begin()
        return batch

    def _load(self, step: int) -> Batch | None:
        assert self.spec.stream is not None
        self.telemetry.enter("load")
        if step >= self.spec.stream.steps or self.spec.flags[STOP]:
            self.end = step
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
        stage, telemetry = self.stage, self.telemetry
        telemetry.enter("forward")
        h = stage.forward(batch)
        sent = self._send_activation(batch, h)
        telemetry.enter("update")
        grad_input = stage.update(batch.index)
        # An update that waits for the true gradient will read the slot, which waits with it.
        if not stage.holds_input(batch.index):
            telemetry.updated()
            self._send_gradient(batch.index, grad_input)
            self._release_input()
        if not sent:
            stage.forget(batch.index)
        loss = stage.method.loss if stage.is_last else None
        telemetry.step(len(batch.x), None if loss is None else float(loss))

    # Sending.

    def _send_activation(self, batch: Batch, h: Tensor) -> bool:
        """Send h downstream, and say whether it was sent: a full queue is waited for, or the batch is dropped."""
        queue = self.spec.activation_out
        if queue is None:
            return True
        while not queue.has_room():
            if self.spec.drops:
                self.telemetry.dropped += 1
                return False
            self._wait("wait_room")
        self.telemetry.enter("send")
        queue.put(batch.index, self.stage.weight_version, h, batch.target)
        return True

    def _send_gradient(self, index: int, grad_input: Tensor | None) -> None:
        queue = self.spec.gradient_out
        if queue is None or grad_input is None:
            return
        while not queue.has_room():
            self.telemetry.enter("wait_room")
            self.spec.doorbell.wait(INTERVAL)
        self.telemetry.enter("send")
        queue.put(index, self.stage.weight_version, grad_input)

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
        """Take every gradient that has come: learn from it now, or, with a fixed lag, keep it until it is due."""
        queue, taken = self.spec.gradient_in, 0
        while queue is not None and (message := queue.take()) is not None:
            grad_output = message.tensors[0].to(self.device)
            for cut in self.open_cuts:
                cut.add(message.index, grad_output)
            if self.spec.lag is None:
                self._learn(message.index, grad_output)
            else:
                self.arrived[message.index] = grad_output.clone()
            queue.release()
            taken += 1
        self._send_complete_cuts()
        return taken

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

    def _learn(self, index: int, grad_output: Tensor) -> None:
        self.telemetry.enter("learn")
        lag = next(reversed(self.stage.pending)) + 1 - index
        waited = self.stage.holds_input(index)
        grad_input = self.stage.learn(index, grad_output)
        if waited:
            self.telemetry.updated()
            self._send_gradient(index, grad_input)
            self._release_input()
        loss = None if waited else self.stage.method.loss
        self.telemetry.learnt(lag, None if loss is None else float(loss))

    # Cuts.

    def _cut_until(self, step: int) -> None:
        """Make the cuts that are due up to `step` batches."""
        for cut in range(self.last_cut + 1, step + 1):
            is_full = is_multiple(cut, self.spec.checkpoint_every)
            if cut < self.spec.steps and (is_full or is_multiple(cut, self.spec.eval_every)):
                self._cut(cut, is_full, is_final=False)
        self.last_cut = max(self.last_cut, step)

    def _cut(self, step: int, is_full: bool, is_final: bool) -> None:
        if is_full and self.stage.method.waits:
            self._learn_all()  # an update that waits has a graph, which can't be kept
        self.telemetry.enter("snapshot")
        if is_full:
            self.open_cuts.append(OpenCut(step, is_final, self.stage.state_dict(), self.arrived))
            self._send_complete_cuts()
        else:
            self.send_event(Cut(step, is_full, is_final, to_bytes({"model": self.stage.module.state_dict()})))

    def _send_complete_cuts(self) -> None:
        while self.open_cuts and not self.open_cuts[0].missing:
            self.telemetry.enter("snapshot")
            cut = self.open_cuts.pop(0)
            self.send_event(Cut(cut.step, True, cut.is_final, to_bytes(cut.state)))

    def _end_stream(self, end: int) -> None:
        """Tell the next stage that no batch follows; then learn from the gradients that are still to come.

        With a fixed lag, those that are not due yet are kept for the checkpoint instead.
        """
        queue = self.spec.activation_out
        if queue is not None:
            while not queue.has_room():
                self._wait("wait_room")
            queue.put(end, self.stage.weight_version)
        if self.spec.lag is None:
            self._learn_all()
        self._cut(end, is_full=True, is_final=True)
        while self.open_cuts:
            self._wait("wait_gradient")


def is_multiple(step: int, every: int) -> bool:
    """Whether `step` is a multiple of `every`; none is of 0."""
    return bool(every) and step % every == 0
