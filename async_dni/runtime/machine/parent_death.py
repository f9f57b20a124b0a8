"""Asks the kernel to end this process when its parent dies, for processes that can't look after that themselves.

The server that workers are forked from can't while it loads torch, which takes seconds. So that it is asked before that,
this module is the first that the package imports; `SERVER` is in the environment of that process alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

SERVER = "ASYNC_DNI_SERVER"  # the process id of the server's parent
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def die_with_parent() -> None:
    """SIGKILL when the parent dies, or the thread of it that this process was forked by."""
    _set(signal.SIGKILL)


def outlive_parent() -> None:
    """Take that back."""
    _set(0)


def _set(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


if (parent := os.environ.pop(SERVER, None)) and any("multiprocessing.forkserver" in part for part in sys.orig_argv):
    die_with_parent()
    if os.getppid() != int(parent):
        os._exit(1)  # it has died before
