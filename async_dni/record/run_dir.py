"""The files of a run: their names and how they are written and read, in one place.

config.json            every setting as used, versions, git commit, host
metrics.jsonl          one object an evaluation, and one a gradient check, with its "kind"
events.jsonl           one object for each thing that happened: starts, restarts, checkpoints, warnings
summary.json           what the run came to
trace.json.gz          the steps that were traced, for Perfetto and chrome://tracing
model.pt               the trained network's state dict
model-ema.pt           the same with the average of its weights, where they were averaged
checkpoints/*.pt       consistent snapshots (async_dni.record.checkpoint)
workers/<k>.log        what a person reads; also what the worker's layers print
workers/<k>.jsonl      what a program reads: a record at least every second
workers/<k>.spans.jsonl        what it did when, in steps that were traced
workers/<k>.profile.json.gz    what torch.profiler found
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from ..foundation.atomic_file import remove_unfinished, write_atomically
from ..foundation.cores import usable_cores
from ..foundation.error import ConfigError
from ..foundation.torchrun_agent import agent_marks
from ..learning.precision import rounds_to_bfloat16
from .evaluate import Evaluation

SCHEMA = 1  # the form of a run directory: of its files' names, and of what is in them (async_dni/record/schemas)


class RunDir:
    """A run's directory. `create` makes it; reading needs nothing but the path.

    One that nobody has named is `new` in a directory of runs, and has its name, `path`, from when it is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs: Path | None = None  # where it gets the next name that is free

    @classmethod
    def new(cls, runs: Path) -> RunDir:
        """In the directory of runs, named by the date and time."""
        run_dir = cls(runs / datetime.now().strftime("%Y%m%d-%H%M%S"))
        run_dir._runs = runs
        return run_dir

    @classmethod
    def of(cls, path: Path) -> RunDir:
        """A run directory, or that of a checkpoint in one. Raises `ConfigError` for a path that can't be looked at."""
        try:
            return cls(path.absolute().parent.parent if path.is_file() else path)
        except OSError as error:
            raise ConfigError("resume", path, f"it can't be read ({error.strerror})") from None

    config = property(lambda self: self.path / "config.json")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    events = property(lambda self: self.path / "events.jsonl")
    trace = property(lambda self: self.path / "trace.json.gz")
    summary = property(lambda self: self.path / "summary.json")
    model = property(lambda self: self.path / "model.pt")
    averaged_model = property(lambda self: self.path / "model-ema.pt")
    checkpoints = property(lambda self: self.path / "checkpoints")

    def log(self, worker: int) -> Path:
        """The log of a worker, for a person."""
        return self.path / "workers" / f"{worker}.log"

    def records(self, worker: int) -> Path:
        """The records of a worker, for a program."""
        return self.path / "workers" / f"{worker}.jsonl"

    def spans(self, worker: int) -> Path:
        """What a worker did when, in steps that were traced."""
        return self.path / "workers" / f"{worker}.spans.jsonl"

    def profile(self, worker: int) -> Path:
        """What torch.profiler found of a worker."""
        return self.path / "workers" / f"{worker}.profile.json.gz"

    def check(self) -> None:
        """Raise `ConfigError` unless the directory can be made, or is there, empty and writable. Changes nothing."""
        try:
            existing = self._existing()
        except OSError as error:  # a name that is too long, or a directory that may not be looked into
            raise ConfigError("run_dir", self.path, f"it can't be made ({error.strerror})") from None
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise ConfigError(
                "run_dir", self.path, f"{existing} can't be written; allowed: a directory that can be made"
            )

    def _existing(self) -> Path:
        """The nearest directory that is there."""
        if self._runs is not None:
            pass  # whatever is there, another name is free
        elif self.path.is_dir():
            if any(self.path.iterdir()):
                raise ConfigError("run_dir", self.path, "the directory is not empty; allowed: a new or an empty one")
        elif os.path.lexists(self.path):
            raise ConfigError("run_dir", self.path, "this is a file; allowed: a new or an empty directory")
        existing = (self._runs or self.path).absolute()
        while not existing.exists():
            existing = existing.parent
        return existing

    def create(self, *, resuming: bool = False) -> None:
        """Make the directory, for this run alone, whoever else makes one now; one that is gone on with is there."""
        if not resuming:
            self.check()
        try:
            if self._runs is not None:
                self._claim(self._runs)
            (self.path / "workers").mkdir(parents=True, exist_ok=resuming)
        except FileExistsError:
            allowed = "another run has just begun in it; allowed: a new or an empty directory"
            raise ConfigError("run_dir", self.path, allowed) from None
        except OSError as error:
            raise ConfigError("run_dir", self.path, f"it can't be made ({error.strerror})") from None

    def _claim(self, runs: Path) -> None:
        """Make it under its name, or under the next that is free: of those who make the same one, one has made it."""
        runs.mkdir(parents=True, exist_ok=True)
        name, number = self.path.name, 1
        while True:
            try:
                self.path.mkdir()
            except FileExistsError:
                number += 1
                self.path = runs / f"{name}-{number}"
            else:
                return

    def write_config(self, settings: dict[str, Any]) -> None:
        """Write config.json: the settings, and what they ran on. Raises `ConfigError` where it can't be written."""
        try:
            found = environment()
            if marks := agent_marks():
                found["torchrun"] = marks
            write_json(self.config, {"schema": SCHEMA, **settings, "environment": found})
        except OSError as error:
            raise ConfigError("run_dir", self.path, f"it can't be written ({error.strerror})") from None

    def planned_steps(self) -> int | None:
        """Steps in all of the run that config.json is of; None where it can't be read."""
        try:
            steps: object = json.loads(self.config.read_text())["used"]["steps"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return steps if isinstance(steps, int) else None

    def remove_unfinished(self) -> None:
        """Remove what was being written when the process that wrote it ended."""
        for path in (self.config, self.summary, self.model, self.averaged_model, self.checkpoints / "step-*.pt"):
            remove_unfinished(path)

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Append one evaluation, or one gradient check, to metrics.jsonl."""
        append_json_line(self.metrics, line)

    def evaluations(self, step: int) -> list[Evaluation]:
        """Those of metrics.jsonl up to a step, the newest of each; none where it can't be read."""
        try:
            found = [Evaluation(**line) for line in read_json_lines(self.metrics) if "kind" not in line]
            by_step = {evaluation.step: evaluation for evaluation in found if evaluation.step <= step}
            return [by_step[step] for step in sorted(by_step)]
        except (OSError, ValueError, TypeError):
            return []

    def write_model(self, state: dict[str, torch.Tensor], path: Path | None = None) -> None:
        """Write model.pt, or another `path`: a state dict that the network loads with `weights_only=True`."""
        write_atomically(path or self.model, lambda file: torch.save(state, file))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(content, indent=2, default=str) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def append_json_line(path: Path, content: dict[str, Any]) -> None:
    """Append one object to a JSON-lines file, whole or not at all."""
    left = memoryview((json.dumps(content) + "\n").encode())
    with path.open("ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            with suppress(OSError):
                file.truncate(size)  # what found room of a line
            raise


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def environment() -> dict[str, Any]:
    """What a run or a benchmark ran on: versions, host, processor, git commit (None outside a checkout)."""
    source = Path(__file__).resolve().parent
    git = ["git", "-C", str(source), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "host": platform.node(),
        "processor": _cpuinfo("model name") or platform.processor(),
        "cores": usable_cores(),
        "bfloat16_256x256": rounds_to_bfloat16(256, 256),  # products of that size, in medium
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git_commit": commit,
    }


def _cpuinfo(name: str) -> str:
    """What Linux says of the first core; empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(name))
    except (OSError, StopIteration):
        return ""
