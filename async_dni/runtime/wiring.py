"""Queues, doorbells and event pipes between the workers of a run, allocated before any of them starts."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from torch import Tensor, UntypedStorage

from ..config import TrainerConfig
from ..data.batches import Batches
from ..foundation.clock import Clock
from ..foundation.cores import available_cores
from ..foundation.error import ConfigError
from ..learning.blocks import named_blocks
from ..learning.methods import METHODS
from ..learning.pickling import UNPICKLABLE, Shared, to_bytes
from ..learning.stage import StageSpec
from ..learning.structure import Output
from ..record.heartbeat import Heartbeat
from ..record.run_dir import RunDir
from ..record.schedule import Schedule
from ..record.trace.tracing import Traced
from .hosts.place import Place
from .hosts.wire.link import LinkEnd
from .machine.device import assign_cores, threads_per_worker
from .snapshots import Snapshots
from .transport.doorbell import Doorbell
from .transport.memory_file import MemoryFile
from .transport.queue_memory import queue_specs
from .transport.shared_memory import SharedMemory
from .transport.tensor_queue import TensorQueue
from .worker_spec import WorkerSpec


@dataclass(frozen=True)
class Wiring:
    """All that this host's workers of a run are made from; `connect` makes each worker's part."""

    config: TrainerConfig
    place: Place
    clock: Clock  # of the run
    stream: Batches
    schedule: Schedule
    devices: Sequence[str]  # of all stages
    run_dir: RunDir | None
    stages: list[bytes]  # this host's, pickled; `connect` leaves none of them, as the workers' parts hold them then
    outputs: Sequence[Output]  # every stage's, by an example, and
    target: Tensor  # targets, [batch, ...]: to allocate queues by
    storages: list[UntypedStorage]  # of the data set: to be shared
    descriptors_needed: int  # files that this process will have open

    def connect(self, context: Any) -> tuple[list[WorkerSpec], list[Connection], dict[int, LinkEnd]]:
        """What each worker is made from, the receiving ends of their event pipes, and what links to the hosts beside this one
        join, by their ranks. Allocates what they share.

        Raises `ConfigError` where there is no room for that, though `check_queues` saw some: others have taken it.
        """
        with ExitStack() as made:
            try:
                wired = self._connect(context, made)
            except OSError as error:
                found = f"there is no room for what workers share ({error.strerror})"
                raise ConfigError(
                    "queue_capacity", self.config.queue_capacity, f"{found}; allowed: what fits"
                ) from None
            made.pop_all()  # whoever has it now closes it
            return wired

    def _connect(self, context: Any, made: ExitStack) -> tuple[list[WorkerSpec], list[Connection], dict[int, LinkEnd]]:
        config, here, memory = self.config, self.place.stages, SharedMemory()
        # those of the workers, and of the links to the stages before and after them
        rung = range(max(here.start - 1, 0), min(here.stop + 1, config.workers))
        bells = {k: made.enter_context(closing(Doorbell())) for k in rung}
        down, up = self._allocate_queues(memory, bells)
        flags = memory.RawArray(ctypes.c_byte, 2)
        threads = threads_per_worker(config, self.place.workers_beside)
        cores = self._cores(threads)
        pipes = [tuple(map(made.enter_context, context.Pipe(duplex=False))) for _ in here]
        specs = [
            WorkerSpec(
                index=k,
                stage=made.enter_context(closing(MemoryFile(self.stages.pop(0)))),
                device=self.devices[k],
                threads=threads,
                cores=cores[k - here.start],
                seed=config.seed,
                schedule=self.schedule,
                lag=config.effective_lag,
                drops=config.overflow == "drop",
                stream=Shared(self.stream) if k == 0 else None,
                activation_in=down.get(k),
                activation_out=down.get(k + 1),
                gradient_in=up.get(k + 1),
                gradient_out=up.get(k),
                doorbell=bells[k],
                heartbeat=Heartbeat(memory, self.schedule.start),
                snapshots=made.enter_context(closing(Snapshots(memory))),
                snapshot_every=config.snapshot_every,
                on_divergence=config.on_divergence,
                flags=flags,
                events=pipes[k - here.start][1],
                run_dir=self.run_dir,
                traced=Traced.read(config.trace_steps, config.profile, k),
                clock=self.clock,
            )
            for k in here
        ]
        ends = {}
        if here.start:  # what comes, activations, goes into a queue; what goes, gradients, comes from one
            ends[self.place.rank - 1] = LinkEnd(up.get(here.start), down[here.start], bells[here.start - 1])
        if here.stop < config.workers:
            ends[self.place.rank + 1] = LinkEnd(down[here.stop], up.get(here.stop), bells[here.stop])
        return specs, [receiver for receiver, _ in pipes], ends

    def _cores(self, threads: int) -> list[tuple[int, ...] | None]:
        """For each worker, where it is to have its own."""
        place, workers = self.place, len(self.place.stages)
        if not self.config.pin_cores:
            return [None] * workers
        cores = available_cores()
        return [*assign_cores(workers, threads, cores[place.local_rank :: place.local_size] or cores)]

    def _allocate_queues(
        self, memory: SharedMemory, bells: Mapping[int, Doorbell]
    ) -> tuple[dict[int, TensorQueue], dict[int, TensorQueue]]:
        """`down[k]` leads to stage k, `up[k]` from it."""
        rows, capacity = self.config.batch_size, self.config.queue_capacity
        down: dict[int, TensorQueue] = {}
        up: dict[int, TensorQueue] = {}
        for k in sorted(bells)[1:]:
            forward, backward = queue_specs(self.outputs[k - 1], self.target, rows, self.config.autocast)
            down[k] = TensorQueue(memory, capacity, forward, producer=bells[k - 1], consumer=bells[k])
            if METHODS[self.config.method].gradients:
                up[k] = TensorQueue(memory, capacity, backward, producer=bells[k], consumer=bells[k - 1])
        return down, up


def pickle_stage(stage: StageSpec) -> bytes:
    """The stage as bytes. Raises `ConfigError`, naming the block or the method, where something in it can't be pickled."""
    try:
        return to_bytes(stage)
    except UNPICKLABLE as error:
        parts = [("model", f"block {name!r}", "every block", block) for name, block in named_blocks(stage.module)]
        for setting, given, what, part in [*parts, ("method", stage.method.name, "its description", stage.method)]:
            try:
                to_bytes(part)
            except UNPICKLABLE as problem:
                allowed = f"a worker is another process, so {what} must be picklable ({problem})"
                raise ConfigError(setting, given, allowed) from None
        allowed = f"the optimizer factory, loss, condition and synthesizer must be picklable ({error})"
        raise ConfigError("optimizer", "what can't be sent to another process", allowed) from None
