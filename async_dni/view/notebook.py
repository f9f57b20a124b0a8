"""A run as a picture in a notebook, updated in place."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from .drawing import draw
from .live import LiveProgress

WIDTH, SECONDS = 110, 0.5  # columns; between two updates
FORMAT = '<pre style="white-space:pre;overflow-x:auto;line-height:1.2;font-family:monospace">{code}</pre>'


class NotebookProgress(LiveProgress):
    """The picture of `LiveProgress`, as an output of the cell that trains."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO(), width=WIDTH, force_terminal=True, force_jupyter=False))
        self._handle: Any = None
        self._shown = 0.0

    @contextmanager
    def running(self, layers: Sequence[Sequence[str]], steps: int) -> Iterator[None]:
        from IPython.display import HTML, display

        self.state.plan(layers)
        self.state.steps, self.state.phase = steps, "starting the workers"
        self._handle = display(HTML(self.html()), display_id=True)
        try:
            yield
        finally:
            self.state.phase = ""
            self._update(at_once=True)

    def html(self) -> str:
        """The picture."""
        console = Console(record=True, file=io.StringIO(), width=WIDTH, force_terminal=True, force_jupyter=False)
        self.state.now = time.time()
        console.print(draw(self.state, console, height=40))
        return console.export_html(inline_styles=True, code_format=FORMAT)

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        super().on_record(worker, record)
        self._update()

    def _update(self, at_once: bool = False) -> None:
        from IPython.display import HTML

        if self._handle is not None and (at_once or time.monotonic() - self._shown >= SECONDS):
            self._shown = time.monotonic()
            self._handle.update(HTML(self.html()))

    def _say(self, line: str, style: str = "") -> None:
        """Lines are for terminals; the picture has what they say."""


def is_in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    try:
        shell: Any = get_ipython()  # type: ignore[name-defined]
    except NameError:
        return False
    return type(shell).__name__ == "ZMQInteractiveShell"
