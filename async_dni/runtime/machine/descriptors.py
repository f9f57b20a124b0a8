"""File descriptors: how many a run has open at once, and the limit on them (`ulimit -n`), raised as far as that asks.

In the trainer, which has the most. What it was found to have open, at 1 to 8 workers, was 12 a worker and 3:

    a worker    its doorbell 2, event pipe 1, stage 1, snapshots 2, sentinels 2, two queues with a file and its map each 4
    the rest    of shared memory 2, the fork server 1, the resource tracker 1, less the queues that the last worker lacks

More are open for moments: while a worker is started (7, and 4 in the place of one that died), a checkpoint or a module is
loaded or written. The fork server has one a worker, and what it passes on; a worker about 30.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from typing import Any

from torch import UntypedStorage
from torch.multiprocessing import get_sharing_strategy

from ...foundation.error import ConfigError

A_WORKER, THE_REST = 12, 30
MOST_PASSED = 200  # storages: a process can be given 251 descriptors when it is started, and stage 0's needs some


def check_descriptors(workers: int, storages: Sequence[UntypedStorage]) -> int:
    """How many descriptors a run will have open, one for each storage of its data set among them.

    Raises `ConfigError` where there may not be so many.
    """
    passed = len(storages) if get_sharing_strategy() == "file_descriptor" else 0
    if passed > MOST_PASSED:
        allowed = f"stage 0 gets a file descriptor for each; allowed: at most {MOST_PASSED}, such as one of all samples"
        raise ConfigError("train_set", f"{passed} tensors", allowed)
    others = len(os.listdir("/proc/self/fd")) + passed + THE_REST
    needed, most = others + workers * A_WORKER, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if not _suffices(most, needed):
        fewer = f"at most {(most - others) // A_WORKER} workers, or " if most >= others + A_WORKER else ""
        found = f"they need {needed} file descriptors, and {most} are all that this process may have"
        raise ConfigError("workers", workers, f"{found}; allowed: {fewer}ulimit -n {needed}")
    return needed


@contextmanager
def limit_raised(needed: int) -> Iterator[None]:
    """Meanwhile this process, and the fork server and so the workers, may have as many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not _suffices(soft, needed):
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    _raise_of_server(needed)
    try:
        yield
    finally:
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] == needed:  # else another run has raised it further meanwhile
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _raise_of_server(needed: int) -> None:
    """The fork server has the limit that this process had when it was started, which may be long ago."""
    server: Any = forkserver._forkserver
    if server._forkserver_pid is None:
        return
    with suppress(OSError):  # it has died, and will be started again
        soft, hard = resource.prlimit(server._forkserver_pid, resource.RLIMIT_NOFILE)
        if not _suffices(soft, needed):
            limit = needed if _suffices(hard, needed) else hard
            resource.prlimit(server._forkserver_pid, resource.RLIMIT_NOFILE, (limit, hard))


def _suffices(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
