"""A run directory, finished or growing, whole or damaged: what is in it so far."""

from __future__ import annotations

import json
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from ...foundation.error import ConfigError
from ..gradients.check import KIND
from ..run_dir import SCHEMA, RunDir
from .json_lines import JsonLines
from .schema import fault

ALLOWED = "allowed: a run directory, which has a config.json, a summary.json, a metrics.jsonl or a directory workers"
SILENT = 30.0  # seconds without a record, after which a run whose process can't be looked for is taken for dead
STATES = ("running", "finished", "ended early", "interrupted", "died", "unknown")


class RunReader:
    """Reads what there is, and on with `refresh`. Raises `ConfigError` for a directory that is none of a run.

    Objects are plain dictionaries, in the forms that `async_dni/record/schemas` describe; what has another form is left out,
    and `notes` say so. Nothing is raised for what is damaged or missing. `latest`: of each worker's records the last ones only,
    which is enough for a list of many runs.
    """

    def __init__(self, path: Path, setting: str = "path", latest: bool = False) -> None:
        self.path, self.run_dir, self._latest = path, RunDir(path), latest
        marks = (self.run_dir.config, self.run_dir.summary, self.run_dir.metrics, path / "workers")
        try:
            if not any(mark.exists() for mark in marks):
                raise ConfigError(setting, path, ALLOWED)
        except OSError as error:
            raise ConfigError(setting, path, f"it can't be read ({error.strerror}); {ALLOWED}") from None
        self.config: dict[str, Any] = {}  # empty where it can't be read
        self.summary: dict[str, Any] | None = None  # None before the end, and where it can't be read
        self.evaluations: list[dict[str, Any]] = []  # by step; the newest of each
        self.gradient_checks: list[dict[str, Any]] = []  # by step; the newest of each
        self.records: dict[int, list[dict[str, Any]]] = {}  # of each worker, in time
        self.events: list[dict[str, Any]] = []  # in time
        self._metrics = JsonLines(self.run_dir.metrics, _kind_of_metric)
        self._events = JsonLines(self.run_dir.events, lambda line: "event")
        self._records: dict[int, JsonLines] = {}
        self._faults: dict[str, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read on."""
        self.config = self._whole(self.run_dir.config, "config") or self.config
        self.summary = self._whole(self.run_dir.summary, "summary") or self.summary
        for line in self._metrics.more():
            lines = self.gradient_checks if line.get("kind") == KIND else self.evaluations
            lines[:] = [
                other for other in lines if other["step"] < line["step"]
            ]  # a run that was gone on with from before
            lines.append(line)
        self.events += self._events.more()
        for worker in self._workers():
            records = JsonLines(self.run_dir.records(worker), lambda line: "record", tail=self._latest)
            lines_of = self._records.setdefault(worker, records)
            self.records.setdefault(worker, []).extend(lines_of.more())

    def _workers(self) -> list[int]:
        try:
            names = [path.name.split(".", 1)[0] for path in (self.path / "workers").iterdir()]
        except OSError:
            return []
        return sorted({int(name) for name in names if name.isdecimal()})

    def _whole(self, path: Path, form: str) -> dict[str, Any] | None:
        """A file that is one object; None where there is none that can be read."""
        self._faults.pop(form, None)
        try:
            value: dict[str, Any] = json.loads(path.read_text())
            wrong = fault(form, value)
        except FileNotFoundError:
            return None
        except OSError as error:
            wrong = error.strerror or str(error)
        except ValueError as error:
            wrong = str(error)
        if wrong is None:
            return value
        self._faults[form] = f"{path.name} can't be read ({wrong})"
        return None

    @property
    def notes(self) -> list[str]:
        """What could not be read, a sentence each."""
        has_ended = self.state != "running"
        newer = self.config.get("schema", 1)
        found = [f"it was written by a newer version (schema {newer}; known: {SCHEMA})"] if newer > SCHEMA else []
        if not self.config and "config" not in self._faults:
            found.append("config.json is missing")
        found += self._faults.values()
        for lines in (self._metrics, self._events, *self._records.values()):
            found += lines.notes(has_ended)
        return found

    @property
    def num_workers(self) -> int:
        """Stages of the run."""
        split = self.config.get("used", {}).get("split")
        return len(split) + 1 if isinstance(split, list) else len(self.records)

    @property
    def layers(self) -> list[list[str]]:
        """The names of each stage's blocks; empty where they are not known."""
        starts: list[dict[str, Any]] = [event for event in self.events if event["kind"] == "start"]
        if starts:
            return [list(names) for names in starts[-1].get("layers", [])]
        return [list(worker.get("layers", [])) for worker in (self.summary or {}).get("workers", [])]

    @property
    def steps(self) -> int | None:
        """Batches of the whole run; None where that is not known."""
        steps = self.config.get("used", {}).get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def start(self) -> int:
        """Batches that were done before the newest start: a run may have been gone on with."""
        starts = [event for event in self.events if event["kind"] == "start"]
        return int(starts[-1].get("step", 0)) if starts else 0

    @property
    def step(self) -> int:
        """The batches that the stage which is furthest behind has done."""
        lasts = [records[-1]["step"] for records in self.records.values() if records]
        return min(lasts, default=0) if self.summary is None else int(self.summary["steps"])

    @property
    def began(self) -> float | None:
        """`time.time()` when the workers began, of the newest start; None where that is not known."""
        begins = [event["time"] for event in self.events if event["kind"] == "begin"]
        firsts = [records[0]["time"] for records in self.records.values() if records]
        return begins[-1] if begins else min(firsts, default=None)

    @property
    def restarts(self) -> dict[int, int]:
        """Workers that were started again, by stage."""
        found: dict[int, int] = {}
        for event in self.events:
            if event["kind"] == "restart":
                found[event["worker"]] = found.get(event["worker"], 0) + 1
        return found

    @property
    def state(self) -> str:
        """One of `STATES`."""
        if self._is_alive():
            return "running"
        if self.summary is not None:
            if self.summary.get("interrupted_by") is not None:
                return "interrupted"
            return "finished" if self.summary.get("ended_early") is None else "ended early"
        return "died" if self.config or any(self.records.values()) else "unknown"

    def _is_alive(self) -> bool:
        """Whether the process that trains is there; on another host, whether it has written lately."""
        starts = [number for number, event in enumerate(self.events) if event["kind"] == "start"]
        if not starts or any(event["kind"] == "closed" for event in self.events[starts[-1] :]):
            return False
        start = self.events[starts[-1]]
        with suppress(OSError):
            if self.run_dir.summary.stat().st_mtime >= start["time"]:
                return False  # of this start, not of one before, which a resumed run has
        if self.config.get("environment", {}).get("host") not in (None, platform.node()):
            lasts = [records[-1]["time"] for records in self.records.values() if records]
            return time.time() - max(lasts, default=start["time"]) < SILENT
        try:
            # a process that began after the run did is another, with the same number
            return bool(psutil.Process(start["pid"]).create_time() <= start["time"] + 1)
        except psutil.Error:
            return False


def _kind_of_metric(line: dict[str, Any]) -> str:
    return "gradient_check" if line.get("kind") == KIND else "evaluation"
