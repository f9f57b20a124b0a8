"""Workers that are killed from outside, by chance in the middle of things: the run goes on, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fault_injection import Watched, meanwhile, unreleased, watched

from async_dni import Trainer, TrainResult, fcn
from async_dni.record.checkpoint import list_checkpoints, load_checkpoint


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
