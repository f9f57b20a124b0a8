"""Makes the pictures of the README and of the pages, of real runs: `make pictures`. About a minute on 2 cores.

docs/pictures/live-160.svg, live-80.svg   the live display of a run, half way
docs/pictures/slow.svg, cured.svg         that of a run whose last stage has most of the work, and of the same run balanced
docs/pictures/slow-time.svg, cured-time.svg, slow-timeline.svg, cured-timeline.svg   figures of their reports
docs/pictures/report-desktop.png, report-phone.png   the first run's report, in headless Chromium
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from async_dni import Trainer, fcn, load_dataset
from async_dni.record.reading.run_reader import RunReader
from async_dni.view.drawing import draw
from async_dni.view.live import LiveProgress
from async_dni.view.report.bundle import bundled
from async_dni.view.report.files import write_svg
from async_dni.view.report.page import figures_of, render

OUT = Path(__file__).resolve().parent / "pictures"
HEIGHT = 16  # lines of a terminal


class HalfWay(LiveProgress):
    """Keeps the live display as it is when half the steps are done, as pictures of these widths."""

    def __init__(self, pictures: dict[Path, int], title: str) -> None:
        super().__init__(Console(file=io.StringIO(), force_terminal=True))
        self.pictures, self.title = pictures, title

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        super().on_record(worker, record)
        if self.pictures and self.state.step >= self.state.steps / 2:
            self.state.now = time.time()
            for path, width in self.pictures.items():
                console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
                console.print(draw(self.state, console, height=HEIGHT))
                console.save_svg(str(path), title=self.title)
            self.pictures = {}


def train(run_dir: Path, layers: int, pictures: dict[Path, int], title: str, steps: int, **settings: Any) -> RunReader:
    """A run on MNIST, with a picture half way."""
    train_set, test_set = load_dataset("mnist")
    torch.manual_seed(0)
    progress = HalfWay(pictures, title)
    given = {"workers": 3, "batch_size": 250, "run_dir": run_dir, "progress": progress, **settings}
    trainer = Trainer(fcn(layers, 256), **given)
    result = trainer.fit(train_set, steps=steps, eval_set=test_set)
    print(f"{title}: {result.summary['samples_per_second']:,.0f} samples/s, test error {result.test_error:.2f} %")
    return RunReader(run_dir)


def photograph(html: str, folder: Path, name: str, width: int, height: int, scale: float) -> None:
    """The beginning of a page, as a window of that size shows it."""
    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("pictures.py: pictures of a page need Chromium; there is no chromium or google-chrome")
    page_path = folder / "page.html"
    page_path.write_text(html)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
        page.goto(page_path.as_uri())
        page.wait_for_function("document.documentElement.dataset.drawn")
        page.screenshot(path=str(OUT / f"{name}.png"))
        browser.close()


def main() -> None:
    """Make them all."""
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        widths = {OUT / "live-160.svg": 160, OUT / "live-80.svg": 80}
        run = train(
            folder / "mnist", 3, widths, "python launch.py", 1920, gradient_check_every=240, trace_steps="600:700"
        )
        with bundled() as javascript:
            html = render(run, (), 8, javascript)
        photograph(html, folder, "report-desktop", 1280, 1500, 1.0)
        photograph(html, folder, "report-phone", 390, 1300, 1.0)
        for name, split in (("slow", (1,)), ("cured", None)):
            title = f"6 layers, 2 workers, {'--split 1' if split else 'balanced'}"
            settings = {"workers": 2, "split": split, "trace_steps": "400:430"}
            run = train(folder / name, 6, {OUT / f"{name}.svg": 100}, title, 960, **settings)
            for figure in figures_of(run):
                if figure.name in ("time_use", "timeline"):
                    write_svg(figure, OUT / f"{name}-{'time' if figure.name == 'time_use' else 'timeline'}.svg")


if __name__ == "__main__":
    main()
