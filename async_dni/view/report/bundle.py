"""Vega, Vega-Lite and Vega-Embed, as one script; made in a process of its own, as it takes a second that others can use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAKE = "import sys, vl_convert; sys.stdout.write(vl_convert.javascript_bundle())"
_MADE: list[str] = []  # once in a process


@contextmanager
def bundled() -> Iterator[Callable[[], str]]:
    """It is made meanwhile; what is yielded waits for it. Raises `subprocess.CalledProcessError` where it can't be made."""
    if _MADE:
        yield lambda: _MADE[0]
        return
    command = [sys.executable, "-c", MAKE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:

        def wait() -> str:
            script = process.communicate()[0]
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, command)
            _MADE.append(script.replace("</script", "<\\/script"))
            return _MADE[0]

        try:
            yield wait
        finally:
            process.kill()
