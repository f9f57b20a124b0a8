"""How long does a tensor take from one process to another and back, and how many bytes a second is that?

One process sends a tensor and waits for its echo, over and over; each process has one thread (idle OpenMP threads that
spin would take the other's core). A round trip is two messages, and each is copied out of the sender's tensor: the
sender of a batch goes on to use its memory. The bytes of both messages count for GB/s.

  TensorQueue           async_dni's ring of slots in shared memory
  Queue, new            torch.multiprocessing.Queue, a new tensor (new shared memory) a message, as in the usual loop
  Queue, reused         torch.multiprocessing.Queue, one tensor in shared memory a direction, copied into each time
  SimpleQueue, new      torch.multiprocessing.SimpleQueue: no feeder thread
  gloo                  torch.distributed send and recv, over the loopback device
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from case import Case, Measured, Metric
from harness import Contender, compare, parse_arguments, report
from ranks import process_group, run_ranks
from torch import Tensor, distributed
from torch.multiprocessing import get_context

from async_dni.runtime.transport.doorbell import Doorbell
from async_dni.runtime.transport.shared_memory import SharedMemory
from async_dni.runtime.transport.tensor_queue import TensorQueue, TensorSpec

P50, P99 = Metric("round trip, p50", "µs"), Metric("round trip, p99", "µs")
BANDWIDTH = Metric("bandwidth", "GB/s")
SIZES = {f"{kb} KB": kb << 10 for kb in (4, 16, 64, 256)} | {f"{mb} MB": mb << 20 for mb in (1, 4, 16, 64)}
QUICK = ("4 KB", "256 KB", "1 MB")
COLUMNS = 256  # of the tensor, float32
WARM_UP = 10  # round trips before those that count
OURS = "TensorQueue"


@dataclass(frozen=True)
class Job:
    """The same for every contender."""

    rows: int
    trips: int
    end: Any  # a barrier


class Channel(Protocol):
    """One process's end of a pair of channels, there and back."""

    def send(self, tensor: Tensor) -> None:
        """Send a copy of the tensor."""

    def receive(self) -> Tensor:
        """What the other side sent; it may be used until `done`."""

    def done(self) -> None:
        """The tensor that was received is not needed any more."""


class RingChannel:
    """Two `TensorQueue`s."""

    def __init__(self, outgoing: TensorQueue, incoming: TensorQueue, doorbell: Doorbell) -> None:
        self.outgoing, self.incoming, self.doorbell = outgoing, incoming, doorbell

    def send(self, tensor: Tensor) -> None:
        self.outgoing.put(0, 0, tensor)

    def receive(self) -> Tensor:
        while (message := self.incoming.take()) is None:
            self.doorbell.wait(1.0)
        return message.tensors[0]

    def done(self) -> None:
        self.incoming.release()


class QueueChannel:
    """Two queues of torch.multiprocessing; `reused`: a tensor that every message is copied into, or None."""

    def __init__(self, outgoing: Any, incoming: Any, reused: Tensor | None) -> None:
        self.outgoing, self.incoming, self.reused = outgoing, incoming, reused

    def send(self, tensor: Tensor) -> None:
        self.outgoing.put(tensor.clone() if self.reused is None else self.reused.copy_(tensor))

    def receive(self) -> Tensor:
        received: Tensor = self.incoming.get()
        return received

    def done(self) -> None:
        pass


class GlooChannel:
    """send and recv of a process group of two."""

    def __init__(self, rank: int, rows: int) -> None:
        self.peer, self.buffer = 1 - rank, torch.empty(rows, COLUMNS)

    def send(self, tensor: Tensor) -> None:
        distributed.send(tensor, self.peer)

    def receive(self) -> Tensor:
        distributed.recv(self.buffer, self.peer)
        return self.buffer

    def done(self) -> None:
        pass


def over_rings(rank: int, results: Any, job: Job, ends: Sequence[RingChannel]) -> None:
    """A process's entry: TensorQueue."""
    ping_pong(rank, results, ends[rank], job)


def over_queues(rank: int, results: Any, job: Job, queues: Sequence[Any], reuse: bool) -> None:
    """A process's entry: a queue of torch.multiprocessing."""
    reused = torch.empty(job.rows, COLUMNS).share_memory_() if reuse else None
    ping_pong(rank, results, QueueChannel(queues[rank], queues[1 - rank], reused), job)


def over_gloo(rank: int, results: Any, job: Job, rendezvous: Path) -> None:
    """A process's entry: gloo."""
    with process_group(rank, 2, rendezvous):
        ping_pong(rank, results, GlooChannel(rank, job.rows), job)


def ping_pong(rank: int, results: Any, channel: Channel, job: Job) -> None:
    """Rank 0 times round trips, rank 1 echoes."""
    torch.set_num_threads(1)
    if rank == 0:
        results.send(_time_trips(channel, job)[WARM_UP:])
    else:
        for _ in range(WARM_UP + job.trips):
            channel.send(channel.receive())
            channel.done()
    job.end.wait()  # a queue's last message is fetched from the process that put it, which must live until then


def _time_trips(channel: Channel, job: Job) -> list[float]:
    sent, seconds = torch.rand(job.rows, COLUMNS), []
    for _ in range(WARM_UP + job.trips):
        began = time.perf_counter()
        channel.send(sent)
        echo = channel.receive()
        seconds.append(time.perf_counter() - began)
        if not torch.equal(echo[-1], sent[-1]):
            raise RuntimeError("the echo is not what was sent")
        channel.done()
    return seconds


def summarize(seconds: Sequence[float], nbytes: int) -> Measured:
    """Percentiles and bandwidth of round trips."""
    p99 = statistics.quantiles(seconds, n=100, method="inclusive")[98]
    return {
        P50: statistics.median(seconds) * 1e6,
        P99: p99 * 1e6,
        BANDWIDTH: 2 * nbytes * len(seconds) / sum(seconds) / 1e9,
    }


class Bench:
    """The contenders for one size of message."""

    def __init__(self, nbytes: int, trips: int) -> None:
        self.nbytes, self.trips, self.rows = nbytes, trips, nbytes // (4 * COLUMNS)

    def contenders(self) -> list[Contender]:
        """All of them."""
        return [
            Contender(OURS, self._ring),
            Contender("Queue, new", lambda: self._queue("Queue", reuse=False)),
            Contender("Queue, reused", lambda: self._queue("Queue", reuse=True)),
            Contender("SimpleQueue, new", lambda: self._queue("SimpleQueue", reuse=False)),
            Contender("gloo", self._gloo),
        ]

    def _ring(self) -> Measured:
        spec, bells = TensorSpec(self.rows, (COLUMNS,), torch.float32), (Doorbell(), Doorbell())
        memory = SharedMemory()
        try:
            there, back = (TensorQueue(memory, 2, [spec], producer=bells[k], consumer=bells[1 - k]) for k in range(2))
            ends = (RingChannel(there, back, bells[0]), RingChannel(back, there, bells[1]))
            return self._run(over_rings, ends)
        finally:
            for bell in bells:
                bell.close()

    def _queue(self, kind: str, *, reuse: bool) -> Measured:
        context = get_context("forkserver")
        queues = [getattr(context, kind)() for _ in range(2)]
        try:
            return self._run(over_queues, queues, reuse)
        finally:
            for queue in queues:
                queue.close()

    def _gloo(self) -> Measured:
        with tempfile.TemporaryDirectory() as directory:
            return self._run(over_gloo, Path(directory) / "rendezvous")

    def _run(self, entry: Any, *more: Any) -> Measured:
        job = Job(self.rows, self.trips, get_context("forkserver").Barrier(2))
        return summarize(run_ranks(entry, 2, (job, *more)), self.nbytes)


def measure(size: str, quick: bool, rounds: int) -> list[Case]:
    """All contenders for a size, in rounds."""
    nbytes = SIZES[size]
    trips = max(20, min(200, (16 << 20) // nbytes)) if quick else max(50, min(2000, (1 << 29) // nbytes))
    settings = {"bytes": nbytes, "round_trips": trips, "threads": 1}
    return compare(size, settings, Bench(nbytes, trips).contenders(), rounds, OURS, "all sizes", warm_up=not quick)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument("--size", action="append", choices=SIZES, help="a size; may be repeated; default: all")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options)
    sizes = options.size or (QUICK if options.quick else list(SIZES))
    measured = [case for size in sizes for case in measure(size, options.quick, options.rounds)]
    report("transport", options, measured, x="bytes")


if __name__ == "__main__":
    main()
