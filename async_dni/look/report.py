"""`report RUN_DIR`: a run as one page of HTML; its figures as files."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from rich.console import Console

from ..foundation.atomic_file import write_atomically
from ..foundation.error import ConfigError
from ..record.reading.run_reader import RunReader
from ..view.report.bundle import bundled
from ..view.report.files import WRITERS, write_figures
from ..view.report.page import figures_of, render
from .command import Command, add_run_dir

NEEDED = "vl_convert"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs, and what is written where."""
    add_run_dir(parser)
    parser.add_argument(
        "--compare", type=Path, nargs="+", default=[], metavar="OTHER", help="run directories to hold it beside"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page; default: RUN_DIR/report.html")
    parser.add_argument(
        "--samples", type=int, default=8, metavar="N", help="most confused samples to show, of images; default: 8"
    )
    for kind in WRITERS:
        parser.add_argument(f"--{kind}", type=Path, metavar="DIR", help=f"each figure as a .{kind} file, too")


def show(options: argparse.Namespace, console: Console) -> None:
    """Write the page and the files, and say where they are."""
    if importlib.util.find_spec(NEEDED) is None:
        raise ConfigError("path", options.path, "charts need vl-convert-python: pip install 'async-dni[view]'")
    with bundled() as javascript:
        run = RunReader(options.path)
        others = [RunReader(path, "compare") for path in options.compare]
        html = render(run, others, options.samples, javascript).encode()
    out = options.out or run.path / "report.html"
    written = [_write(out, html)]
    figures = figures_of(run, others)
    for kind in WRITERS:
        if (folder := getattr(options, kind)) is not None:
            try:
                written += write_figures(figures, folder, kind)
            except OSError as error:
                raise ConfigError(
                    kind, folder, f"it can't be written ({error.strerror}); allowed: a directory"
                ) from None
    console.print("\n".join(map(str, written)), markup=False, highlight=False, soft_wrap=True)


def _write(path: Path, content: bytes) -> Path:
    try:
        write_atomically(path, lambda file: file.write(content))
    except OSError as error:
        raise ConfigError(
            "out", path, f"it can't be written ({error.strerror}); allowed: a file in a directory"
        ) from None
    return path


REPORT = Command("report", "a run as a page of HTML with charts", add_arguments, show)
