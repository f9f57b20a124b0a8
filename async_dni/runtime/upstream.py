"""The gradients that a worker sends upstream, in the order of batches."""

from __future__ import annotations

from ..learning.stage import Stage
from ..learning.structure import Gradient, all_of
from ..record.telemetry import INTERVAL, Telemetry
from .transport.tensor_queue import TensorQueue
from .worker_spec import WorkerSpec

LATER = object()  # the gradient of a batch will be known when the batch is learnt from, or forgotten


class Upstream:
    """Sends ∂/∂x of each batch, once, and none before those of the batches before it.

    That matters where some go with the update and some later (`target_lambda`): the queue remembers the newest batch alone.
    """

    def __init__(self, spec: WorkerSpec, stage: Stage, telemetry: Telemetry) -> None:
        self.spec, self.stage, self.telemetry = spec, stage, telemetry
        self.queue = spec.gradient_out
        self._held: dict[int, Gradient | object | None] = {
            index: LATER for index in stage.pending if stage.defers(index)
        }  # by batch, oldest first

    def give_up(self) -> None:
        """The worker before this one died with what it was still to send: messages that say so go out with `flush`."""
        sent = None if self.queue is None else self.queue.last_index
        first = self.spec.schedule.start if sent is None else max(self.spec.schedule.start, sent + 1)
        done = range(first, self.spec.heartbeat.step) if self.stage.is_deferring else ()
        self._held = dict.fromkeys([*self._held, *done])

    def send(self, index: int, grad_input: Gradient | None) -> None:
        """Send ∂/∂x of a batch when those before it have been sent; where there should be one and is none, a message
        that says so."""
        self._held[index] = LATER if self.stage.defers(index) else grad_input
        self.flush()

    def flush(self) -> None:
        """Send all that can be."""
        while self._held:
            index = next(iter(self._held))
            if self._held[index] is LATER:
                return
            self._put(index, self._held.pop(index))  # type: ignore[arg-type]

    def _put(self, index: int, grad_input: Gradient | None) -> None:
        queue = self.queue
        if queue is None or not self.stage.sends_gradient(index) or has_sent(queue, index):
            return
        while not queue.has_room():
            self.telemetry.enter("wait_room")
            self.spec.doorbell.wait(INTERVAL)
        self.telemetry.enter("send", index, upstream=True)
        queue.put(index, self.stage.weight_version, *(() if grad_input is None else all_of(grad_input)))


def has_sent(queue: TensorQueue | None, index: int) -> bool:
    """Whether the message of a batch was put before, by this worker or one that died."""
    last = None if queue is None else queue.last_index
    return last is not None and last >= index
