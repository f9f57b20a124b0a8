"""Train a network in stages, one process each: `python launch.py --workers 3 --device-map`.

It is `python -m async_dni train`, in a checkout.
"""

from __future__ import annotations

from collections.abc import Sequence

from async_dni.runtime.machine.ending import Ending, run_and_exit


def main(arguments: Sequence[str] | None = None, ending: Ending | None = None) -> int:
    """Parse, train, print; returns the exit status."""
    # here, so that workers, which import this file again, don't load what only the parent needs
    from async_dni.train import main

    return main(arguments, "launch.py", ending)


if __name__ == "__main__":
    run_and_exit("launch.py", lambda ending: main(ending=ending))
