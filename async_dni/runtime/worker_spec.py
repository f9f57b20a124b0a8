"""All that a worker is made from."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ..foundation.clock import Clock
from ..record.heartbeat import Heartbeat
from ..record.run_dir import RunDir
from ..record.schedule import Schedule
from ..record.trace.tracing import Traced
from .snapshots import Snapshots
from .transport.doorbell import Doorbell
from .transport.memory_file import MemoryFile
from .transport.tensor_queue import TensorQueue

START, STOP = 0, 1  # positions in WorkerSpec.flags


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
    stream: Any  # stage 0's Batches; in the process that starts workers, `Shared`; None: of the other stages
    activation_in: TensorQueue | None
    activation_out: TensorQueue | None
    gradient_in: TensorQueue | None
    gradient_out: TensorQueue | None
    doorbell: Doorbell
    heartbeat: Heartbeat
    snapshots: Snapshots
    snapshot_every: int  # steps between snapshots, 0: none
    on_divergence: str
    flags: Any  # an array of two bytes in SharedMemory
    events: Connection
    run_dir: RunDir | None
    traced: Traced = Traced(None, None)
    clock: Clock = Clock()  # of the run
    last_cut: int = 0  # of workers of this stage that died before this one: the newest that was received
