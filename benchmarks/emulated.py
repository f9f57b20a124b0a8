"""Emulated devices, instruments and links, all put on from outside: the trainer is used as any user uses it.

An emulated stage sleeps for a given time forward, and again backward, in place of computing, so that many devices can
be shown on few cores. A `Clock` measures what the update lock costs. A `TransitDelay` makes every link late.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from case import Measured, Metric
from harness import fit
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from async_dni import Trainer, TrainResult
from async_dni.record.progress import Progress
from async_dni.runtime import wiring
from async_dni.runtime.transport.doorbell import Doorbell
from async_dni.runtime.transport.tensor_queue import Message, TensorQueue

FEATURES = 10  # of everything that an emulated network passes on: real compute is negligible
BATCH_SIZE = 8


class Sleep(torch.autograd.Function):
    """The identity, that takes a given time in each direction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float) -> Tensor:
        ctx.seconds = seconds
        time.sleep(seconds)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        time.sleep(ctx.seconds)
        return grad_outputs[0], None


class Emulated(nn.Module):
    """A layer that takes `seconds` forward and `seconds` backward, while it is trained."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.linear = seconds, nn.Linear(FEATURES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, FEATURES]` to the same."""
        h = self.linear(x)
        slept: Tensor = Sleep.apply(h, self.seconds) if self.training else h
        return slept


def emulated_data() -> TensorDataset:
    """Random samples for emulated networks."""
    generator = torch.Generator().manual_seed(0)
    samples = 64 * BATCH_SIZE
    x = torch.randn(samples, FEATURES, generator=generator)
    return TensorDataset(x, torch.randint(FEATURES, (samples,), generator=generator))


class Clock:
    """In each worker: when a stage's forward passes ended, and its updates.

    It is shared by the module that stamps the one and the optimizer that stamps the other. Both are pickled together
    for a worker, so they share it there, too; a copy of the module within a process keeps it.
    """

    def __init__(self) -> None:
        self.forwards: deque[float] = deque()  # of batches that the stage has not updated on yet
        self.seconds: list[float] = []  # from the end of a batch's forward pass to the update on it
        self.moments: list[float] = []  # of updates, time.monotonic()

    def forward_ended(self) -> None:
        """A batch has gone through the stage's last block."""
        self.forwards.append(time.monotonic())

    def updated(self) -> None:
        """The stage has updated on its oldest batch: updates come in the order of the forward passes."""
        now = time.monotonic()
        self.seconds.append(now - self.forwards.popleft())
        self.moments.append(now)

    def __deepcopy__(self, memo: dict[int, Any]) -> Clock:
        return self

    def adam(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer factory, for `Trainer`."""
        optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
        optimizer.register_step_post_hook(lambda *_: self.updated())
        return optimizer


class Stamped(nn.Module):
    """A stage's last block, with a clock. What the clock has measured comes back with the trained network's state."""

    def __init__(self, block: nn.Module, clock: Clock) -> None:
        super().__init__()
        self.block, self.clock = block, clock
        self.seconds: list[float] = []
        self.moments: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        """The block's."""
        h: Tensor = self.block(x)
        if self.training:
            self.clock.forward_ended()
        return h

    def get_extra_state(self) -> dict[str, list[float]]:
        return {"seconds": self.clock.seconds, "moments": self.clock.moments}

    def set_extra_state(self, state: dict[str, list[float]]) -> None:
        self.seconds, self.moments = state["seconds"], state["moments"]


def train(
    model: nn.Sequential, data: Dataset, steps: int, progress: Progress | None = None, **settings: Any
) -> TrainResult:
    """Train with a worker and a clock a block, on one thread each."""
    clock = Clock()
    trainer = Trainer(
        nn.Sequential(*(Stamped(block, clock) for block in model)),
        workers=len(model),
        optimizer=clock.adam,
        threads_per_worker=1,
        device_map="cpu",
        progress=progress,
        **settings,
    )
    return fit(trainer, data, steps)


def train_emulated(
    seconds: Sequence[float], steps: int, progress: Progress | None = None, **settings: Any
) -> TrainResult:
    """Train stages that sleep so long forward, and again backward."""
    torch.manual_seed(0)
    model = nn.Sequential(*(Emulated(one) for one in seconds))
    return train(model, emulated_data(), steps, progress, batch_size=BATCH_SIZE, **settings)


def locks(result: TrainResult) -> Measured:
    """For each stage: from the end of a forward pass to the update on its batch, and the waiting of its worker."""
    measured = {}
    for k, (block, worker) in enumerate(zip(result.model, result.summary["workers"], strict=True)):
        assert isinstance(block, Stamped)
        measured[Metric("forward to update", "ms", k)] = statistics.median(block.seconds) * 1e3
        measured[Metric("waiting", "fraction", k)] = worker["wait_fraction"]
    return measured


def update_rates(result: TrainResult) -> Measured:
    """For each stage: updates a second, over the second half of its updates; by then queues have filled up."""
    measured = {}
    for k, block in enumerate(result.model):
        assert isinstance(block, Stamped)
        moments = block.moments[len(block.moments) // 2 :]
        measured[Metric("updates", "1/s", k)] = (len(moments) - 1) / (moments[-1] - moments[0])
    return measured


class LateQueue(TensorQueue):
    """A queue whose messages are seen `delay` seconds after they are sent. Slots are given back at once."""

    def __init__(self, delay: float, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.delay = delay
        self.under_way: Message | None = None

    def take(self) -> Message | None:
        self.under_way = self.under_way or super().take()
        if self.under_way is None:
            return None
        due = self.under_way.sent_at + self.delay
        if time.monotonic() < due:
            if isinstance(self._consumer, LateDoorbell):
                self._consumer.due = min(self._consumer.due, due)
            return None
        message, self.under_way = self.under_way, None
        return message

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "delay": self.delay, "under_way": None}


class LateDoorbell(Doorbell):
    """Wakes its worker when a message that is under way arrives, too."""

    due = math.inf  # when the first message that was asked for arrives

    def wait(self, timeout: float) -> None:
        due, self.due = self.due, math.inf
        super().wait(max(0.0, min(timeout, due - time.monotonic())))


@contextmanager
def transit_delay(seconds: float) -> Iterator[None]:
    """While it lasts, trainers put a delay on every link, in both directions."""
    late = partial(LateQueue, seconds)
    with mock.patch.object(wiring, "TensorQueue", late), mock.patch.object(wiring, "Doorbell", LateDoorbell):
        yield
