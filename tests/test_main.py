"""`python -m async_dni`: what a run came to, and what a checkpoint holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_launch import ROOT, launch

from async_dni.__main__ import main
from async_dni.record.checkpoint import Checkpoint, save_checkpoint

WORKER = {"steps": 20, "updates": 20, "device": "cpu", "dropped": 0, "busy_fraction": 0.94}
SUMMARY = {
    "method": "cdni",
    "num_workers": 2,
    "steps": 20,
    "samples": 5000,
    "wall_seconds": 0.5,
    "samples_per_second": 10_000.0,
    "test_error": 4.25,
    "workers": [
        {**WORKER, "index": 0, "pid": 71, "layers": ["0", "1", "2"], "synthesizer_updates": 17, "mean_lag": 4.0},
        {**WORKER, "index": 1, "pid": 72, "layers": ["3"], "synthesizer_updates": 0, "mean_lag": None},
    ],
}


def made_up(step: int) -> Checkpoint:
    first = {"model": {"a.weight": torch.zeros(2, 3)}, "method": {"synthesizer": {"w": torch.zeros(4, 300)}}}
    first |= {"weight_version": 17, "pending": [{}, {}]}
    last = {"model": {"b.bias": torch.zeros(2)}, "method": {}, "weight_version": 18, "pending": []}
    identity = {"method": "cdni", "seed": 7}
    return Checkpoint.of([first, last], step=step, wall_seconds=1.25, identity=identity, blocks=["a", "b"], split=[1])


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory with a summary and two checkpoints."""
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    for step in (10, 20):
        save_checkpoint(tmp_path / "checkpoints", made_up(step), keep=3)
    return tmp_path


def test_summary(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", str(run_dir)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cdni, 2 workers: 20 steps, 5000 samples in 0.5 s (10,000 samples/s)",
        "  stage 0  pid 71  cpu  blocks 0…2  updates 20  synthesizer updates 17  busy 94%  dropped 0  mean lag 4.0",
        "  stage 1  pid 72  cpu  blocks 3  updates 20  synthesizer updates 0  busy 94%  dropped 0",
        "test error 4.25 %",
        f"run directory {run_dir}",
    ]


def test_checkpoint_of_a_run_is_the_newest(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", str(run_dir)]) == 0
    older, newer = (run_dir / "checkpoints" / f"step-0000000{step}.pt" for step in (10, 20))
    assert capsys.readouterr().out.splitlines() == [
        f"{older}  {older.stat().st_size:,} bytes",
        f"{newer}  {newer.stat().st_size:,} bytes",
        "step-000000020.pt: after 20 batches, 1.2 s of training",
        "  method: cdni",
        "  seed: 7",
        "  stage of blocks a: 17 updates, synthesizer of 1,200 numbers, 2 batches under way",
        "  stage of blocks b: 18 updates, synthesizer of 0 numbers, 0 batches under way",
        "  a.weight  [2, 3] torch.float32",
        "  b.bias  [2] torch.float32",
    ]


def test_checkpoint_that_is_named_is_shown(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", str(run_dir / "checkpoints" / "step-000000010.pt")]) == 0
    assert "step-000000010.pt: after 10 batches" in capsys.readouterr().out


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that arguments are refused with."""
    try:
        status: object = main(arguments)
    except SystemExit as exit:
        status = exit.code
    output = capsys.readouterr()
    assert status == 2
    assert not output.out
    assert output.err.startswith("async_dni")
    assert output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize("command", ["summary", "checkpoint"])
@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_path_that_is_no_run_is_refused(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("step,error\n")
    assert f"async_dni {command}: got {tmp_path / name}; " in refused([command, str(tmp_path / name)], capsys)


@pytest.mark.parametrize("text", ["", '{"steps": 20, "wor', "[]", '{"steps": 20}', "\x00"])
def test_summary_that_is_none_is_refused(text: str, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "summary.json").write_text(text)
    assert "allowed: the directory of an ended run" in refused(["summary", str(run_dir)], capsys)


def test_damaged_checkpoint_is_refused(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_dir / "checkpoints" / "step-000000020.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert f"got {path}; the file is damaged, or is no checkpoint" in refused(["checkpoint", str(run_dir)], capsys)


@pytest.mark.parametrize("arguments", [[], ["summary"], ["sumary", "runs"], ["checkpoint", "a", "b"]], ids=" ".join)
def test_arguments_that_are_none_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refused(arguments, capsys)


@pytest.mark.parametrize("command", ["summary", "checkpoint"])
def test_reader_that_has_enough_sees_no_traceback(command: str, run_dir: Path) -> None:
    # as of `| head -1`, with a head that is quicker
    read_end, write_end = os.pipe()
    os.close(read_end)
    arguments = [sys.executable, "-m", "async_dni", command, str(run_dir)]
    process = subprocess.run(arguments, stdout=write_end, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    os.close(write_end)
    assert process.stderr == ""
    assert process.returncode in (0, 1)  # 1 is rich's own


def test_training_by_the_package_is_launch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same network, to the bit; with the program's name in what it says."""
    small = ["--layers", "3", "--width", "16", "--batch-size", "500", "--steps", "3", "--lag", "1", "--quiet"]
    small += ["--run-dir"]
    assert launch(*small, str(tmp_path / "launch")) == 0
    command = [sys.executable, "-m", "async_dni", "train", *small, str(tmp_path / "package")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "launch" / "model.pt").read_bytes() == (tmp_path / "package" / "model.pt").read_bytes()
    for door, enter in {"launch.py": launch, "async_dni train": lambda *given: main(["train", *given])}.items():
        capsys.readouterr()
        assert enter("--workers", "9") == 2
        assert capsys.readouterr().err == f"{door}: --workers: got 9; the network has 3 blocks; allowed: 1 to 3\n"
