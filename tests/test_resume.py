"""A run that was stopped, interrupted or killed is gone on with: with a fixed lag, as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from checkpoint_writer import checkpoint_of, write_forever
from slow import slowed
from test_launch import ROOT, launch, start, wait_for_line
from test_parity import OPTIMIZERS, flat, seeded_fcn
from torch import Tensor, nn

from async_dni import ConfigError, Trainer, TrainResult
from async_dni.record.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, save_checkpoint
from async_dni.record.progress import Progress
from async_dni.record.run_dir import read_json_lines
from async_dni.runtime.fork_server import worker_context
from async_dni.view.plain import PlainProgress

BATCH, EPOCH = 300, 4  # samples, and steps: the last batch of an epoch is of 100


def fit(data: object, epochs: int, model: nn.Sequential | None = None, **settings: Any) -> TrainResult:
    settings = {"method": "cdni", "lag": 4, "batch_size": BATCH, "synthesizer_hidden": (), **settings}
    eval_set = settings.pop("eval_set", None)
    trainer = Trainer(model or seeded_fcn(4, 16), threads_per_worker=1, **settings)
    return trainer.fit(data, epochs=epochs, eval_set=eval_set)


def newest(run_dir: Path) -> Checkpoint:
    return load_checkpoint(newest_checkpoint(run_dir))


def assert_same(a: object, b: object, where: str = "checkpoint") -> None:
    """Two nests are the same to the last bit."""
    assert type(a) is type(b), where
    if isinstance(a, Checkpoint):
        assert_same({**a.__dict__, "wall_seconds": 0}, {**b.__dict__, "wall_seconds": 0})
    elif isinstance(a, Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert set(a) == set(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    else:
        assert a == b, where


# As if nothing had happened.


@pytest.mark.parametrize("serial", [False, True], ids=["workers", "serial"])
@pytest.mark.parametrize(
    ("method", "lag"), [("cdni", 1), ("cdni", 4), ("dni", 3), ("delayed", 1), ("delayed", 3), ("backprop", 1)]
)
def test_two_and_two_epochs_are_four(method: str, lag: int, serial: bool, small_mnist: tuple, tmp_path: Path) -> None:
    # `delayed` drains its pipeline for a checkpoint, so checkpoints are a part of what is computed
    every = 2 * EPOCH if method == "delayed" else 0
    settings = {"method": method, "lag": lag, "serial": serial, "checkpoint_every": every}
    fit(small_mnist[0], 4, run_dir=tmp_path / "whole", **settings)
    fit(small_mnist[0], 2, run_dir=tmp_path / "halves", **settings)
    assert newest(tmp_path / "halves").step == 2 * EPOCH
    fit(small_mnist[0], 4, resume=tmp_path / "halves", **settings)
    assert newest(tmp_path / "halves").step == 4 * EPOCH
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "halves"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_go_on_where_they_were(name: str, small_mnist: tuple, tmp_path: Path) -> None:
    fit(small_mnist[0], 2, run_dir=tmp_path / "whole", optimizer=OPTIMIZERS[name])
    for epochs, directory in ((1, {"run_dir": tmp_path / "halves"}), (2, {"resume": tmp_path / "halves"})):
        fit(small_mnist[0], epochs, optimizer=OPTIMIZERS[name], **directory)
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "halves"))


@pytest.mark.parametrize("serial", [False, True], ids=["workers", "serial"])
def test_batches_that_synthesizers_pass_over_are_the_same(serial: bool, small_mnist: tuple, tmp_path: Path) -> None:
    settings = {"synthesizer_every": 3, "serial": serial}
    fit(small_mnist[0], 2, run_dir=tmp_path / "whole", **settings)
    fit(small_mnist[0], 1, run_dir=tmp_path / "halves", **settings)
    fit(small_mnist[0], 2, resume=tmp_path / "halves", **settings)
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "halves"))


@pytest.mark.parametrize("serial", [False, True], ids=["workers", "serial"])
def test_random_numbers_go_on_where_they_were(serial: bool, small_mnist: tuple, tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Dropout(0.2), block) for block in seeded_fcn(3, 16)))
    fit(small_mnist[0], 2, model, serial=serial, run_dir=tmp_path / "whole")
    fit(small_mnist[0], 1, model, serial=serial, run_dir=tmp_path / "halves")
    fit(small_mnist[0], 2, model, serial=serial, resume=tmp_path / "halves")
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "halves"))


def test_workers_go_on_with_what_one_process_began(small_mnist: tuple, tmp_path: Path) -> None:
    fit(small_mnist[0], 2, serial=True, run_dir=tmp_path / "whole")
    fit(small_mnist[0], 1, serial=True, run_dir=tmp_path / "halves")
    fit(small_mnist[0], 2, resume=tmp_path / "halves")
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "halves"))


def test_shorter_lag_is_the_same_in_one_process_and_in_workers(small_mnist: tuple, tmp_path: Path) -> None:
    # three gradients are under way in the checkpoint, and all of them are due when the lag becomes 1
    for serial in (False, True):
        fit(small_mnist[0], 1, serial=True, lag=4, run_dir=tmp_path / str(serial))
        fit(small_mnist[0], 2, serial=serial, lag=1, resume=tmp_path / str(serial))
    assert_same(newest(tmp_path / "False"), newest(tmp_path / "True"))


def test_free_running_learns_from_what_was_under_way(small_mnist: tuple, tmp_path: Path) -> None:
    fit(small_mnist[0], 1, lag=4, run_dir=tmp_path)
    assert [len(stage["pending"]) for stage in newest(tmp_path).stages] == [3, 3, 0]
    result = fit(small_mnist[0], 2, lag=None, resume=tmp_path)
    updates = [worker["synthesizer_updates"] for worker in result.summary["workers"]]
    assert updates == [EPOCH + 3, EPOCH + 3, 0]
    assert not any(stage["pending"] for stage in newest(tmp_path).stages)


# Stopped early.


class Interrupts(Progress):
    """Presses Ctrl-C `times` at the first record of a worker."""

    def __init__(self, times: int = 1) -> None:
        self.times = times

    def on_record(self, worker: int, record: dict) -> None:
        while self.times:
            self.times -= 1
            signal.raise_signal(signal.SIGINT)


class InterruptsTwice(nn.Module):
    """The identity; presses Ctrl-C twice, in the process that trains."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return x


class InterruptsStart(Progress):
    """Presses Ctrl-C before the workers are ready."""

    def running(self, layers: object, steps: int) -> Any:
        signal.raise_signal(signal.SIGINT)
        return super().running(layers, steps)


@pytest.mark.parametrize("serial", [False, True], ids=["workers", "serial"])
@pytest.mark.parametrize("progress", [Interrupts, InterruptsStart])
def test_interrupted_run_goes_on_as_if_it_had_not_been(
    progress: type[Progress], serial: bool, small_mnist: tuple, tmp_path: Path
) -> None:
    model = slowed(seeded_fcn(3, 16), seconds=0.03)  # so that a record comes long before the end
    settings = {"model": model, "serial": serial}
    result = fit(small_mnist[0], 20, **settings, run_dir=tmp_path / "halves", progress=progress())
    assert result.interrupted_by == signal.SIGINT
    stopped = newest(tmp_path / "halves").step
    assert stopped == result.summary["steps"] < 20 * EPOCH
    epochs = stopped // EPOCH + 2
    fit(small_mnist[0], epochs, **settings, resume=tmp_path / "halves")
    fit(small_mnist[0], epochs, **settings, run_dir=tmp_path / "whole")
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "halves"))


def test_interrupted_launch_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    settings = ["--lag", "4", "--width", "32"]
    halves, whole = tmp_path / "halves", tmp_path / "whole"
    process = start(*settings, "--epochs", "100", "--run-dir", str(halves))
    wait_for_line(process, "stage 2")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGINT, errors
    stopped = newest(halves).step
    assert 0 < stopped < 24_000
    assert launch("--resume", str(halves), "--steps", str(stopped + 50)) == 0
    assert launch(*settings, "--steps", str(stopped + 50), "--run-dir", str(whole)) == 0
    assert_same(newest(whole), newest(halves))


@pytest.mark.parametrize("serial", [False, True], ids=["workers", "serial"])
def test_second_interrupt_stops_at_once(serial: bool, small_mnist: tuple, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    # in one process, records come from a thread, where a signal waits for the main one, and two are one
    model = nn.Sequential(*seeded_fcn(3, 16), *([InterruptsTwice()] if serial else []))
    progress = None if serial else Interrupts(times=2)
    with pytest.raises(KeyboardInterrupt):
        fit(small_mnist[0], 1000, model, serial=serial, run_dir=tmp_path / "run", progress=progress)
    assert not (tmp_path / "run" / "summary.json").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_second_interrupt_of_a_launch_says_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PlainProgress, "on_record", Interrupts(times=2).on_record)
    with pytest.raises(KeyboardInterrupt):
        launch("--epochs", "100", "--run-dir", str(tmp_path / "run"))
    assert "ended at once; what was trained since the last checkpoint is lost" in capsys.readouterr().err


def test_second_interrupt_of_a_launch_is_status_130(tmp_path: Path) -> None:
    process = start("--epochs", "100", "--run-dir", str(tmp_path / "run"))
    wait_for_line(process, "stage 2")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors in ("", "launch.py: ended at once; what was trained since the last checkpoint is lost\n")


# With another number of workers.


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(
    ("split", "kept", "note"),
    [
        ((2,), {"1": 1}, []),
        ((1, 2), {"0": 0, "1": 1}, []),
        ((1, 2, 3, 4), {"0": 0, "1": 1}, ["new cuts after blocks 2, 3: their synthesizers start afresh"]),
        ((3,), {}, ["new cuts after blocks 2: their synthesizers start afresh"]),
        ((), {}, []),
    ],
    ids=str,
)
def test_synthesizers_are_kept_at_common_cuts(
    split: tuple, kept: dict[str, int], note: list[str], small_mnist: tuple, tmp_path: Path
) -> None:
    model, progress = seeded_fcn(5, 16), Notes()
    fit(small_mnist[0], 2, model, workers=3, split=(1, 2), run_dir=tmp_path)
    before = newest(tmp_path)
    settings = {"synthesizer_lr": 1e-30}  # so small that they don't change
    settings |= {"workers": len(split) + 1, "split": split or None, "progress": progress}
    fit(small_mnist[0], 3, model, resume=tmp_path, **settings)
    after = newest(tmp_path)
    assert (after.step, after.split) == (3 * EPOCH, list(split))
    assert progress.notes == [*note, f"going on from step {2 * EPOCH}"]
    cuts = [after.blocks[cut - 1] for cut in split]
    for cut, stage in zip(cuts, after.stages, strict=False):
        synthesizer = stage["method"]["synthesizer"]
        if cut not in kept:
            assert synthesizer["up.weight"].abs().max() < 1e-20, f"synthesizer after block {cut}: it predicts zero"
            continue
        for ours, theirs in zip(
            flat(synthesizer), flat(before.stages[kept[cut]]["method"]["synthesizer"]), strict=True
        ):
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-20), f"synthesizer after block {cut}"


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_locked_training_is_the_same_however_it_is_cut(workers: int, small_mnist: tuple, tmp_path: Path) -> None:
    settings = {"method": "backprop", "lag": None}
    fit(small_mnist[0], 2, run_dir=tmp_path / "whole", **settings)
    fit(small_mnist[0], 1, run_dir=tmp_path / "halves", **settings)
    fit(small_mnist[0], 2, resume=tmp_path / "halves", workers=workers, **settings)
    whole, halves = newest(tmp_path / "whole"), newest(tmp_path / "halves")
    assert_same(whole.model, halves.model)
    assert_same(*({k: v for stage in c.stages for k, v in stage["optimizer"].items()} for c in (whole, halves)))


def test_method_without_synthesizers_starts_none_afresh(small_mnist: tuple, tmp_path: Path) -> None:
    progress, settings = Notes(), {"method": "backprop", "lag": None}
    fit(small_mnist[0], 1, run_dir=tmp_path, workers=2, **settings)
    fit(small_mnist[0], 2, resume=tmp_path, workers=4, progress=progress, **settings)
    assert not any("synthesizer" in note for note in progress.notes)


def test_launch_says_which_synthesizers_start_afresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--lag", "1", "--layers", "4", "--width", "16", "--run-dir", str(tmp_path)]
    assert launch(*settings, "--workers", "2", "--split", "2", "--steps", "3") == 0
    capsys.readouterr()
    assert launch("--resume", str(tmp_path), "--workers", "4", "--steps", "5") == 0
    output = capsys.readouterr().out
    assert "new cuts after blocks 0, 2: their synthesizers start afresh" in output
    assert newest(tmp_path).split == [1, 2, 3]


# In the same directory.


@pytest.mark.parametrize("serial", [False, True], ids=["workers", "serial"])
def test_metrics_and_logs_are_appended_to(serial: bool, small_mnist: tuple, tmp_path: Path) -> None:
    data, eval_set = small_mnist
    fit(data, 2, serial=serial, run_dir=tmp_path, eval_set=eval_set)
    files = [tmp_path / "metrics.jsonl", *sorted((tmp_path / "workers").iterdir())]
    before = {path: path.read_text() for path in files}
    assert len(before) == 7
    fit(data, 4, serial=serial, resume=tmp_path, eval_set=eval_set)
    for path, text in before.items():
        assert path.read_text().startswith(text)
        assert len(path.read_text()) > len(text)
    metrics = read_json_lines(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4]
    assert [line["wall_seconds"] for line in metrics] == sorted(line["wall_seconds"] for line in metrics)


@pytest.mark.parametrize("serial", [False, True], ids=["workers", "serial"])
def test_records_count_from_the_beginning_of_the_run(serial: bool, small_mnist: tuple, tmp_path: Path) -> None:
    fit(small_mnist[0], 2, serial=serial, run_dir=tmp_path)
    fit(small_mnist[0], 3, serial=serial, resume=tmp_path)
    for k in range(3):
        assert read_json_lines(tmp_path / "workers" / f"{k}.jsonl")[-1]["step"] == 3 * EPOCH


@pytest.mark.parametrize("keep", [1, 3])
def test_going_back_to_an_older_checkpoint_is_final(keep: int, small_mnist: tuple, tmp_path: Path) -> None:
    # else a run that was resumed from step 4 and stopped at 8 would next be resumed from step 12 of before
    settings = {"serial": True, "checkpoint_every": EPOCH}
    fit(small_mnist[0], 3, run_dir=tmp_path, **settings)
    fit(small_mnist[0], 2, resume=tmp_path / "checkpoints" / "step-000000004.pt", **settings, keep_checkpoints=keep)
    assert newest(tmp_path).step == 2 * EPOCH


def test_checkpoint_file_is_resumed_from_the_directory_that_it_is_in(
    small_mnist: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(small_mnist[0], 1, serial=True, run_dir=tmp_path)
    monkeypatch.chdir(tmp_path / "checkpoints")
    assert fit(small_mnist[0], 2, serial=True, resume=Path("step-000000004.pt")).run_dir.resolve() == tmp_path


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"lr_schedule": "cosine"},
            ["the learning rate jumps: the schedule cosine is that of 12 steps now, and was that of 8"],
        ),
        ({"warmup": 2}, []),
        ({}, []),
    ],
    ids=["cosine", "warmup", "constant"],
)
def test_schedule_that_jumps_is_told_of(
    settings: dict[str, Any], said: list[str], small_mnist: tuple, tmp_path: Path
) -> None:
    class Notes(Progress):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def on_note(self, text: str) -> None:
            self.notes.append(text)

    fit(small_mnist[0], 2, serial=True, run_dir=tmp_path / "run", **settings)
    told = Notes()
    fit(small_mnist[0], 3, serial=True, resume=tmp_path / "run", progress=told, **settings)
    assert told.notes == ["going on from step 8", *said]


def test_cut_is_that_of_a_run_that_goes_on(small_mnist: tuple, tmp_path: Path) -> None:
    # it was always refused: a cut is of a run of one step
    fit(small_mnist[0], 2, serial=True, run_dir=tmp_path / "run", split=(1, 3))
    settings = {"method": "cdni", "lag": 4, "batch_size": BATCH, "synthesizer_hidden": (), "serial": True}
    split, stages, _ = Trainer(seeded_fcn(4, 16), resume=tmp_path / "run", **settings).cut(small_mnist[0])
    assert split == [1, 3]
    assert [stage.state["weight_version"] for stage in stages if stage.state is not None] == [8] * 3


# Refused.


def test_run_that_is_at_its_end_is_refused(small_mnist: tuple, tmp_path: Path) -> None:
    fit(small_mnist[0], 2, serial=True, run_dir=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for epochs in (1, 2):
        with pytest.raises(ConfigError, match="it is at step 8 already; allowed: more --epochs or --steps"):
            fit(small_mnist[0], epochs, serial=True, resume=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def one_sentence(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `launch.py` refuses these arguments with."""
    capsys.readouterr()
    assert launch(*arguments) == 2
    output = capsys.readouterr()
    assert not output.out
    assert output.err.startswith("launch.py: --")
    assert output.err.count("\n") == 1
    return output.err


NO_RUNS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.mkdir(),
    "a text": lambda path: path.write_text("step,error\n"),
    "another program's": lambda path: (path.mkdir(), (path / "config.json").write_text('{"name": "demo"}')),
    "a list": lambda path: (path.mkdir(), (path / "config.json").write_text("[]")),
    "used, but otherwise": lambda path: (path.mkdir(), (path / "config.json").write_text('{"used": {}}')),
    "half a config": lambda path: (path.mkdir(), (path / "config.json").write_text('{"workers": 3, "us')),
}


@pytest.mark.parametrize("name", NO_RUNS)
def test_resume_of_what_is_no_run_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    NO_RUNS[name](path)
    assert f"--resume: got {path}; allowed: a run directory" in one_sentence(capsys, "--resume", str(path))


def test_launch_refuses_what_does_not_fit_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert launch("--serial", "--width", "16", "--steps", "3", "--run-dir", str(run)) == 0
    resume = ("--resume", str(run))
    assert "it is at step 3 already; allowed: more --epochs or --steps, not 3 steps in all" in one_sentence(
        capsys, *resume
    )
    assert "its run had seed 0, this one has 1" in one_sentence(capsys, *resume, "--seed", "1", "--steps", "5")
    changed = ("--autocast", "bfloat16", "--steps", "5")
    assert "its run had autocast None, this one has bfloat16" in one_sentence(capsys, *resume, *changed)
    assert "it is of another network" in one_sentence(capsys, *resume, "--width", "17", "--steps", "5")
    assert "goes on in its own directory" in one_sentence(capsys, *resume, "--run-dir", str(tmp_path / "new"))
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.unlink()
    assert f"--resume: got {run}; allowed: a run directory with a checkpoint" in one_sentence(capsys, *resume)


# Killed.


def wait_until(happened: Callable[[], bool]) -> None:
    """Look again and again."""
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"


def half_written(directory: Path) -> dict[Path, int]:
    """Temporary files of checkpoints, and their bytes."""
    sizes = {}
    for path in directory.glob(".step-*"):
        try:
            sizes[path] = path.stat().st_size
        except FileNotFoundError:
            pass  # it has its name now
    return sizes


def test_newest_checkpoint_loads_after_sigkill_while_writing(tmp_path: Path) -> None:
    generator, context, directory = random.Random(0), worker_context(), tmp_path / "checkpoints"
    size, killed_while_writing = save_checkpoint(directory, checkpoint_of(0), keep=2).stat().st_size, 0
    for _ in range(20):
        step, left = newest(tmp_path).step, set(half_written(directory))
        writer = context.Process(target=write_forever, args=(directory, step + 1))
        writer.start()
        target = generator.randint(1, size)
        wait_until(lambda: any(n >= target for path, n in half_written(directory).items() if path not in left))  # noqa: B023
        os.killpg(writer.pid, signal.SIGKILL)
        writer.join()
        killed_while_writing += bool(set(half_written(directory)) - left)
        checkpoint = newest(tmp_path)
        assert checkpoint.step >= step
        assert all(bool((tensor == checkpoint.step).all()) for tensor in flat([checkpoint.model, checkpoint.stages]))
    assert killed_while_writing > 0


def launch_in_a_group(run_dir: Path) -> subprocess.Popen[bytes]:
    """A run, with all its processes in a group of their own."""
    arguments = ["--lag", "4", "--checkpoint-every", "2", "--epochs", "100", "--run-dir", str(run_dir)]
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def kill_while_writing(process: subprocess.Popen[bytes], directory: Path, size: int) -> None:
    """Kill a run and all its processes when this many bytes of a checkpoint, not the first, are written."""
    try:
        wait_until(lambda: process.poll() is not None or len(list(directory.glob("step-*.pt"))) >= 2)
        family = psutil.Process(process.pid).children(recursive=True)
        wait_until(lambda: process.poll() is not None or any(n >= size for n in half_written(directory).values()))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


def test_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    sizes = {tmp_path / "first": 1, tmp_path / "second": 5_000_000}
    processes = {run_dir: launch_in_a_group(run_dir) for run_dir in sizes}
    try:
        for run_dir, size in sizes.items():
            kill_while_writing(processes[run_dir], run_dir / "checkpoints", size)
    finally:
        for process in processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    first, second = (newest(run_dir).step for run_dir in sizes)  # both load
    assert min(first, second) > 0
    steps = str(first + 20)
    assert launch("--resume", str(tmp_path / "first"), "--checkpoint-every", "0", "--steps", steps) == 0
    assert launch("--lag", "4", "--steps", steps, "--run-dir", str(tmp_path / "whole")) == 0
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "first"))


def test_half_written_file_of_a_killed_run_is_removed_by_the_next(small_mnist: tuple, tmp_path: Path) -> None:
    fit(small_mnist[0], 1, serial=True, run_dir=tmp_path)
    left = tmp_path / "checkpoints" / ".step-000000008.pt.k2j4hf7x"
    left.write_bytes(b"the first bytes")
    fit(small_mnist[0], 2, serial=True, resume=tmp_path)
    assert not left.exists()
