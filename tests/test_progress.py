"""What a person sees while a run goes on."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from async_dni import ConfigError, Trainer, fcn
from async_dni.record.evaluate import Evaluation
from async_dni.record.heartbeat import PHASES
from async_dni.record.progress import Progress
from async_dni.record.telemetry import Telemetry
from async_dni.view import choice, notebook
from async_dni.view.cells import clock
from async_dni.view.drawing import COLUMNS, KINDS, draw, shares, sparkline
from async_dni.view.live import LiveProgress
from async_dni.view.plain import PlainProgress
from async_dni.view.state import RunState


def record(**values: Any) -> dict[str, Any]:
    """A worker's, from a run that is well under way."""
    fresh = Telemetry().record({"activation": 4, "gradient": 2})
    seconds = dict.fromkeys(PHASES, 0.01) | {"wait_activation": 0.1, "forward": 0.2, "update": 0.1}
    lag = {"min": 1, "mean": 2.5, "max": 12}
    found = {
        "step": 123_456,
        "samples_per_second": 43_210.0,
        "loss": 0.012345,
        "synthesizer_loss": 0.012345,
        "lag": lag,
    }
    return {**fresh, "pid": 12_345, "seconds": seconds, **found, **values}


def evaluation(error: float, step: int = 240) -> dict[str, Any]:
    return Evaluation(step, 1.0, 2.0, error, error / 10, None).as_dict()


def state(stages: int = 3, **values: Any) -> RunState:
    made = RunState(steps=200_000, began=0.0, now=100.0, **values)
    made.configure({"method": "cdni", "workers": stages, "queue_capacity": 4, "used": {"devices": ["cpu"] * stages}})
    made.plan([[f"layer{k}"] for k in range(stages)])
    for stage in made.stages:
        stage.record = record()
    made.evaluations = [evaluation(5.07), evaluation(2.0)]
    return made


def lines(what: RunState, width: int, height: int = 25, encoding: str = "utf-8", colour: bool = False) -> list[str]:
    """What a terminal of that size shows."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    system: Any = "truecolor" if colour else None
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=system)
    console.print(draw(what, console))
    file.flush()
    return file.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
@pytest.mark.parametrize("stages", [1, 3, 8])
def test_no_line_is_wider_than_the_terminal_and_each_stage_has_one(width: int, stages: int) -> None:
    shown = lines(state(stages), width)
    assert max(map(len, shown)) <= width
    header = next(number for number, line in enumerate(shown) if line.startswith("stage"))
    assert [line.split()[0] for line in shown[header + 1 : header + 1 + stages]] == [str(k) for k in range(stages)]
    assert all("43,210" in line for line in shown[header + 1 : header + 1 + stages])
    assert "…" not in "".join(shown[header : header + 1 + stages])


def test_a_wide_terminal_shows_all_columns() -> None:
    shown = lines(state(), 160)
    header = next(line for line in shown if line.startswith("stage"))
    assert header.split("  ")[0] == "stage"
    assert all(name in header for name in COLUMNS)
    assert "cdni, 3 workers" in shown[0]
    assert "step 123,456/200,000  62%" in shown[0]
    assert "1:02 left" in shown[0], "76,544 steps at 1,234.56 a second"
    assert "test error 2 %  ↓  █▁" in shown[1]


def test_more_stages_than_lines_are_counted() -> None:
    shown = lines(state(12), 80, height=10)
    assert len(shown) <= 10
    assert "and 8 more stages" in "".join(shown)


def test_colours_are_left_out_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" in "".join(lines(state(), 80, colour=True))
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True)
    console.print(draw(state(), console))
    assert not re.search(r"\x1b\[[\d;]*3\dm", file.getvalue())
    assert all(kind.glyph in file.getvalue() for kind in KINDS), "phases are told by glyphs, too"


def test_a_terminal_without_unicode_gets_letters() -> None:
    shown = lines(state(), 80, encoding="ascii")
    assert "down" in shown[1]
    assert "".join(shown).isascii()


def test_time_is_shared_out_to_the_last_cell() -> None:
    assert shares({"forward": 1.0, "wait_gradient": 1.0, "wait_room": 1.0}, 9) == [6, 0, 3, 0, 0, 0, 0]
    assert shares({}, 9) == [0] * len(KINDS)
    assert all(sum(shares({"load": a, "forward": b, "learn": 0.3}, 7)) == 7 for a in (0.1, 0.2) for b in (0.5, 0.7))


def test_numbers_as_bars_and_seconds_as_a_clock() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert (clock(59.6), clock(61), clock(3_661)) == ("1:00", "1:01", "1:01:01")


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_phase(self, text: str) -> None:
        self.told.append(text)

    def on_config(self, config: dict[str, Any]) -> None:
        self.told.append(f"config of {config['method']}")

    def on_ready(self, worker: int, pid: int) -> None:
        self.told.append("ready")

    def on_begin(self) -> None:
        self.told.append("begin")

    def on_evaluating(self, step: int) -> None:
        self.told.append(f"evaluating {step}")

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.told.append(f"evaluated {evaluation.step}")

    def on_checkpoint(self, step: int) -> None:
        self.told.append(f"checkpoint {step}")

    def on_closed(self) -> None:
        self.told.append("closed")


def small() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(40, 1, 28, 28), torch.arange(40) % 10


@pytest.mark.parametrize("with_files", [True, False])
def test_a_run_tells_its_phases_in_order(tmp_path: Path, with_files: bool) -> None:
    told, data = Told(), small()
    run_dir = tmp_path / "run" if with_files else None
    Trainer(fcn(2, 8), workers=2, batch_size=20, progress=told, run_dir=run_dir).fit(data, epochs=1, eval_set=data)
    start = [
        "looking at the data and the network",
        "cutting the network into stages",
        "config of cdni",
        "ready",
        "ready",
        "begin",
    ]
    assert told.told == [*start, *["checkpoint 2"] * with_files, "evaluating 2", "evaluated 2", "closed"]


def test_the_live_display_shows_what_it_is_told() -> None:
    console = Console(file=io.StringIO(), width=120, height=30, force_terminal=True, color_system=None)
    progress = LiveProgress(console)
    progress.on_config({"method": "dni", "workers": 2, "queue_capacity": 4, "used": {"devices": ["cpu", "cuda:0"]}})
    with progress.running([["a"], ["b"]], 100):
        assert "starting the workers" in screen(progress)
        progress.on_ready(1, 17)
        assert re.search(r"1 +cuda:0 +b +ready", screen(progress))
        progress.on_begin()
        progress.on_record(0, record(step=50))
        progress.on_record(1, record(step=40))
        progress.on_evaluating(40)
        assert "step 40/100" in screen(progress)
        assert "evaluating after step 40" in screen(progress)
        progress.on_restart(1, "stage 1 was killed")
        assert progress.state.stages[1].restarts == 1
    assert "reading" not in console.file.getvalue()  # type: ignore[attr-defined]


def screen(progress: LiveProgress) -> str:
    console = Console(file=io.StringIO(), width=120, height=30, color_system=None)
    console.print(draw(progress.state, console))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_lines_tell_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    console, now = Console(file=io.StringIO(), width=200), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = PlainProgress(console)
    progress.on_phase("reading the data")
    assert console.file.getvalue() == "", "a run that is refused has printed nothing"  # type: ignore[attr-defined]
    with progress.running([["a"]], 100):
        for step in (10, 20):
            now[0] += PlainProgress.SECONDS
            progress.on_record(0, record(step=step))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 20/100  about 0:40 left" in text


def test_a_display_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert type(choice.make_progress(None)) is Progress
    assert type(choice.make_progress("auto", terminal)) is LiveProgress
    assert type(choice.make_progress("auto", Console(file=io.StringIO()))) is PlainProgress
    monkeypatch.setenv("TERM", "dumb")
    assert type(choice.make_progress("auto", Console(file=io.StringIO(), force_terminal=True))) is PlainProgress
    monkeypatch.setattr(choice, "is_in_notebook", lambda: True)
    assert type(choice.make_progress("auto", terminal)) is notebook.NotebookProgress
    with pytest.raises(ConfigError, match="progress: got loud; allowed: auto, live, plain, notebook, or a Progress"):
        Trainer(fcn(2, 8), workers=2, progress="loud")


def test_a_notebook_has_one_output_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    display = pytest.importorskip("IPython.display")
    shown: list[str] = []

    class Handle:
        def update(self, html: Any) -> None:
            shown.append(html.data)

    def show(html: Any, display_id: bool) -> Handle:
        assert display_id
        shown.append(html.data)
        return Handle()

    monkeypatch.setattr(display, "display", show)
    progress = notebook.NotebookProgress()
    with progress.running([["<a>"]], 100):
        progress.on_record(0, record(step=50))
    assert "<pre" in shown[0]
    assert "step 50/100" in shown[-1]
    assert "&lt;a&gt;" in shown[-1], "what is shown is text"
    assert not notebook.is_in_notebook()
