"""Where a command prints may go away while it runs: `| head` has enough, a disk is full, a terminal is closed.

A training must not end for that, nor leave a traceback for every line.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import IO, Any


class Output:
    """A text stream that falls silent, instead of raising, when it can't be written any more; `error` says why."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream
        self.error: OSError | None = None

    @property
    def failed(self) -> bool:
        """Whether something was not printed that somebody wanted: a reader that has gone wanted no more."""
        return self.error is not None and self.error.errno != errno.EPIPE

    def write(self, text: str) -> int:
        """Write, as far as that can be done."""
        if self._stream is not None and self.error is None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(text.encode("ascii", "backslashreplace").decode())
            except OSError as error:
                self._fall_silent(error)
        return len(text)

    def flush(self) -> None:
        """Flush, as far as that can be done."""
        if self._stream is not None and self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._fall_silent(error)

    def _fall_silent(self, error: OSError) -> None:
        self.error = error
        assert self._stream is not None
        try:
            # what is left in the stream's buffer goes nowhere when the interpreter ends, and raises no more
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except OSError:
            pass  # a stream without a file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # isatty, encoding, fileno, …


@contextmanager
def lasting_output(program: str) -> Iterator[Output]:
    """Standard output and error as `Output`s inside; yields the former. What could not be printed is told at the end."""
    output, errors = Output(sys.stdout), Output(sys.stderr)
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            yield output
        finally:
            output.flush()
            if output.failed and output.error is not None:
                reason = output.error.strerror
                print(f"{program}: standard output can't be written ({reason}); the rest was not printed", file=errors)
            errors.flush()
