"""What PyTorch itself offers to train the same network with: each in fresh processes, timed by rank 0 after a warm-up.

Functions that take a rank are a process's entry, for `ranks.run_ranks`. `results` gets samples per second.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ranks import process_group
from torch import Tensor, distributed, nn
from workloads import part_of, targets_of

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
    dataset: Any  # its length is a multiple of the batch size: pipelines take batches of one size only
    batch_size: int
    steps: int
    threads: int  # of each process
    matmul_precision: str = "highest"
    device: str = "cpu"  # of a rival of one process

    def prepare(self) -> None:
        """Set this process as the job says."""
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.matmul_precision)

    def stream(self, dataset: Any = None, ranks: int = 1) -> BatchStream:
        """The batches, the warm-up's too; `dataset` in place of the job's own."""
        return BatchStream(dataset or self.dataset, self.batch_size // ranks, WARM_UP + self.steps, seed=0)

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)

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


@dataclass(frozen=True)
class Plain:
    """How one process trains by itself."""

    threads: int
    compiled: bool = False  # by torch.compile
    channels_last: bool = False  # its convolutions' layout in memory

    @property
    def name(self) -> str:
        """What is said after the number of threads."""
        return ", compiled" * self.compiled + ", channels last" * self.channels_last

    def prepare(
        self, model: nn.Module, compiled_for: Sequence[tuple[Tensor, Tensor]] = ()
    ) -> Callable[[Tensor], Tensor]:
        """The model as it is called in training, in this process. It is changed in its layout only.

        Compiled, it is run on batches like `compiled_for`, forward and backward, so that no time is taken later: nothing is
        stepped, gradients are dropped, and buffers put back.
        """
        torch.set_num_threads(self.threads)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not self.compiled:
            return model
        import torch._inductor.config as inductor  # slow to load, and only compiled models need it

        inductor.compile_threads = 1  # here: a pool of processes would outlive this one
        inductor.cpp.threads = self.threads
        on_cuda = any(parameter.is_cuda for parameter in model.parameters())
        mode = "reduce-overhead" if on_cuda else None  # CUDA graphs, which layers as small as these need
        called: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False, mode=mode)
        before = copy.deepcopy(model.state_dict())
        for x, target in compiled_for:
            nn.functional.cross_entropy(called(self.laid_out(x)), target).backward()
        model.zero_grad(set_to_none=True)
        model.load_state_dict(before)
        return called

    def laid_out(self, x: Tensor) -> Tensor:
        """A batch as its layers want it."""
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x


def locked(rank: int, results: Any, job: Job, plain: Plain) -> None:
    """Backpropagation in one process: a plain loop. What is compiled is compiled before the warm-up's steps."""
    job.prepare()
    device, loss_fn = torch.device(job.device), nn.CrossEntropyLoss()
    stream, model = job.stream(), copy.deepcopy(job.model).train().to(device)
    first = stream[0].to(device)
    forward = plain.prepare(model, [(first.x, first.target)])
    optimizer = adam(model.parameters())

    def step(index: int) -> None:
        batch = stream[index].to(device)
        optimizer.zero_grad(set_to_none=True)
        loss_fn(forward(plain.laid_out(batch.x)), batch.target).backward()
        optimizer.step()

    results.send(job.samples_per_second(step, job.synchronize))


def data_parallel(rank: int, results: Any, job: Job, rendezvous: Path | str, ranks: int) -> None:
    """DistributedDataParallel: each process has the whole network, a share of the data and of each batch."""
    job.prepare()
    samples = len(job.dataset) // ranks
    share = part_of(job.dataset, rank * samples, (rank + 1) * samples)
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


GPIPE, ONE_F_ONE_B, ZERO_BUBBLE, ZERO_BUBBLE_V = "GPipe", "1F1B", "zero-bubble", "zero-bubble V"
SCHEDULES = {
    GPIPE: "ScheduleGPipe",
    ONE_F_ONE_B: "Schedule1F1B",
    ZERO_BUBBLE: "ScheduleInterleavedZeroBubble",
    ZERO_BUBBLE_V: "ScheduleZBVZeroBubble",
}


def places(schedule: str, rank: int, ranks: int, stages: int) -> list[int]:
    """The stages of a rank: every so many, or down the ranks and up again."""
    if schedule == ZERO_BUBBLE_V:
        return [rank, 2 * ranks - 1 - rank]
    return list(range(rank, stages, ranks))


def pipeline(
    rank: int,
    results: Any,
    job: Job,
    rendezvous: Path | str,
    ranks: int,
    schedule: str,
    split: list[int],
    microbatches: int,
) -> None:
    """A rank of a schedule of torch.distributed.pipelining. Batch norm sees a microbatch, not the batch."""
    from torch.distributed import pipelining  # slow to load, and no other rival needs it

    job.prepare()
    parts = partition(copy.deepcopy(job.model).train(), split)
    mine = places(schedule, rank, ranks, len(parts))
    is_first, is_last = 0 in mine, len(parts) - 1 in mine
    # a rank without the first stage needs the targets only, in the order of the samples
    stream = job.stream(job.dataset if is_first else targets_of(job.dataset))
    with process_group(rank, ranks, rendezvous):
        stages = [pipelining.PipelineStage(parts[i], i, len(parts), torch.device("cpu")) for i in mine]
        given = stages[0] if schedule in (GPIPE, ONE_F_ONE_B) else stages
        pipe = getattr(pipelining, SCHEDULES[schedule])(given, microbatches, loss_fn=nn.CrossEntropyLoss())
        optimizer = adam([parameter for i in mine for parameter in parts[i].parameters()])

        def step(index: int) -> None:
            optimizer.zero_grad(set_to_none=True)
            batch = stream[index] if is_first or is_last else None
            inputs = [batch.x] if is_first and batch is not None else []
            pipe.step(*inputs, **({"target": batch.target, "losses": []} if is_last and batch is not None else {}))
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
