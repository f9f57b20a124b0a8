"""The report: a page of HTML with charts."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_trace import CHROMIUM

from async_dni.look.main import main as look
from async_dni.record.heartbeat import PHASES
from async_dni.record.reading.run_reader import RunReader
from async_dni.view.comparison import at_equal, differing
from async_dni.view.report.page import figures_of, workers
from async_dni.view.report.reproduce import command
from async_dni.view.report.results import most_confused
from async_dni.view.report.series import histogram, thinned

pytest.importorskip("vl_convert")
MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def page(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    other = shutil.copytree(finished_run, folder / "<script>alert(1)", ignore=shutil.ignore_patterns("*.pt"))
    assert look(["report", str(finished_run), "--compare", str(other), "--out", str(folder / "report.html")]) == 0
    return folder / "report.html"


def test_the_page_needs_nothing_else(page: Path) -> None:
    html = page.read_text()
    assert len(html) < MOST_BYTES
    before_scripts = html.split("<script>", 1)[0]
    assert not re.findall(r"""(?:src|href)=["'](?!data:|\#)""", before_scripts)
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html
    for word in (
        "Beside each other",
        "Workers",
        "What happened",
        "Most confused samples",
        "python launch.py --width 32 --steps 30",
    ):
        assert word in html, word


def test_each_chart_has_words_and_a_table(finished_run: Path) -> None:
    figures = figures_of(RunReader(finished_run))
    assert {"test_error_over_steps", "test_loss_over_seconds", "time_use", "timeline", "confusion"} <= {
        f.name for f in figures
    }
    assert {"gradient_cosine", "distribution_of_lag", "distribution_of_queues"} <= {f.name for f in figures}
    for figure in figures:
        assert len(figure.alt) > 20
        assert figure.table
        assert all(len(row) == len(figure.columns) for row in figure.table)


def test_figures_become_files(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--out",
        str(tmp_path / "r.html"),
        "--samples",
        "0",
        "--svg",
        str(tmp_path / "svg"),
        "--csv",
        str(tmp_path / "csv"),
    ]
    assert look(["report", str(finished_run), *options]) == 0
    told = capsys.readouterr().out.split()
    names = {figure.name for figure in figures_of(RunReader(finished_run))}
    assert (
        {path.stem for path in (tmp_path / "svg").iterdir()}
        == names
        == {path.stem for path in (tmp_path / "csv").iterdir()}
    )
    assert len(told) == 1 + 2 * len(names)
    assert (tmp_path / "svg" / "confusion.svg").read_text().startswith("<svg")
    rows = list(csv.DictReader((tmp_path / "csv" / "test_error_over_steps.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [30]


def test_places_that_cannot_be_written_are_refused(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert look(["report", str(finished_run), "--out", str(tmp_path / "no" / "r.html")]) == 2
    assert "--out: got" in capsys.readouterr().err
    options = ["--out", str(tmp_path / "r.html"), "--samples", "0", "--csv", str(tmp_path / "file" / "x")]
    assert look(["report", str(finished_run), *options]) == 2
    assert "--csv: got" in capsys.readouterr().err
    assert look(["report", str(finished_run), "--compare", str(tmp_path)]) == 2
    assert "--compare: got" in capsys.readouterr().err


def test_without_the_extra_it_says_how_to_get_it(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert look(["report", str(finished_run)]) == 2
    assert "pip install 'async-dni[view]'" in capsys.readouterr().err


def test_the_command_does_it_again() -> None:
    config = {
        "model": "fcn",
        "dataset": "mnist",
        "workers": 4,
        "method": "cdni",
        "lr": 2e-3,
        "split": [1, 2, 3],
        "run_dir": "x",
    }
    assert command({**config, "model_arg": ["depth=2"], "pin_cores": True, "plugin": []}) == (
        "python launch.py --model-arg depth=2 --lr 0.002 --workers 4 --split 1,2,3 --pin-cores"
    )
    assert command({"method": "cdni", "workers": 2}) is None, "of the library"


def test_long_series_keep_their_extremes() -> None:
    points = [(float(i), float(i % 7)) for i in range(10_000)]
    points[5_000] = (5_000.0, 99.0)
    kept = thinned(points)
    assert len(kept) <= 402
    assert (5_000.0, 99.0) in kept
    assert kept[-1] == points[-1]
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert thinned(points[:10]) == points[:10]


def test_histograms_count_all() -> None:
    assert histogram([1, 1, 3]) == [(1, 2.0, 2), (2.0, 3.0, 0), (3.0, 4.0, 1)]
    assert sum(count for *_, count in histogram([0.1 * i for i in range(100)])) == 100
    assert histogram([2.5]) == [(2.5, 3.5, 1)]
    assert histogram([]) == []


def test_confusion_is_told_worst_first() -> None:
    assert most_confused([[5, 1], [3, 4]]) == [(1, 0, 3), (0, 1, 1)]


class Toy:
    """A run, as a comparison sees it."""

    def __init__(self, *course: tuple[int, float, float], **config: Any) -> None:
        self.config = config
        self.evaluations = [{"step": s, "wall_seconds": t, "test_error": e} for s, t, e in course]


def test_runs_of_other_lengths_are_compared_as_far_as_the_shorter_goes() -> None:
    one, other = (
        Toy((10, 1.0, 9.0), (20, 2.0, 5.0), lr=1, used={"split": [1]}),
        Toy((5, 4.0, 8.0), (40, 9.0, 2.0), lr=2),
    )
    runs: Any = [one, other]
    assert [(row.name, row.values) for row in at_equal(runs, "step", "test_error")] == [
        ("10", (9.0, 8.0)),
        ("20", (5.0, 8.0)),
    ]
    assert [row.values for row in at_equal(runs, "wall_seconds", "test_error")] == [(9.0, None), (5.0, None)]
    assert {row.name: row.values for row in differing(runs)} == {"lr": (1, 2), "split": ([1], None)}


def long_run(path: Path, steps: int = 100_000, stages: int = 4, records: int = 20_000) -> Path:
    """A directory such as a run of so many steps leaves."""
    (path / "workers").mkdir(parents=True)
    used = {"split": [1, 2, 3], "steps": steps, "devices": ["cpu"] * stages}
    (path / "config.json").write_text(
        json.dumps({"schema": 1, "method": "cdni", "workers": stages, "used": used, "environment": {}})
    )
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(100, steps + 1, 100):
            line = {
                "step": step,
                "epoch": step / 240,
                "wall_seconds": step / 10,
                "test_error": 9 - step / steps,
                "test_loss": 0.1,
            }
            file.write(json.dumps({**line, "confusion": None, "metrics": {}}) + "\n")
    for k in range(stages):
        with (path / "workers" / f"{k}.jsonl").open("w") as file:
            for number in range(records):
                record = {
                    "time": 1e9 + number / 2,
                    "pid": 9,
                    "step": number * steps // records,
                    "samples_per_second": 1e4 + number % 77,
                }
                record |= {"loss": 1 / (1 + number), "synthesizer_loss": None, "seconds": dict.fromkeys(PHASES, 0.05)}
                record |= {
                    "queues": {"activation": number % 5},
                    "lag": {"min": 1, "mean": 1.5, "max": 3},
                    "dropped": 0,
                    "skipped": 0,
                }
                file.write(json.dumps({**record, "lost": 0, "cpu_percent": 90.0, "rss_bytes": (3e8).__int__()}) + "\n")
    return path


def test_a_long_run_makes_a_small_page(tmp_path: Path) -> None:
    run = long_run(tmp_path / "run", records=2_000)
    assert look(["report", str(run)]) == 0
    assert (run / "report.html").stat().st_size < MOST_BYTES
    read = RunReader(run)
    assert max(len(figure.rows) for figure in figures_of(read)) < 5_000
    assert [row["waiting"] for row in workers(read)] == ["33%"] * 4


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_draws_it_and_asks_for_nothing(page: Path, browser: Any) -> None:
    faults: list[str] = []
    asked: list[str] = []
    for width, scheme in ((1280, "light"), (390, "dark")):
        opened = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
        opened.on(
            "console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None
        )
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(page.as_uri())
        opened.wait_for_function(f"document.documentElement.dataset.drawn === '{scheme}'")
        each = "['.chart svg', 'table'].map(what => figure.querySelectorAll(what).length)"
        counts = f"[...document.querySelectorAll('figure')].map(figure => {each})"
        counted = opened.evaluate(counts)
        assert counted == [[1, 1]] * len(counted)
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        opened.click("#theme")
        opened.wait_for_function(
            f"document.documentElement.dataset.drawn === '{ {'light': 'dark', 'dark': 'light'}[scheme] }'"
        )
    assert faults == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_chart_zooms(page: Path, browser: Any) -> None:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.goto(page.as_uri())
    opened.wait_for_function("document.documentElement.dataset.drawn")
    domain = "views.timeline.scale('x').domain().map(Number)"
    before = opened.evaluate(domain)
    chart = opened.locator("#timeline .chart svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    opened.mouse.wheel(0, -400)
    opened.wait_for_function(f"JSON.stringify({domain}) !== '{json.dumps(before, separators=(',', ':'))}'")
    after = opened.evaluate(domain)
    assert before[0] <= after[0] < after[1] <= before[1]
