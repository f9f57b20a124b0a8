"""Workers that are killed, hang or are stopped in a run of real processes: it goes on, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from fault_injection import Watched, meanwhile, unreleased, watched
from test_launch import start, wait_for_line
from torch import Tensor, nn

from async_dni import Trainer, TrainResult, WorkerError, fcn
from async_dni.checkpoint import list_checkpoints, load_checkpoint
from async_dni.progress import Progress


class Warnings(Progress):
    """Keeps what a person is warned of."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_warning(self, text: str) -> None:
        self.texts.append(text)


class HangsOnce(nn.Module):
    """Never returns from its third training batch, unless a process before it did not either."""

    def __init__(self, flag: Path) -> None:
        super().__init__()
        self.flag, self.seen = flag, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        if self.seen == 3 and not self.flag.exists():
            self.flag.touch()
            threading.Event().wait()
        return x


class Dies(nn.Module):
    """Kills its own process in every fifth training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        if self.seen == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return x


def with_layer(layer: nn.Module, place: int) -> nn.Sequential:
    blocks = list(fcn(width=16))
    blocks[place] = nn.Sequential(blocks[place], layer)
    return nn.Sequential(*blocks)


def trained(do: Callable[[Watched], None], data: object, steps: int, **settings: object) -> tuple[Watched, TrainResult]:
    """A run that something is done to meanwhile."""
    with watched() as run, meanwhile(lambda: do(run)):
        trainer = Trainer(fcn(width=16), workers=3, batch_size=10, max_restarts=100, **settings)
        return run, trainer.fit(data, steps=steps)


@pytest.mark.parametrize("method", ["cdni", "delayed", "backprop"])
def test_killed_workers_are_replaced_and_nothing_is_lost(method: str, small_mnist: tuple, tmp_path: Path) -> None:
    kills = [(0, "forward"), (1, "update"), (2, "send"), (1, "wait_activation"), (0, "snapshot")]

    def kill(run: Watched) -> None:
        run.wait_for(lambda: run.is_training, 60.0, 0.01)
        for stage, phase in kills:
            assert run.kill_in(stage, phase)

    settings = {"method": method, "run_dir": tmp_path / "run", "checkpoint_every": 500, "keep_checkpoints": 100}
    run, result = trained(kill, small_mnist[0], 3000, snapshot_every=20, **settings)
    workers = result.summary["workers"]
    assert [worker["restarts"] for worker in workers] == [2, 2, 1]
    assert all(worker["steps"] >= 3000 for worker in workers)
    assert unreleased(run) == 0
    checkpoints = [load_checkpoint(path).step for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert checkpoints == [500, 1000, 1500, 2000, 2500, 3000]


def test_a_worker_that_is_stopped_is_taken_for_dead(small_mnist: tuple) -> None:
    def stop(run: Watched) -> None:
        run.wait_for(lambda: run.is_training and run.spec(1).heartbeat.step > 10, 60.0, 0.01)
        run.send(1, signal.SIGSTOP)

    run, result = trained(stop, small_mnist[0], 3000, heartbeat_timeout=3.0)
    assert [death.stage for death in run.deaths] == [1]
    assert [worker["restarts"] for worker in result.summary["workers"]] == [0, 1, 0]


def test_a_worker_that_hangs_says_where_and_is_replaced(small_mnist: tuple, tmp_path: Path) -> None:
    warnings, model = Warnings(), with_layer(HangsOnce(tmp_path / "flag"), 1)
    settings = {"heartbeat_timeout": 1.0, "run_dir": tmp_path / "run", "progress": warnings}
    result = Trainer(model, workers=3, batch_size=10, **settings).fit(small_mnist[0], epochs=1)
    assert result.summary["workers"][1]["restarts"] == 1
    (warning,) = warnings.texts
    assert result.summary["workers"][1]["deaths"] == [warning]
    assert warning.startswith(
        "stage 1 hung: it entered no phase for 1 seconds (in batch 2, forward); it is started again"
    )
    assert "in forward" in (tmp_path / "run" / "workers" / "1.log").read_text()


def test_restarts_are_numbered_and_then_the_run_ends_with_a_checkpoint(small_mnist: tuple, tmp_path: Path) -> None:
    settings = {"max_restarts": 2, "snapshot_every": 1, "run_dir": tmp_path / "run", "progress": Warnings()}
    trainer = Trainer(with_layer(Dies(), 1), workers=3, batch_size=10, **settings)
    with pytest.raises(WorkerError, match=r"stage 1 was killed by SIGKILL .*no restart is left \(--max-restarts 2\)"):
        trainer.fit(small_mnist[0], epochs=1)
    texts = settings["progress"].texts
    assert texts[0].endswith("(restart 1 of 2)")
    assert texts[1].endswith("(restart 2 of 2)")
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert load_checkpoint(checkpoint).step > 0


def test_without_snapshots_a_death_ends_the_run(small_mnist: tuple) -> None:
    trainer = Trainer(with_layer(Dies(), 2), workers=3, batch_size=10, snapshot_every=0)
    with pytest.raises(WorkerError, match="stage 2 was killed by SIGKILL"):
        trainer.fit(small_mnist[0], epochs=1)


def test_stopped_workers_end_with_their_parent(tmp_path: Path) -> None:
    process = start("--epochs", "100", "--run-dir", str(tmp_path / "run"))
    wait_for_line(process, "stage 2")
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in family if not child.children() and "forkserver" in " ".join(child.cmdline())]
    assert len(workers) >= 3
    workers[-1].suspend()
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_a_worker_that_waits_long_does_not_hang(small_mnist: tuple) -> None:
    warnings = Warnings()
    settings = {"heartbeat_timeout": 3.0, "progress": warnings}
    result = Trainer(with_layer(Slow(), 0), workers=3, batch_size=10, **settings).fit(small_mnist[0], steps=4)
    assert warnings.texts == []
    assert [worker["restarts"] for worker in result.summary["workers"]] == [0, 0, 0]


class Slow(nn.Module):
    """Takes its time for each training batch, less than would be taken for a hang; those after it wait for all of it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            time.sleep(1.2)
        return x
