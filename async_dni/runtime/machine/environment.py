"""Environment variables, and the main module, for the processes that are started meanwhile."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_setting = threading.Lock()  # the environment is every thread's


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set variables, and put back afterwards what was there."""
    with _setting:
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


@contextmanager
def importable_main() -> Iterator[None]:
    """Processes import the main module of the one that starts them, where it is a file.

    `python -` gives it the name of a file that is none, which they would look for. What it defines is sent by value.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if path is None or getattr(main, "__spec__", None) is not None or os.path.isfile(path):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = path


def variable(name: str) -> str:
    """A variable as the user has it, not as another thread sets it for a process that it starts; empty where it is not set."""
    with _setting:
        return os.environ.get(name, "")
