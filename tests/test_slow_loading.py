"""Loading that takes longer than a worker may hang is not taken for a hang; a worker that is stopped while it loads is."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import mlp
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from async_dni import Trainer
from async_dni.data.stream import BatchStream

LONG = 2.2  # seconds that a sample takes; a worker that entered no phase for one would be killed
SAMPLE = int(BatchStream([(torch.zeros(6), 0)] * 12, 4, 3, seed=0).indices(1)[0])  # type: ignore[arg-type]
"""Of the second batch: telemetry counts from the first on."""
SETTINGS: dict[str, Any] = {"workers": 2, "batch_size": 4, "split": (1,), "heartbeat_timeout": 1.0, "snapshot_every": 1}


class Slow(Dataset):
    """One sample takes `LONG` wherever it is loaded but in the process that made this."""

    def __init__(self) -> None:
        self.maker = os.getpid()

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == SAMPLE and os.getpid() != self.maker:
            time.sleep(LONG)
        return torch.full((6,), float(index)), index % 2


@pytest.mark.parametrize("kind", ["worker 0", "loader processes", "a loader's processes"])
def test_slow_loading_is_no_hang(kind: str) -> None:
    loader = DataLoader(Slow(), batch_size=4, num_workers=1)
    data, own = (loader, 0) if kind == "a loader's processes" else (Slow(), int(kind == "loader processes"))
    result = Trainer(mlp(6, 8, 2), **SETTINGS, loader_workers=own).fit(data, epochs=1)
    assert [worker["restarts"] for worker in result.summary["workers"]] == [0, 0]
    assert result.summary["samples"] == 12
    spent = [worker["seconds"] for worker in result.summary["workers"]]
    assert spent[0]["load"] + spent[1]["wait_activation"] > 1, "it took longer than a worker may hang"


class Stopping(Slow):
    """Stops the worker that loads a sample, the first time."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self.mark = mark

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == SAMPLE and os.getpid() != self.maker and not self.mark.exists():
            self.mark.touch()
            while True:  # it is woken to say where it is
                os.kill(os.getpid(), signal.SIGSTOP)
        return torch.full((6,), float(index)), index % 2


def test_a_worker_that_is_stopped_while_it_loads_is_replaced(tmp_path: Path) -> None:
    settings = {**SETTINGS, "heartbeat_timeout": 3.0}  # of the other worker, too, which a busy machine may keep waiting
    result = Trainer(mlp(6, 8, 2), **settings).fit(Stopping(tmp_path / "stopped"), epochs=1)
    assert [worker["restarts"] for worker in result.summary["workers"]] == [1, 0]
    assert "hung" in result.summary["workers"][0]["deaths"][0]
    assert result.summary["samples"] == 12
