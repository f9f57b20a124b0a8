"""The workers' files on another host, sent to the first as they grow, and put into its run directory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

INTERVAL = 1.0  # seconds between looks
MOST = 1 << 20  # bytes of a file at once
FOLDER = "workers"


class Mirror:
    """Sends what is new in the folder of workers: `send(name, bytes)`."""

    def __init__(self, run_dir: Path, send: Callable[[str, bytes], None]) -> None:
        self._folder, self._send = run_dir / FOLDER, send
        self._sent: dict[str, int] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def finish(self) -> None:
        """Send what is left."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._is_over.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        for path in sorted(self._folder.glob("[!.]*")):
            with suppress(OSError), path.open("rb") as file:
                file.seek(self._sent.get(path.name, 0))
                while new := file.read(MOST):
                    self._send(path.name, new)
                    self._sent[path.name] = self._sent.get(path.name, 0) + len(new)


def append(run_dir: Path, name: str, content: bytes) -> None:
    """Put what came into the file of that name. Raises `OSError`, and `ValueError` for what is no name."""
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no name of a file")
    with (run_dir / FOLDER / name).open("ab") as file:
        file.write(content)
