"""What a person sees while a run goes on."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from async_dni.record.telemetry import Telemetry
from async_dni.view.cells import COLUMNS, LEFT_OUT
from async_dni.view.live import LiveProgress


def record(**values: Any) -> dict[str, Any]:
    """A worker's, from a run that is well under way."""
    fresh = Telemetry().record({"activation": 4, "gradient": 4})
    lag = {"min": 1, "mean": 2.5, "max": 12}
    found = {
        "step": 123_456,
        "samples_per_second": 43_210.0,
        "loss": 0.012345,
        "synthesizer_loss": 0.012345,
        "lag": lag,
    }
    return {**fresh, "pid": 12_345, **found, **values}


def shown(width: int, **values: Any) -> list[str]:
    """The lines that a terminal of that width shows."""
    console = Console(file=io.StringIO(), width=width, height=25, force_terminal=True, color_system=None)
    progress = LiveProgress(console)
    with progress.running([[str(k)] for k in range(3)], 200_000):
        progress.on_record(0, record(**values))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    first = max(number for number, line in enumerate(lines) if "stage" in line)
    return [line.removeprefix("\x1b[?25l").strip() for line in lines[first:]]  # which hides the cursor


def test_a_wide_terminal_shows_all_columns() -> None:
    header, first, *rest = shown(140)
    assert [name for name in COLUMNS if name in header] == list(COLUMNS)
    assert "43,210" in first
    assert "1/2.5/12" in first
    assert len(rest) >= 3, "two more stages, and the step"


@pytest.mark.parametrize(("width", "number"), [(94, 1), (80, 3), (60, 4), (50, 6)])
def test_a_narrow_terminal_leaves_out_columns_and_cuts_none(width: int, number: int) -> None:
    header, first, *_ = shown(width)
    assert "…" not in header + first
    cells = [cell.strip() for cell in header.split("  ") if cell]
    assert cells == [name for name in COLUMNS if name not in LEFT_OUT[:number]]
    assert "43,210" in first
