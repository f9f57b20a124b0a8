"""The command line: what is refused, and a run as a user starts it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from async_dni import fcn
from async_dni.learning.precision import rounds_to_bfloat16
from async_dni.record.telemetry import INTERVAL

ROOT = Path(__file__).resolve().parents[1]


def launch(*arguments: str) -> int:
    """`launch.py` in this process; returns the exit status."""
    spec = importlib.util.spec_from_file_location("launch", ROOT / "launch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return module.main(arguments)
    except SystemExit as exit:
        return exit.code


def start(*arguments: str, **settings: bool) -> subprocess.Popen[str]:
    """`launch.py` in a process of its own."""
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> None:
    """Read what a run prints until a line begins so."""
    assert process.stdout is not None
    assert any(line.startswith(beginning) for line in process.stdout), process.communicate()


def test_download_that_fails_names_where_the_files_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "FashionMNIST"
    target.write_text("a file where torchvision wants a directory")
    assert launch("--dataset", "fashion-mnist", "--data-dir", str(tmp_path)) == 2
    assert f"its files go to {target / 'raw'}" in capsys.readouterr().err


def test_run_leaves_every_promised_file(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start("--workers", "3", "--device-map", "--steps", "480", "--run-dir", str(run_dir))
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert not errors
    assert str(run_dir) in output

    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["method"] == "cdni"
    assert (summary["num_workers"], summary["steps"], summary["samples"]) == (3, 480, 120_000)
    assert summary["test_error"] < 5
    assert summary["samples_per_second"] == pytest.approx(120_000 / summary["wall_seconds"])
    pids = {worker["pid"] for worker in summary["workers"]}
    assert len(pids) == 3
    assert process.pid not in pids
    for k, worker in enumerate(summary["workers"]):
        assert worker["index"] == k
        assert worker["device"] == "cpu"
        assert worker["layers"] == [str(k)]
        assert worker["updates"] == worker["steps"] == 480
        assert worker["synthesizer_updates"] == (480 if k < 2 else 0)
        assert (worker["dropped"], worker["restarts"]) == (0, 0)
        assert worker["busy_fraction"] + worker["wait_fraction"] == pytest.approx(1)
        assert (run_dir / "workers" / f"{k}.log").read_text()
        records = [json.loads(line) for line in (run_dir / "workers" / f"{k}.jsonl").read_text().splitlines()]
        assert records[-1]["step"] == 480
        assert records[-1]["pid"] == worker["pid"]
        phases = {"wait_activation", "wait_room", "forward", "update", "learn", "send"}
        for record in records:
            assert phases <= set(record["seconds"])
            assert {"time", "samples_per_second", "loss", "synthesizer_loss", "queues", "lag", "dropped"} <= set(record)
            assert record["rss_bytes"] > 0
    assert INTERVAL < 1, "a record at least every second"

    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [evaluation["step"] for evaluation in metrics] == [240, 480]
    assert [evaluation["epoch"] for evaluation in metrics] == [1, 2]
    confusion = torch.tensor(metrics[-1]["confusion"])
    assert confusion.sum() == 10_000
    assert 100 - int(confusion.trace()) / 100 == pytest.approx(metrics[-1]["test_error"])
    config = json.loads((run_dir / "config.json").read_text())
    assert (config["workers"], config["lr"], config["split"]) == (3, 1e-3, None)
    assert (config["used"]["split"], config["used"]["devices"]) == ([1, 2], ["cpu"] * 3)
    precision = "medium" if rounds_to_bfloat16(250, 256) else "highest"
    assert config["used"]["synthesizer_matmul_precision"] == [precision] * 2
    assert config["environment"]["torch"] == torch.__version__

    fcn().load_state_dict(torch.load(run_dir / "model.pt", weights_only=True))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_run_with_a_summary(number: signal.Signals, status: int, tmp_path: Path) -> None:
    """Sent to the whole group, as a terminal does, and `timeout`."""
    run_dir = tmp_path / "run"
    process = start("--workers", "3", "--epochs", "100", "--run-dir", str(run_dir), start_new_session=True)
    wait_for_line(process, "stage 2")
    os.killpg(process.pid, number)
    output, errors = process.communicate()
    assert process.returncode == status, errors
    summary = json.loads((run_dir / "summary.json").read_text())
    assert 0 < summary["steps"] < 24_000
    assert [worker["steps"] for worker in summary["workers"]] == [summary["steps"]] * 3, "all end after the same batch"
    assert "test error" in output
    fcn().load_state_dict(torch.load(run_dir / "model.pt", weights_only=True))
    assert not any(psutil.pid_exists(worker["pid"]) for worker in summary["workers"])


def test_launches_at_once_have_a_run_directory_each(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "launch.py"), "--serial", "--steps", "3", "--width", "8"]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    told = []
    for process in processes:
        output, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
        told += [line.split()[-1] for line in output.splitlines() if line.startswith("run directory")]
    run_dirs = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "runs").iterdir())
    assert sorted(told) == run_dirs
    assert len(run_dirs) == 2
    for run_dir in run_dirs:
        assert json.loads((tmp_path / run_dir / "config.json").read_text())["run_dir"] == run_dir
        assert (tmp_path / run_dir / "model.pt").exists()


def test_directory_of_runs_that_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch("--serial", "--steps", "3", "--split", "9") == 2
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").touch()
    assert launch("--serial", "--steps", "3") == 2
    assert "--run-dir: got runs/" in capsys.readouterr().err
