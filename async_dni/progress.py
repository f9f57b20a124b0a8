"""What a person sees while a run goes on: a live table on a terminal, plain lines where there is none."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .evaluate import Evaluation
from .telemetry import WAITS

COLUMNS = ("stage", "blocks", "pid", "step", "samples/s", "waiting", "queued", "lag", "loss", "synth. loss", "dropped")
# one after the other, on a terminal that is too narrow
LEFT_OUT = ("pid", "dropped", "blocks", "synth. loss", "queued", "waiting")


class Progress:
    """Shows nothing; what others override."""

    @contextmanager
    def running(self, layers: Sequence[Sequence[str]], steps: int) -> Iterator[None]:
        """While the run goes on. `layers`: the names of each stage's blocks; `steps`: batches to come."""
        yield

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        """A worker's record (`async_dni.telemetry`)."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """The network was evaluated."""

    def on_note(self, text: str) -> None:
        """Something that a person should know."""

    def on_warning(self, text: str) -> None:
        """Something went wrong that the run survives; said on standard error, also where nothing else is shown."""
        with suppress(OSError):
            print(f"warning: {text}", file=sys.stderr, flush=True)


class PlainProgress(Progress):
    """A line for each evaluation, and for all workers every few seconds."""

    SECONDS = 5.0  # between lines of the workers

    def __init__(self, console: Console) -> None:
        self.console = console
        self.records: dict[int, dict[str, Any]] = {}
        self.layers: Sequence[Sequence[str]] = ()
        self.steps = 0
        self._printed = -math.inf

    @contextmanager
    def running(self, layers: Sequence[Sequence[str]], steps: int) -> Iterator[None]:
        self.layers, self.steps = layers, steps
        self._print(f"starting {len(layers)} stages for {steps} steps")
        yield

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        self.records[worker] = record
        if len(self.records) == len(self.layers) and time.monotonic() - self._printed >= self.SECONDS:
            self._printed = time.monotonic()
            for k, latest in sorted(self.records.items()):
                cells = row(k, self.layers[k], latest)
                self._print("  ".join(f"{name} {cell}" for name, cell in zip(COLUMNS, cells, strict=True) if cell))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._print(describe_evaluation(evaluation, self.steps))

    def on_note(self, text: str) -> None:
        self._print(text)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveProgress(Progress):
    """A table of the workers that is redrawn in place, and the evaluations above it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.records: dict[int, dict[str, Any]] = {}
        self.layers: Sequence[Sequence[str]] = ()
        self.steps = 0
        self._live: Live | None = None

    @contextmanager
    def running(self, layers: Sequence[Sequence[str]], steps: int) -> Iterator[None]:
        self.layers, self.steps = layers, steps
        with Live(get_renderable=self._draw, console=self.console, refresh_per_second=4) as self._live:
            yield

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        self.records[worker] = record

    def on_evaluation(self, evaluation: Evaluation) -> None:
        line = describe_evaluation(evaluation, self.steps)
        self.console.print(line, markup=False, highlight=False)

    def on_note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def _draw(self) -> Group:
        done = max((record["step"] for record in self.records.values()), default=0)
        return Group(self._table(), Text(f"step {done} of {self.steps}", style="dim"))

    def _table(self) -> Table:
        """As many columns as there is room for."""
        boundless = self.console.options.update(max_width=10_000)
        for left_out in range(len(LEFT_OUT) + 1):
            table = self._table_of([name for name in COLUMNS if name not in LEFT_OUT[:left_out]])
            if self.console.measure(table, options=boundless).maximum <= self.console.width:
                break
        return table

    def _table_of(self, columns: Sequence[str]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in columns:
            table.add_column(name, justify="left" if name == "blocks" else "right", no_wrap=True)
        for k, layers in enumerate(self.layers):
            record = self.records.get(k)
            cells = [str(k), blocks(layers)] if record is None else row(k, layers, record)
            by_name = dict(zip(COLUMNS, cells, strict=False))
            table.add_row(*(by_name.get(name, "") for name in columns))
        return table


def row(worker: int, layers: Sequence[str], record: dict[str, Any]) -> list[str]:
    """A worker's record as the cells of `COLUMNS`."""
    spent = sum(record["seconds"].values()) or 1.0
    waiting = sum(record["seconds"][phase] for phase in WAITS) / spent
    lag = record["lag"]
    return [
        str(worker),
        blocks(layers),
        str(record["pid"]),
        str(record["step"]),
        f"{record['samples_per_second']:,.0f}",
        f"{waiting:.0%}",
        " ".join(f"{name[0]}{depth}" for name, depth in record["queues"].items()),
        f"{lag['min']}/{lag['mean']:.1f}/{lag['max']}" if lag else "",
        _number(record["loss"]),
        _number(record["synthesizer_loss"]),
        str(record["dropped"]),
    ]


def blocks(layers: Sequence[str]) -> str:
    """The names of a stage's blocks, shortened to the first and the last."""
    return layers[0] if len(layers) == 1 else f"{layers[0]}…{layers[-1]}"


def describe_evaluation(evaluation: Evaluation, steps: int) -> str:
    """An evaluation as a line for a person."""
    error = "" if evaluation.test_error is None else f"test error {evaluation.test_error:.2f} %  "
    where = f"epoch {evaluation.epoch:5.1f}  step {evaluation.step:>{len(str(steps))}}/{steps}"
    return f"{where}  {error}test loss {evaluation.test_loss:.4f}  after {evaluation.wall_seconds:.1f} s"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
