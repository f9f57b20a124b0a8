"""A run as a table on a terminal, redrawn in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..record.evaluate import Evaluation
from ..record.gradients.check import GradientCheck
from ..record.progress import Progress
from .cells import COLUMNS, LEFT_OUT, blocks, describe_evaluation, describe_gradient_check, row


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

    def on_gradient_check(self, check: GradientCheck) -> None:
        self.console.print(describe_gradient_check(check, self.steps), markup=False, highlight=False)

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
