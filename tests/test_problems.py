"""A file that can't be written, or an evaluation that fails, ends no training: told once, and known at the end."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_inputs import Pairs
from test_launch import launch
from test_trainer import mlp
from torch import Tensor, nn

from async_dni import ConfigError, Trainer
from async_dni.foundation.atomic_file import write_atomically
from async_dni.record.checkpoint import load_checkpoint, newest_checkpoint
from async_dni.record.problems import Problems
from async_dni.record.progress import Progress
from async_dni.record.run_dir import append_json_line, read_json_lines

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's")


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file grows beyond `room` bytes inside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Hooked(Progress):
    """Keeps the warnings; calls `hook` when the run has started, with the number of evaluations at each."""

    def __init__(self, hook: Any = lambda evaluations: None) -> None:
        self.warnings: list[str] = []
        self.hook, self.evaluations = hook, 0

    @contextmanager
    def running(self, layers: object, steps: int) -> Iterator[None]:
        self.hook(0)
        yield

    def on_evaluation(self, evaluation: object) -> None:
        self.evaluations += 1
        self.hook(self.evaluations)

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


def fit(run_dir: Path, progress: Progress, eval_set: Any = None, **settings: Any) -> Any:
    """Four epochs of two batches in one process, with a checkpoint and an evaluation after each."""
    settings = {"workers": 2, "batch_size": 20, "serial": True, "checkpoint_every": 2, **settings}
    trainer = Trainer(mlp(6, 300, 2), run_dir=run_dir, progress=progress, **settings)
    return trainer.fit(Pairs(40), epochs=4, eval_set=eval_set or Pairs(40))


def test_problems_are_told_once_each_and_forgotten_when_solved(tmp_path: Path) -> None:
    told: list[str] = []
    problems = Problems(told.append)

    def write(name: str, error: OSError | None) -> None:
        with problems.of_writing(tmp_path / name):
            if error is not None:
                raise error

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for _ in range(3):
        write("a", full)
    write("b", PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    sentences = [f"{tmp_path}/a can't be written (No space left on device)"]
    sentences += [f"{tmp_path}/b can't be written (Permission denied)"]
    assert told == problems.left == sentences
    write("a", None)
    write("c", None)
    assert problems.left == sentences[1:]
    write("a", full)
    assert told == sentences
    with pytest.raises(ZeroDivisionError), problems.of_writing(tmp_path):
        _ = 1 // 0


@pytest.mark.parametrize("room", [1, 100, 700, 5_000, 70_000, 79_000])
def test_archive_that_finds_no_room_is_an_error_of_the_disk(room: int, tmp_path: Path) -> None:
    # torch's own error says "unexpected pos 704 vs 598"
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    with full_disk(room), pytest.raises(OSError, match="File too large"):
        write_atomically(path, lambda file: torch.save({"weight": torch.zeros(20_000)}, file))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("room", [5, 10, 15])
def test_line_that_finds_no_room_is_not_begun(room: int, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_json_line(path, {"step": 1})
    with full_disk(room), pytest.raises(OSError, match="File too large"):
        append_json_line(path, {"step": 2, "loss": 0.25})
    append_json_line(path, {"step": 3})
    assert read_json_lines(path) == [{"step": 1}, {"step": 3}]


def test_run_goes_on_when_the_disk_is_full(tmp_path: Path) -> None:
    progress = Hooked()
    with full_disk(4_000):  # config.json, metrics.jsonl and summary.json have room
        result = fit(tmp_path / "run", progress)
    run = tmp_path / "run"
    told = [f"{run / name} can't be written (File too large)" for name in ("checkpoints", "model.pt")]
    assert progress.warnings == result.problems == told
    assert json.loads((run / "summary.json").read_text())["problems"] == told
    assert [evaluation.step for evaluation in result.history] == [2, 4, 6, 8]
    assert result.test_error is not None
    assert not list((run / "checkpoints").iterdir()), "nothing half written is left"
    assert not (run / "model.pt").exists()


@needs_full
def test_what_finds_room_later_is_no_problem_in_the_end(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def hook(evaluations: int) -> None:
        if evaluations == 0:
            (run / "metrics.jsonl").symlink_to(FULL)
            (run / "checkpoints").write_text("in the way")
        if evaluations == 2:
            (run / "metrics.jsonl").unlink()
            (run / "checkpoints").unlink()

    progress = Hooked(hook)
    result = fit(run, progress)
    names = {warning.split()[0] for warning in progress.warnings}
    assert names == {str(run / "checkpoints"), str(run / "metrics.jsonl")}
    assert len(progress.warnings) == 2
    assert result.problems == []
    assert [line["step"] for line in read_json_lines(run / "metrics.jsonl")] == [2, 4, 6, 8], "none is lost"
    assert load_checkpoint(newest_checkpoint(run)).step == 8


@needs_full
@pytest.mark.parametrize("serial", [True, False], ids=["serial", "workers"])
def test_run_goes_on_when_a_worker_can_write_no_records(serial: bool, tmp_path: Path) -> None:
    records = tmp_path / "run" / "workers" / "0.jsonl"
    progress = Hooked(lambda evaluations: evaluations == 0 and records.symlink_to(FULL))
    result = fit(tmp_path / "run", progress, serial=serial)
    assert progress.warnings == result.problems == [f"{records} can't be written (No space left on device)"]
    assert result.summary["workers"][0]["updates"] == 8


def test_run_goes_on_when_its_directory_is_removed(tmp_path: Path) -> None:
    progress = Hooked(lambda evaluations: evaluations == 1 and shutil.rmtree(tmp_path / "run"))
    result = fit(tmp_path / "run", progress)
    assert result.test_error is not None
    assert len(result.history) == 4
    assert len(progress.warnings) == len(result.problems) == 5, "checkpoints, events, metrics, model, summary"
    assert all("No such file or directory" in warning for warning in progress.warnings)


def test_directory_that_has_no_room_from_the_start_is_refused(tmp_path: Path) -> None:
    with full_disk(100), pytest.raises(ConfigError, match=r"run_dir: got .*; it can't be written \(File too large\)"):
        fit(tmp_path / "run", Hooked())


class FailsInEvaluation(nn.Module):
    """The identity, until it has been evaluated twice (and tried out)."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        self.times -= not self.training
        if not self.training and self.times < 0:
            raise ArithmeticError("once too often")
        return x


def test_evaluation_that_fails_costs_no_network() -> None:
    progress = Hooked()
    model = nn.Sequential(nn.Linear(6, 8), FailsInEvaluation(6), nn.Linear(8, 2))
    trainer = Trainer(model, workers=2, batch_size=20, serial=True, split=(2,), progress=progress)
    result = trainer.fit(Pairs(40), epochs=8, eval_set=Pairs(40))
    assert len(progress.warnings) == 1
    assert "failed (ArithmeticError: once too often, in " in progress.warnings[0]
    assert f"{__file__}, line " in progress.warnings[0], "where it was raised"
    assert result.problems
    assert result.test_error is None, "the final network's"
    assert 0 < len(result.history) < 8


def test_sample_that_cannot_be_evaluated_is_named(tmp_path: Path) -> None:
    progress = Hooked()
    result = fit(tmp_path / "run", progress, eval_set=Pairs(40, {31: OSError("gone")}))
    assert len(progress.warnings) == 1
    assert (
        "the evaluation after step 2 failed (DataError: data set: sample 31 raised OSError: gone, in "
        in progress.warnings[0]
    )
    assert result.problems
    assert (tmp_path / "run" / "model.pt").exists()


def test_warnings_go_to_standard_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Progress().on_warning("the disk is full")
    assert capsys.readouterr() == ("", "warning: the disk is full\n")


def test_launch_prints_the_result_and_says_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with full_disk(20_000):
        status = launch("--serial", "--steps", "3", "--quiet", "--run-dir", str(run))
    output = capsys.readouterr()
    assert status == 1
    assert "test error" in output.out
    assert output.err.splitlines() == [
        f"warning: {run}/{name} can't be written (File too large)" for name in ("checkpoints", "model.pt")
    ]
