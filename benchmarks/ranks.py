"""Rivals' processes, and their process group."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import checkout  # noqa: F401  (it finds the package)
from torch import distributed
from torch.multiprocessing.spawn import start_processes

from async_dni.runtime.fork_server import worker_context
from async_dni.runtime.worker_process import die_with_trainer

GRACE = 2.0  # seconds that a process has to end after SIGTERM, before SIGKILL


def run_ranks(function: Callable[..., None], ranks: int, arguments: Sequence[Any], timeout: float = 600.0) -> Any:
    """Run `function(rank, results, *arguments)` in fresh processes; returns what one of them sent through `results`, once.

    The processes are forked from a server that has loaded torch, as the trainer's workers are. Raises where one fails,
    with its traceback, and leaves none behind. One that hangs says where before it is ended, on standard error.
    """
    received, results = worker_context().Pipe(duplex=False)
    context = start_processes(
        _rank, (function, results, *arguments), ranks, join=False, daemon=True, start_method="forkserver"
    )
    results.close()  # the ranks' copies are the only ones now
    try:
        deadline = time.monotonic() + timeout
        while not context.join(timeout=max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                for process in context.processes:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGUSR1)
                    process.join(GRACE)  # one after the other, as they share standard error
                raise TimeoutError(f"{function.__name__} did not end within {timeout:g} seconds")
        return received.recv()
    finally:
        _end(context.processes)
        received.close()


def _rank(rank: int, function: Callable[..., None], results: Any, *arguments: Any) -> None:
    die_with_trainer()
    faulthandler.register(signal.SIGUSR1)
    function(rank, results, *arguments)


def _end(processes: Sequence[Any]) -> None:
    for stop in ("terminate", "kill"):
        for process in processes:
            if process.is_alive():
                getattr(process, stop)()
        deadline = time.monotonic() + GRACE
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))


@contextmanager
def process_group(rank: int, ranks: int, rendezvous: Path | str) -> Iterator[None]:
    """A gloo group that meets in a file and talks over the loopback device; or, of a text, meets by that method."""
    if isinstance(rendezvous, Path):
        if Path("/sys/class/net/lo").exists():
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        rendezvous = f"file://{rendezvous}"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=ranks)
    try:
        yield
    finally:
        distributed.destroy_process_group()
