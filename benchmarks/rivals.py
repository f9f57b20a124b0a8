"""What PyTorch itself offers to train the same network with: each in fresh processes, timed by rank 0 after a warm-up.

Every function here is a process's entry, for `ranks.run_ranks`. `results` gets samples per second.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ranks import process_group
from torch import Tensor, distributed, nn
from torch.utils.data import TensorDataset

from async_dni.data.image_dataset import ImageDataset
from async_dni.data.stream import BatchStream
from async_dni.learning.batch import Batch
from async_dni.learning.stage import StageSpec
from async_dni.network.partition import partition

KEPT: list[nn.Module] = []  # not freed before the process ends
WARM_UP = 5  # steps before the clock starts: optimizers allocate their state, pipelines infer their shapes


@dataclass(frozen=True)
class Job:
    """The same work for every rival. They copy the model: what processes are given by `torch.multiprocessing`, they share."""

    model: nn.Sequential
    dataset: ImageDataset  # its length is a multiple of the batch size: pipelines take batches of one size only
    batch_size: int
    steps: int
    threads: int  # of each process
    matmul_precision: str = "highest"

    def prepare(self) -> None:
        """Set this process as the job says."""
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.matmul_precision)

    def stream(self, dataset: Any = None, ranks: int = 1) -> BatchStream:
        """The batches, the warm-up's too; `dataset` in place of the job's own."""
        return BatchStream(dataset or self.dataset, self.batch_size // ranks, WARM_UP + self.steps, seed=0)

    def samples_per_second(self, step: Callable[[int], object], barrier: Callable[[], object]) -> float:
        """Do the warm-up, then the job; the clock runs from a barrier to a barrier."""
        for index in range(WARM_UP):
            step(index)
        barrier()
        began = time.perf_counter()
        for index in range(WARM_UP, WARM_UP + self.steps):
            step(index)
        barrier()
        return self.steps * self.batch_size / (time.perf_counter() - began)


adam = partial(torch.optim.Adam, lr=1e-3, fused=True)


def locked(rank: int, results: Any, job: Job) -> None:
    """Backpropagation in one process: a plain loop."""
    job.prepare()
    stream, model, loss_fn = job.stream(), copy.deepcopy(job.model).train(), nn.CrossEntropyLoss()
    optimizer = adam(model.parameters())

    def step(index: int) -> None:
        batch = stream[index]
        optimizer.zero_grad(set_to_none=True)
        loss_fn(model(batch.x), batch.target).backward()
        optimizer.step()

    results.send(job.samples_per_second(step, lambda: None))


def data_parallel(rank: int, results: Any, job: Job, rendezvous: Path, ranks: int) -> None:
    """DistributedDataParallel: each process has the whole network, a share of the data and of each batch."""
    job.prepare()
    share = copy.copy(job.dataset)
    share.images, share.labels = share.images[rank::ranks], share.labels[rank::ranks]
    stream, loss_fn = job.stream(share, ranks), nn.CrossEntropyLoss()
    with process_group(rank, ranks, rendezvous):
        model = nn.parallel.DistributedDataParallel(copy.deepcopy(job.model).train())
        # Freed, it would join gloo's threads while it holds Python's lock, which these take to free an all-reduce: PyTorch
        # 2.13 hangs there about once in 50 runs.
        KEPT.append(model)
        optimizer = adam(model.parameters())

        def step(index: int) -> None:
            batch = stream[index]
            optimizer.zero_grad(set_to_none=True)
            loss_fn(model(batch.x), batch.target).backward()
            optimizer.step()

        _put(rank, results, job.samples_per_second(step, distributed.barrier))


def pipeline(
    rank: int, results: Any, job: Job, rendezvous: Path, schedule: str, split: list[int], microbatches: int
) -> None:
    """A stage of `ScheduleGPipe` or `Schedule1F1B`. Batch norm sees a microbatch, not the batch."""
    from torch.distributed import pipelining  # slow to load, and no other rival needs it

    job.prepare()
    stages = partition(copy.deepcopy(job.model).train(), split)
    last = len(stages) - 1
    labels = job.dataset.labels
    # the last stage needs the targets only, in the order of the first one's samples
    stream = job.stream(TensorDataset(labels, labels) if rank == last else job.dataset)
    with process_group(rank, len(stages), rendezvous):
        stage = pipelining.PipelineStage(stages[rank], rank, len(stages), torch.device("cpu"))
        make = {"GPipe": pipelining.ScheduleGPipe, "1F1B": pipelining.Schedule1F1B}[schedule]
        pipe = make(stage, microbatches, loss_fn=nn.CrossEntropyLoss())
        optimizer = adam(stages[rank].parameters())

        def step(index: int) -> None:
            optimizer.zero_grad(set_to_none=True)
            if rank == 0:
                pipe.step(stream[index].x)
            elif rank == last:
                pipe.step(target=stream[index].target, losses=[])
            else:
                pipe.step()
            optimizer.step()

        _put(rank, results, job.samples_per_second(step, distributed.barrier))


def stages_alone(
    rank: int, results: Any, specs: list[StageSpec], inputs: list[Tensor], target: Tensor, steps: int, threads: int
) -> None:
    """Seconds a batch of each stage by itself, with its input and its gradient at hand."""
    torch.set_num_threads(threads)
    seconds = []
    for spec, x in zip(specs, inputs, strict=True):
        stage = spec.build(torch.device("cpu"))
        grad = torch.randn_like(stage.module(x)).div_(len(x))

        def step(index: int) -> None:
            stage.forward(Batch(index, x, target))  # noqa: B023
            stage.update(index)  # noqa: B023
            if not stage.is_last:  # noqa: B023
                stage.learn(index, grad)  # noqa: B023

        for index in range(WARM_UP):
            step(index)
        began = time.perf_counter()
        for index in range(WARM_UP, WARM_UP + steps):
            step(index)
        seconds.append((time.perf_counter() - began) / steps)
    results.send(seconds)


def _put(rank: int, results: Any, samples_per_second: float) -> None:
    if rank == 0:
        results.send(samples_per_second)
