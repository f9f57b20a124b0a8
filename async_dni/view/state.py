"""What is known of a run at a moment: fed by what a training tells, or by a run directory; drawn by whoever shows it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..record.reading.run_reader import RunReader


@dataclass
class StageState:
    """One stage, and its worker."""

    layers: Sequence[str] = ()
    device: str = "cpu"
    record: Mapping[str, Any] | None = None  # the newest
    restarts: int = 0
    is_ready: bool = False


@dataclass
class RunState:
    """A run: `steps` of it, the newest of everything."""

    title: str = ""
    steps: int = 0
    start: int = 0  # batches that were done before the workers began
    began: float | None = None  # time.time(), when they did
    now: float = field(default_factory=time.time)
    phase: str = ""  # what is done before they begin, or beside their training
    capacity: int | None = None  # of each queue
    stages: list[StageState] = field(default_factory=list)
    evaluations: list[Mapping[str, Any]] = field(default_factory=list)
    check: Mapping[str, Any] | None = None  # the newest gradient check
    end: str = ""  # how it ended, or what is wrong with it

    def configure(self, config: Mapping[str, Any]) -> None:
        """Take what config.json says."""
        used = config.get("used", {})
        self.title = f"{config.get('method', 'run')}, {config.get('workers', '?')} workers"
        capacity, devices = config.get("queue_capacity"), used.get("devices")
        self.capacity = capacity if isinstance(capacity, int) and capacity > 0 else None
        if isinstance(devices, list) and not self.stages:
            hosts = used.get("host_of_stage")
            names = zip(hosts, devices, strict=False) if isinstance(hosts, list) else (("", name) for name in devices)
            self.stages = [StageState(device=f"{host}/{name}" if host != "" else str(name)) for host, name in names]

    def plan(self, layers: Sequence[Sequence[str]]) -> None:
        """Take the names of each stage's blocks."""
        devices = [stage.device for stage in self.stages] or ["cpu"] * len(layers)
        self.stages = [StageState(names, device) for names, device in zip(layers, devices, strict=False)]

    @property
    def step(self) -> int:
        """Batches that all stages have done."""
        records = [stage.record for stage in self.stages if stage.record is not None]
        return min((int(record["step"]) for record in records), default=self.start)

    @property
    def samples_per_second(self) -> float | None:
        """Of the stage that does least."""
        records = [stage.record for stage in self.stages if stage.record is not None]
        return min((float(record["samples_per_second"]) for record in records), default=None)

    @property
    def seconds_left(self) -> float | None:
        """At the mean pace since the workers began; None where that is not known."""
        if self.began is None or self.step <= self.start or not self.steps:
            return None
        return max(0.0, (self.steps - self.step) * (self.now - self.began) / (self.step - self.start))

    @classmethod
    def of(cls, run: RunReader) -> RunState:
        """As a run directory tells it."""
        state = cls(steps=run.steps or 0, start=run.start, began=run.began)
        state.configure(run.config)
        layers = run.layers or [[] for _ in range(run.num_workers)]
        state.plan(layers)
        for k, stage in enumerate(state.stages):
            records = run.records.get(k)
            stage.record = records[-1] if records else None
            stage.restarts = run.restarts.get(k, 0)
        lasts = [stage.record["time"] for stage in state.stages if stage.record is not None]
        is_running = run.state == "running"
        state.now = time.time() if is_running else max(lasts, default=time.time())
        state.evaluations, state.check = list(run.evaluations), next(reversed(run.gradient_checks), None)
        phases = [event for event in run.events if event["kind"] in ("start", "begin", "evaluating", "evaluated")]
        if is_running and phases:
            state.phase = PHASES[phases[-1]["kind"]].format(**phases[-1])
        state.end = "" if is_running else run.state
        return state


PHASES = {"start": "starting the workers", "begin": "", "evaluating": "evaluating after step {step}", "evaluated": ""}
