"""The CUDA path: skipped where there is no device."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from deadly import condemn
from test_tensor_queue import a_queue
from torch import Tensor, nn

from async_dni import Trainer, TrainResult, evaluate, fcn
from async_dni.learning.random_state import RandomState
from async_dni.record.checkpoint import load_checkpoint, newest_checkpoint
from async_dni.runtime.machine.compiler import no_compiler
from async_dni.runtime.transport.tensor_queue import TensorSpec

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True, scope="module")
def server_that_sees_devices() -> None:
    """Workers are forked from a server, and the tests before these may have started one that sees none."""
    with suppress(FileNotFoundError):  # its socket's folder may have gone
        forkserver._forkserver._stop()


METHODS = ("cdni", "dni", "local", "delayed", "backprop")
SGD = partial(torch.optim.SGD, lr=0.1)


def train(network: nn.Sequential, data: Any, device_map: str, steps: int, **settings: Any) -> TrainResult:
    """Three stages, from the same random state."""
    trainer = Trainer(network, workers=3, device_map=device_map, batch_size=50, **{"run_dir": None, **settings})
    return trainer.fit(data, steps=steps)


def weights(result: TrainResult) -> Tensor:
    """All of a network's in a row."""
    return torch.cat([value.flatten() for value in result.model.state_dict().values()])


def network(dropout: float = 0.0) -> nn.Sequential:
    """Three layers, in the state of a seed."""
    torch.manual_seed(0)
    layers = list(fcn(width=32))
    return nn.Sequential(*layers[:-1], nn.Dropout(dropout), layers[-1]) if dropout else nn.Sequential(*layers)


@pytest.mark.parametrize("device_map", ["cuda", "cuda:0,cpu,cuda:0"])
@pytest.mark.parametrize("method", METHODS)
def test_stages_train_on_devices(device_map: str, method: str, small_mnist: tuple, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    trainer = Trainer(fcn(width=32), workers=3, method=method, device_map=device_map, batch_size=100, run_dir=run_dir)
    result = trainer.fit(small_mnist[0], epochs=10, eval_set=small_mnist[1])
    assert [worker["device"] for worker in result.summary["workers"]] == trainer.devices
    assert result.test_error is not None
    assert result.test_error < 50  # by chance: 90
    assert all(value.device.type == "cpu" for value in result.model.state_dict().values())
    assert all(value.device.type == "cpu" for value in load_checkpoint(newest_checkpoint(run_dir)).model.values())


@pytest.mark.parametrize("method", METHODS)
def test_a_device_computes_what_the_cpu_computes(method: str, small_mnist: tuple) -> None:
    exact = {"lag": 2} if method in ("cdni", "dni", "delayed") else {}
    exact = {**exact, "synthesizer_matmul_precision": "highest"} if method in ("cdni", "dni") else exact
    found = [
        weights(train(network(), small_mnist[0], device, 6, method=method, optimizer=SGD, **exact))
        for device in ("cpu", "cuda", "cpu,cuda:0,cpu")
    ]
    change = (found[0] - weights_of(network())).norm()
    for other in found[1:]:  # Adam, of the synthesizers, makes much of what rounds otherwise
        assert (other - found[0]).norm() < 5e-3 * change


def weights_of(module: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in module.state_dict().values()])


def test_what_is_drawn_on_a_device_follows_from_the_seed_and_goes_on_where_a_checkpoint_ends(
    small_mnist: tuple, tmp_path: Path
) -> None:
    settings = {"method": "cdni", "lag": 1, "optimizer": SGD}
    run, data = partial(train, device_map="cuda", **settings), small_mnist[0]
    whole = weights(run(network(0.5), data, steps=12))
    assert torch.allclose(weights(run(network(0.5), data, steps=12)), whole, atol=1e-5)
    run(network(0.5), data, steps=6, run_dir=tmp_path / "run")
    assert torch.allclose(weights(run(network(0.5), data, steps=12, resume=tmp_path / "run")), whole, atol=1e-5)
    assert not torch.allclose(weights(run(network(0.5), data, steps=12, seed=1)), whole, atol=1e-3)


def test_a_devices_state_is_seeded_kept_and_put_back() -> None:
    torch.cuda.init()
    drawn = []
    for seeds in ((3, 4), (3, 4), (3, 5)):
        RandomState.seeded(*seeds).restore()
        drawn.append(torch.rand(4, device="cuda").tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    state = RandomState.of(RandomState.capture().as_dict())
    expected = torch.rand(4, device="cuda").tolist()
    state.restore()
    assert torch.rand(4, device="cuda").tolist() == expected


def test_a_worker_that_dies_is_replaced(small_mnist: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    condemn(monkeypatch, {1: ("update", 20)})
    result = train(network(), small_mnist[0], "cuda", 60, method="cdni", snapshot_every=5)
    assert [worker["restarts"] for worker in result.summary["workers"]] == [0, 1, 0]
    assert all(worker["steps"] >= 60 for worker in result.summary["workers"])


@pytest.mark.parametrize("autocast", [None, "bfloat16", "float16"])
@pytest.mark.parametrize("method", ["cdni", "local", "delayed"])
def test_convolutions_train_in_half_precision(method: str, autocast: str | None, small_mnist: tuple) -> None:
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(8, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Flatten(), nn.Linear(8 * 49, 10)),
    ]
    result = train(nn.Sequential(*blocks), small_mnist[0], "cuda", 200, method=method, autocast=autocast)
    loss, _ = evaluate(result.model, small_mnist[1], nn.CrossEntropyLoss())
    assert loss < 1.2  # by chance: 2.3


@pytest.mark.skipif(no_compiler() is not None, reason="no compiler")
def test_layers_are_compiled_for_a_device(small_mnist: tuple) -> None:
    settings = {"method": "backprop", "optimizer": SGD}
    plain, compiled = (
        weights(train(network(), small_mnist[0], "cuda", 12, compile=value, **settings)) for value in (False, True)
    )
    assert (plain - compiled).norm() < 1e-3 * (plain - weights_of(network())).norm()


def test_a_queues_memory_is_page_locked() -> None:
    torch.cuda.init()
    for width, is_locked in ((7, False), (20_000, True)):
        with a_queue(2, (TensorSpec(5, (width,), torch.float32),)) as queue:
            queue.pin_memory()
            sent = torch.randn(5, width, device="cuda")
            queue.put(0, 0, sent)
            (received,) = queue.take().tensors
            assert received.is_pinned() == is_locked
            assert torch.equal(received.to("cuda"), sent)
            if is_locked:
                torch.cuda.cudart().cudaHostUnregister(received.data_ptr() // 4096 * 4096)
