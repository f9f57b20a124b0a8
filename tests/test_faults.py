"""Workers that raise, die, or never start; parents that die. Nothing is left behind (the fixture checks)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from test_launch import start, wait_for_line
from torch import Tensor, nn

from async_dni import ConfigError, Trainer, WorkerError, fcn


class RaisesInTraining(nn.Module):
    """Raises in the third training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        if self.seen == 3:
            raise ValueError("the third batch is one too many")
        return x


class Dies(nn.Module):
    """Kills its own process in training, if that is a worker's: a step is tried in this one, too."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return x


class NeverReady(nn.Module):
    """Blocks when it is unpickled, as a worker does with its stage."""

    def __setstate__(self, state: dict) -> None:
        if multiprocessing.parent_process() is not None:
            signal.pause()
        self.__dict__.update(state)

    def forward(self, x: Tensor) -> Tensor:
        return x


def with_layer(layer: nn.Module, place: int) -> nn.Sequential:
    blocks = list(fcn(width=16))
    blocks[place] = nn.Sequential(blocks[place], layer)
    return nn.Sequential(*blocks)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("method", ["cdni", "backprop"])
def test_worker_that_raises_ends_the_run_with_its_traceback(place: int, method: str, small_mnist: tuple) -> None:
    trainer = Trainer(with_layer(RaisesInTraining(), place), workers=3, method=method, batch_size=10)
    with pytest.raises(WorkerError, match=f"stage {place} raised ValueError: the third batch") as caught:
        trainer.fit(small_mnist[0], epochs=1)
    assert caught.value.stage == place
    assert "in forward" in caught.value.details


@pytest.mark.parametrize("place", [0, 1, 2])
def test_worker_that_is_killed_is_named(place: int, small_mnist: tuple) -> None:
    trainer = Trainer(with_layer(Dies(), place), workers=3, batch_size=10)
    with pytest.raises(WorkerError, match=f"stage {place} was killed by SIGKILL"):
        trainer.fit(small_mnist[0], epochs=1)


def test_worker_that_never_becomes_ready_is_named(small_mnist: tuple) -> None:
    trainer = Trainer(with_layer(NeverReady(), 1), workers=3, batch_size=10, start_timeout=3)
    with pytest.raises(WorkerError, match="stage 1 was not ready within 3 seconds"):
        trainer.fit(small_mnist[0], epochs=1)


def test_layer_that_cannot_be_pickled_is_refused_by_name(small_mnist: tuple, tmp_path: Path) -> None:
    layer = nn.ReLU()
    layer.generator = (i for i in ())
    trainer = Trainer(with_layer(layer, 1), workers=3, batch_size=10, run_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model: got block '1'; .* picklable"):
        trainer.fit(small_mnist[0], epochs=1)
    assert not (tmp_path / "run").exists()


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    process = start("--epochs", "100", "--run-dir", str(tmp_path / "run"))
    wait_for_line(process, "stage 2")
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


STARTS = """
import sys
import time
from multiprocessing import forkserver
from async_dni.runtime import fork_server

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])  # where the server finds another torch
    fork_server.worker_context()
    print(forkserver._forkserver._forkserver_pid, flush=True)
    time.sleep(600)
"""


def test_server_that_is_still_loading_torch_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import signal\nprint('loading', flush=True)\nsignal.pause()")
    (tmp_path / "starts.py").write_text(STARTS)
    process = subprocess.Popen(
        [sys.executable, "-P", str(tmp_path / "starts.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = {process.stdout.readline(), process.stdout.readline()} - {"loading\n"}
    server = psutil.Process(int(said.pop()))
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs([server], timeout=60)
    for left in alive:
        left.kill()
    process.stdout.close()
    assert not alive


def test_nothing_is_left_of_a_signal_during_start(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start("--epochs", "100", "--run-dir", str(run_dir))
    wait_for_line(process, "starting 3 stages")
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    fcn().load_state_dict(torch.load(run_dir / "model.pt", weights_only=True))
