"""Queues, doorbells and event pipes between the workers of a run, allocated before any of them starts."""

from __future__ import annotations

import ctypes
import io
import pickle
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext

from torch import Tensor

from .config import ConfigError, TrainerConfig
from .data import BatchStream
from .device import assign_cores, available_cores
from .run_dir import RunDir
from .stage import StageSpec
from .tensor_queue import Doorbell, TensorQueue, TensorSpec
from .worker import WorkerSpec


def worker_context() -> BaseContext:
    """Workers are forked from a server process that has loaded torch and nothing else; never from this one.

    Where there is no such server (Windows), each is started afresh.
    """
    try:
        context = get_context("forkserver")
    except ValueError:
        return get_context("spawn")
    context.set_forkserver_preload(["async_dni.worker"])
    return context


def wire(
    context: BaseContext,
    config: TrainerConfig,
    stages: Sequence[StageSpec],
    activations: Sequence[Tensor],
    target: Tensor,
    stream: BatchStream,
    cut_every: int,
    devices: Sequence[str],
    run_dir: RunDir | None,
) -> tuple[list[WorkerSpec], list[Connection]]:
    """What each worker is made from, and the receiving ends of their event pipes.

    `activations[k]` is an output of stage k, `[batch, *features]`, and `target` are targets, to allocate queues by.
    """
    pickled = [pickle_stage(stage) for stage in stages]
    bells = [Doorbell() for _ in stages]
    rows, capacity = config.batch_size, config.queue_capacity
    down: list[TensorQueue | None] = [None]  # down[k] leads to stage k, up[k] from it
    up: list[TensorQueue | None] = [None]
    for k in range(1, len(stages)):
        spec = TensorSpec.like(activations[k - 1], rows)
        down.append(TensorQueue(context, capacity, [spec, TensorSpec.like(target, rows)], bells[k - 1], bells[k]))
        up.append(TensorQueue(context, capacity, [spec], bells[k], bells[k - 1]))
    down, up = [*down, None], [*up, None]
    flags = context.RawArray(ctypes.c_byte, 2)
    threads = threads_per_worker(config)
    cores = assign_cores(len(stages), threads, available_cores()) if config.pin_cores else [None] * len(stages)
    specs, receivers = [], []
    for k in range(len(stages)):
        receiver, sender = context.Pipe(duplex=False)
        receivers.append(receiver)
        specs.append(
            WorkerSpec(
                index=k,
                stage=pickled[k],
                device=devices[k],
                threads=threads,
                cores=cores[k],
                seed=config.seed,
                steps=stream.steps,
                cut_every=cut_every,
                lag=1 if config.method == "backprop" else None,
                drops=config.overflow == "drop",
                stream=stream if k == 0 else None,
                activation_in=down[k],
                activation_out=down[k + 1],
                gradient_in=up[k + 1],
                gradient_out=up[k],
                doorbell=bells[k],
                flags=flags,
                events=sender,
                run_dir=run_dir,
            )
        )
    return specs, receivers


def threads_per_worker(config: TrainerConfig) -> int:
    """As set, else the cores shared out, at least 1."""
    return config.threads_per_worker or max(1, len(available_cores()) // config.workers)


def pickle_stage(stage: StageSpec) -> bytes:
    """The stage as bytes. Raises `ConfigError`, naming the block, where something in it can't be pickled."""
    try:
        return _pickle(stage)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        for name, block in stage.module.named_children():
            try:
                _pickle(block)
            except (pickle.PicklingError, AttributeError, TypeError) as reason:
                allowed = f"a worker is another process, so every block must be picklable ({reason})"
                raise ConfigError("model", f"block {name!r}", allowed) from None
        allowed = f"the optimizer factory, loss and synthesizer must be picklable: no lambda, no local class ({error})"
        raise ConfigError("optimizer", "an object of another kind", allowed) from None


def _pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()
