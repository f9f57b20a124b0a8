"""Settings of a training: queues between workers, their threads, their restarts."""

from __future__ import annotations

from dataclasses import dataclass

from ..foundation.option import number, one_of, option, whole, zero_or_seconds

OVERFLOWS = ("block", "drop")
MOST_THREADS = 1024  # a worker


@dataclass(frozen=True)
class Processes:
    """Queues between workers, their threads, their restarts."""

    queue_capacity: int = option(4, "batches a queue between two workers holds", whole(1), metavar="N")
    overflow: str = option(
        "block",
        "when the activation queue is full: wait for room (block) or train on without sending (drop)",
        one_of(OVERFLOWS),
        choices=OVERFLOWS,
    )
    lag: int | None = option(
        None,
        "learn from the gradient of batch b exactly before batch b+N is begun, so that the result depends on the seed "
        "alone; default: when it comes",
        whole(1),
        metavar="N",
    )
    threads_per_worker: int | None = option(
        None,
        "threads of each worker's arithmetic; default: OMP_NUM_THREADS, where it is set, else the cores (of a container, as many "
        "as its quota is whole cores) shared out, at least 1",
        whole(1, MOST_THREADS),
        metavar="N",
    )
    pin_cores: bool = option(False, "pin each worker to cores of its own, in turn", action="store_true")
    serial: bool = option(
        False, "run all stages in this process, in a defined order (for a debugger)", action="store_true"
    )
    snapshot_every: int = option(
        200,
        "batches between a worker's snapshots in memory, which it is restarted from; 0: none",
        whole(0),
        metavar="N",
    )
    max_restarts: int = option(
        3, "workers that were killed or hang are started again so many times in a run", whole(0), metavar="N"
    )
    heartbeat_timeout: float = option(
        60.0,
        "seconds, at least 1, after which a worker that enters no phase is taken to hang, and killed; 0: never",
        zero_or_seconds,
        metavar="SECONDS",
    )
    start_timeout: float = option(
        120.0, "seconds that the workers may take to become ready", number(above=0, below=1e6), metavar="SECONDS"
    )
