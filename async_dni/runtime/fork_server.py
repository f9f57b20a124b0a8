"""The server that workers are forked from: started, and ended where this process ends at once."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import suppress
from multiprocessing import active_children, current_process, forkserver, get_context, resource_tracker
from typing import Any

from .machine import parent_death
from .machine.environment import environment
from .machine.socket_folder import make_socket_folder


def worker_context(threads: int = 1) -> Any:
    """Workers are forked from a server process that has loaded torch and nothing else; never from this one.

    There is one server in the life of a process. OMP and MKL are told `threads` before it loads torch; a worker of a
    later run that wants another number sets it through torch.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["async_dni.runtime.preload"])
    # A terminal's Ctrl-C goes to every process, as `timeout` and some batch systems send SIGTERM to a whole group, and this
    # one tells the workers what it means. Blocked signals are inherited, so that a worker is deaf to it from its first moment.
    resource_tracker.ensure_running()  # its start unblocks signals
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGTERM})
    try:
        # before Python 3.13 the server does not take over sys.path by itself
        path = os.pathsep.join(directory for directory in sys.path if directory)
        threads_of_libraries = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        with environment(PYTHONPATH=path, **threads_of_libraries, **{parent_death.SERVER: str(os.getpid())}):
            make_socket_folder()
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return context


def end_server() -> None:
    """End workers and their server now, and remove its socket with its directory: for a process that ends without its end."""
    for worker in active_children():
        worker.kill()
    server: Any = forkserver._forkserver
    if server._forkserver_pid is not None:
        with suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)
    if directory := current_process()._config.get("tempdir"):  # type: ignore[attr-defined]
        shutil.rmtree(directory, ignore_errors=True)
