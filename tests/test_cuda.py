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

from async_dni import METHODS, Trainer, evaluate, fcn
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


SGD = partial(torch.optim.SGD, lr=0.1)


def trainer(network: nn.Sequential, device_map: str, **settings: Any) -> Trainer:
    """Of three stages; it keeps nothing where no run directory is given."""
    return Trainer(network, workers=3, device_map=device_map, batch_size=50, **{"run_dir": None, **settings})


def trained(dropout: float, data: Any, device_map: str, steps: int, **settings: Any) -> Tensor:
    """What becomes of a network's weights."""
    return weights(trainer(network(dropout), device_map, optimizer=SGD, **settings).fit(data, steps=steps).model)


def weights(module: nn.Module) -> Tensor:
    """All in a row; without buffers, whose counts would outweigh them."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def network(dropout: float = 0.0) -> nn.Sequential:
    """Three layers, in the state of a seed."""
    torch.manual_seed(0)
    layers = list(fcn(width=32))
    return nn.Sequential(*layers[:-1], nn.Dropout(dropout), layers[-1]) if dropout else nn.Sequential(*layers)


@pytest.mark.parametrize("device_map", ["cuda", "cuda:0,cpu,cuda:0"])
@pytest.mark.parametrize("method", list(METHODS))
def test_stages_train_on_devices(device_map: str, method: str, small_mnist: tuple, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    trainer = Trainer(fcn(width=32), workers=3, method=method, device_map=device_map, batch_size=100, run_dir=run_dir)
    result = trainer.fit(small_mnist[0], epochs=10, eval_set=small_mnist[1])
    assert [worker["device"] for worker in result.summary["workers"]] == trainer.devices
    assert result.test_error is not None
    assert result.test_error < 50  # by chance: 90
    assert all(value.device.type == "cpu" for value in result.model.state_dict().values())
    assert all(value.device.type == "cpu" for value in load_checkpoint(newest_checkpoint(run_dir)).model.values())


@pytest.mark.parametrize("method", list(METHODS))
def test_a_device_computes_what_the_cpu_computes(method: str, small_mnist: tuple) -> None:
    exact = {"lag": 2} if method in ("cdni", "dni", "delayed") else {}
    exact = {**exact, "synthesizer_matmul_precision": "highest"} if method in ("cdni", "dni") else exact
    on_cpu, *others = (
        trained(0.0, small_mnist[0], device, 6, method=method, **exact) for device in ("cpu", "cuda", "cpu,cuda:0,cpu")
    )
    change = (on_cpu - weights(network())).norm()
    for (
        other
    ) in others:  # few steps: on a CPU, inputs that differ by 2e-7 put dni's weights 0.4 % apart in 6, 8 % in 12
        assert (other - on_cpu).norm() < 1e-2 * change


def test_what_is_drawn_on_a_device_follows_from_the_seed_and_goes_on_where_a_checkpoint_ends(
    small_mnist: tuple, tmp_path: Path
) -> None:
    run = partial(trained, 0.5, small_mnist[0], "cuda", method="cdni", lag=1)
    whole = run(steps=12)
    assert torch.allclose(run(steps=12), whole, atol=1e-5)
    run(steps=6, run_dir=tmp_path / "run")
    assert torch.allclose(run(steps=12, resume=tmp_path / "run"), whole, atol=1e-5)


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
    result = trainer(network(), "cuda", method="cdni", snapshot_every=5).fit(small_mnist[0], steps=60)
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
    made = trainer(nn.Sequential(*blocks), "cuda", method=method, autocast=autocast).fit(small_mnist[0], steps=200)
    loss, _ = evaluate(made.model, small_mnist[1], nn.CrossEntropyLoss())
    assert loss < 1.2  # by chance: 2.3


@pytest.mark.skipif(no_compiler() is not None, reason="no compiler")
def test_layers_are_compiled_for_a_device(small_mnist: tuple) -> None:
    plain, compiled = (
        trained(0.0, small_mnist[0], "cuda", 12, method="backprop", compile=value) for value in (False, True)
    )
    assert (plain - compiled).norm() < 1e-2 * (plain - weights(network())).norm()


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
