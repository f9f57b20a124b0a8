"""All commands: `python -m async_dni train …`, `… summary RUN_DIR`, `… checkpoint RUN_DIR`; `async-dni` is the same."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .runtime.machine.ending import Ending, run_and_exit


def main(arguments: Sequence[str] | None = None, ending: Ending | None = None) -> int:
    """Do what the first argument says; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["train"]:
        from . import train  # not before signals are handled: it loads torch

        return train.main(given[1:], "async_dni train", ending)
    from .look.main import main as look

    return look(given)


def script() -> None:
    """The console script."""
    if sys.argv[1:2] == ["train"]:
        run_and_exit("async_dni train", lambda ending: main(ending=ending))
    sys.exit(main())


if __name__ == "__main__":
    script()
