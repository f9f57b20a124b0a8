"""The logs of all workers, and what happened to the run, in the order of time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..reading.run_reader import RunReader
from .line import Line, read

_LEVEL_OF = {"warning": "WARNING", "restart": "WARNING"}


class LogFile:
    """Reads on where it stopped. The newest line may get more to it, so it is kept back until another begins, or `rest`."""

    def __init__(self, path: Path, worker: int) -> None:
        self._path, self._worker, self._offset, self._part = path, worker, 0, b""
        self._last: Line | None = None

    def more(self) -> list[Line]:
        """The lines that are whole since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except OSError:
            return []
        self._offset += len(content)
        *lines, self._part = (self._part + content).split(b"\n")
        found = []
        for text in (line.decode(errors="replace") for line in lines):
            if (line := read(text)) is not None:
                found.append(self._last)
                self._last = line
            elif self._last is not None:
                self._last = replace(self._last, text=f"{self._last.text}\n{text}")
            else:  # of a version that wrote them in another form
                self._last = Line(0.0, self._worker, 0, "INFO", text)
        return [line for line in found if line is not None]

    def rest(self) -> list[Line]:
        """The newest line, though more may come."""
        last, self._last = self._last, None
        return [] if last is None else [last]


class MergedLogs:
    """What a run has written so far, of the workers and levels that are asked for."""

    def __init__(
        self, run: RunReader, workers: Iterable[int] | None, level: str, since: int, levels: tuple[str, ...]
    ) -> None:
        self.run = run
        self._workers = None if workers is None else set(workers)
        self._levels = set(levels[levels.index(level) :])
        self._since, self._events = since, 0
        self._files: dict[int, LogFile] = {}

    def more(self, has_ended: bool) -> list[Line]:
        """What has come since the last call, by time."""
        self.run.refresh()
        lines: list[Line] = []
        for worker in self.run.records:
            path = self.run.run_dir.log(worker)
            file = self._files.setdefault(worker, LogFile(path, worker))
            lines += file.more() + (file.rest() if has_ended else [])
        events, self._events = self.run.events[self._events :], len(self.run.events)
        lines += [line_of(event) for event in events]
        return sorted(filter(self._is_wanted, lines), key=lambda line: line.time)

    def _is_wanted(self, line: Line) -> bool:
        is_its = self._workers is None or line.worker in self._workers
        return is_its and line.level in self._levels and line.step >= self._since


def line_of(event: Mapping[str, Any]) -> Line:
    """An event as a line."""
    text = " ".join(str(event[name]) for name in ("kind", "message") if name in event)
    kind, step = str(event["kind"]), event.get("step", 0)
    worker = event.get("worker") if kind in ("restart", "ready") else None
    more = f" (step {step})" if "step" in event and kind != "start" else ""
    return Line(float(event["time"]), worker, int(step), _LEVEL_OF.get(kind, "INFO"), text + more)
