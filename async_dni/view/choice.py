"""Which display a run has."""

from __future__ import annotations

from rich.console import Console

from ..foundation.error import ConfigError
from ..record.progress import Progress
from .live import LiveProgress
from .notebook import NotebookProgress, is_in_notebook
from .plain import PlainProgress

DISPLAYS = ("auto", "live", "plain", "notebook")


def make_progress(given: Progress | str | None, console: Console | None = None) -> Progress:
    """Nothing, where None is given; of a name the display. `auto`: a picture in a notebook or on a terminal, else lines.

    Raises `ConfigError`.
    """
    if given is None:
        return Progress()
    if isinstance(given, Progress):
        return given
    console = console or Console()
    if given == "auto":
        is_terminal = console.is_terminal and not console.is_dumb_terminal
        given = "notebook" if is_in_notebook() else "live" if is_terminal else "plain"
    if given == "notebook":
        return NotebookProgress()
    if given in ("live", "plain"):
        return LiveProgress(console) if given == "live" else PlainProgress(console)
    raise ConfigError("progress", given, f"allowed: {', '.join(DISPLAYS)}, or a Progress")
