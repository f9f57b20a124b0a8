"""A run's records as TensorBoard reads them: one events file, written by the process that called `fit`, or afterwards.

Steps are batches, wall times those of the records. `TAGS` says which tags there are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..foundation.error import ConfigError
from ..record.evaluate import Evaluation
from ..record.gradients.check import GradientCheck
from ..record.problems import Problems
from ..record.progress import Progress, ToldOn
from .comparison import settings_of

TAGS = {
    "test/error": "test error, %",
    "test/loss": "test loss",
    "test/metric/<name>": "what else evaluations find",
    "test/confusion": "the confusion matrix, as an image",
    "run/note": "notes, warnings, restarts, as text",
    "stage/<k>/loss": "the loss that the stage sees, mean since the record before",
    "stage/<k>/synthesizer_loss": "its synthesizer's, or head's",
    "stage/<k>/samples_per_second": "batches' samples, since the record before",
    "stage/<k>/time/<phase>": "share of the time that went to a phase",
    "stage/<k>/queue/<name>": "messages in a queue that it takes from",
    "stage/<k>/lag": "batches that gradients are late, mean",
    "stage/<k>/memory": "of its process, MB",
    "stage/<k>/gradient/<which>/<measure>": "cosine and relative error of synthetic and bootstrapped gradients",
}
CELL, MOST_CLASSES = 18, 100  # pixels of a cell of the confusion matrix; classes that are drawn
FOLDER = "tensorboard"


def check_installed(setting: str, given: object) -> None:
    """Raise `ConfigError` where TensorBoard isn't there."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(setting, given, "it needs tensorboard: pip install 'async-dni[tensorboard]'")


class TensorBoardFile:
    """Writes a run's records; `start`: batches that were done before, if it goes on. `close` it.

    Raises `OSError` where the folder can't be made, or an earlier line could not be written.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to load

        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def record(self, worker: int, record: Mapping[str, Any]) -> None:
        """A worker's record."""
        seconds = record["seconds"]
        whole = sum(seconds.values()) or 1.0
        values = {name: record[name] for name in ("loss", "synthesizer_loss", "samples_per_second")}
        values |= {f"time/{phase}": spent / whole for phase, spent in seconds.items()}
        values |= {f"queue/{name}": depth for name, depth in record["queues"].items()}
        values |= {"lag": record["lag"]["mean"] if record["lag"] else None, "memory": record["rss_bytes"] / 2**20}
        for name, value in values.items():
            if value is not None:
                self._scalar(f"stage/{worker}/{name}", value, record["step"], record["time"])

    def evaluation(self, found: Mapping[str, Any], when: float | None = None) -> None:
        """An evaluation, as metrics.jsonl has it."""
        values = {"error": found["test_error"], "loss": found["test_loss"]}
        values |= {f"metric/{name}": value for name, value in found.get("metrics", {}).items()}
        for name, value in values.items():
            if value is not None:
                self._scalar(f"test/{name}", value, found["step"], when)
        table = found["confusion"]
        if table and len(table) <= MOST_CLASSES:
            self._writer.add_image("test/confusion", confusion_image(table), found["step"], when, "HWC")

    def gradient_check(self, found: Mapping[str, Any]) -> None:
        """A gradient check, as metrics.jsonl has it."""
        for stage in found["stages"]:
            for which in ("synthetic", "bootstrapped"):
                for measure in ("cosine", "error"):
                    value = stage[which] and stage[which][measure]
                    if value is not None:
                        self._scalar(f"stage/{stage['stage']}/gradient/{which}/{measure}", value, found["step"])

    def note(self, text: str, step: int, when: float | None = None) -> None:
        """Something that happened."""
        self._writer.add_text("run/note", text, step, when)

    def hyperparameters(self, config: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """A run's settings, beside what its last evaluation found."""
        from torch.utils.tensorboard.summary import hparams

        plain = {name: value for name, value in settings_of(config).items() if isinstance(value, str | int | float)}
        metrics = {"test/error": found.get("test_error"), "test/loss": found.get("test_loss")}
        there = {name: value for name, value in metrics.items() if value is not None}
        for summary in hparams(plain, there):
            self._writer._get_file_writer().add_summary(summary)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _scalar(self, tag: str, value: float, step: int, when: float | None = None) -> None:
        self._writer.add_scalar(tag, value, step, when)


def confusion_image(table: Sequence[Sequence[int]]) -> Any:
    """[height, width, 3] bytes: a row a true class, a column what it was taken for; the darker, the greater its share."""
    import numpy

    counts = numpy.asarray(table, dtype=float)
    shares = numpy.sqrt(counts / numpy.maximum(1.0, counts.sum(1, keepdims=True)))[..., None]
    white, blue = numpy.array([255.0, 255.0, 255.0]), numpy.array([0.0, 60.0, 120.0])
    colours = (white + shares * (blue - white)).round().astype(numpy.uint8)
    return colours.repeat(CELL, 0).repeat(CELL, 1)


class TensorBoardProgress(ToldOn):
    """Writes what is told of a run for TensorBoard, and tells it on.

    A file that can't be written is told once, and ends nothing.
    """

    def __init__(self, shown: Progress, folder: Path, problems: Problems, start: int) -> None:
        super().__init__(shown)
        self._folder, self._problems, self._step = folder, problems, start
        self._file: TensorBoardFile | None = None
        self._config: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        with problems.of_writing(folder):
            self._file = TensorBoardFile(folder, start)

    def _write(self, what: Callable[[TensorBoardFile], None]) -> None:
        if self._file is not None:
            with self._problems.of_writing(self._folder):
                what(self._file)

    def on_config(self, config: dict[str, Any]) -> None:
        self._config = config
        super().on_config(config)

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        self._step = max(self._step, record["step"])
        self._write(lambda file: file.record(worker, record))
        super().on_record(worker, record)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._last = evaluation.as_dict()
        self._write(lambda file: file.evaluation(self._last))
        super().on_evaluation(evaluation)

    def on_gradient_check(self, check: GradientCheck) -> None:
        self._write(lambda file: file.gradient_check(check.as_dict()))
        super().on_gradient_check(check)

    def on_note(self, text: str) -> None:
        self._write(lambda file: file.note(text, self._step))
        super().on_note(text)

    def on_restart(self, worker: int, text: str) -> None:
        self._write(lambda file: file.note(text, self._step))
        super().on_restart(worker, text)

    def on_closed(self) -> None:
        self._write(lambda file: file.hyperparameters(self._config, self._last))
        self._write(lambda file: file.close())
        self._file = None
        super().on_closed()
