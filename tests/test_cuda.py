"""The CUDA path: skipped where there is no device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from async_dni import Trainer, fcn
from async_dni.record.checkpoint import load_checkpoint, newest_checkpoint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("device_map", ["cuda", "cuda:0,cpu,cuda:0"])
@pytest.mark.parametrize("method", ["cdni", "dni", "delayed", "backprop"])
def test_stages_train_on_devices(device_map: str, method: str, small_mnist: tuple, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    trainer = Trainer(fcn(width=32), workers=3, method=method, device_map=device_map, batch_size=100, run_dir=run_dir)
    result = trainer.fit(small_mnist[0], epochs=10, eval_set=small_mnist[1])
    assert [worker["device"] for worker in result.summary["workers"]] == trainer.devices
    assert result.test_error is not None
    assert result.test_error < 50  # by chance: 90
    assert all(value.device.type == "cpu" for value in result.model.state_dict().values())
    assert all(value.device.type == "cpu" for value in load_checkpoint(newest_checkpoint(run_dir)).model.values())
