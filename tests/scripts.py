"""Scripts that tests run in their own process, which has loaded torch and has the server that workers are forked from."""

from __future__ import annotations

import importlib
import io
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

import torch


def run_main(module: str, *arguments: str) -> CompletedProcess[str]:
    """Its `main(arguments)`: how it ended, and what it said."""
    return ended(arguments, lambda: importlib.import_module(module).main(arguments))


def run_script(script: Path, *arguments: str) -> CompletedProcess[str]:
    """As `python script arguments`: a module `__main__` of its own."""
    with (
        mock.patch.object(sys, "argv", [str(script), *arguments]),
        mock.patch.object(sys, "path", [str(script.parent), *sys.path]),
    ):
        return ended(arguments, lambda: runpy.run_path(str(script), run_name="__main__") and None)


def ended(arguments: tuple[str, ...], run: Callable[[], int | None]) -> CompletedProcess[str]:
    """How it ended, and what it said in this process; what it set of torch's is set back."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    output, errors = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(errors):
            status = run()
    except SystemExit as exit:
        status = int(exit.code or 0)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    return CompletedProcess(arguments, status or 0, output.getvalue(), errors.getvalue())
