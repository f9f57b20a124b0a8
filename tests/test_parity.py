"""What is promised to the last bit: locked training equals autograd; a fixed lag makes a run a function of its seed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from slow import slowed
from torch import Tensor, nn
from torch.optim import SGD, Adam

from async_dni import Trainer, fcn
from async_dni.data.stream import BatchStream
from async_dni.record.checkpoint import Checkpoint, list_checkpoints, load_checkpoint

OPTIMIZERS = {"sgd": partial(SGD, lr=0.05, momentum=0.9), "adam": partial(Adam, lr=1e-3)}


def seeded_fcn(layers: int, width: int = 32) -> nn.Sequential:
    torch.manual_seed(7)
    return fcn(layers, width)


def flat(tree: object) -> list[Tensor]:
    """All tensors of a nest, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else []
    return [tensor for child in children for tensor in flat(child)]


def assert_same_bits(a: object, b: object) -> None:
    ours, theirs = flat(a), flat(b)
    assert len(ours) == len(theirs) > 0
    assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


def train(tmp_path: Path, model: nn.Sequential, data: object, steps: int, **settings: object) -> list[Checkpoint]:
    """Train; returns every checkpoint."""
    run_dir = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
    Trainer(model, run_dir=run_dir, keep_checkpoints=1000, threads_per_worker=1, **settings).fit(data, steps=steps)
    return [load_checkpoint(path) for path in list_checkpoints(run_dir / "checkpoints")]


def everything(checkpoint: Checkpoint) -> list[object]:
    """All that a checkpoint holds but the time it took."""
    return [checkpoint.model, checkpoint.stages]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_locked_equals_autograd_after_every_step(name: str, workers: int, small_mnist: tuple, tmp_path: Path) -> None:
    data, steps = small_mnist[0], 9  # batches of 300, 300, 300 and 100
    settings = {"method": "backprop", "batch_size": 300, "checkpoint_every": 1, "optimizer": OPTIMIZERS[name]}
    checkpoints = train(tmp_path, seeded_fcn(6), data, steps, workers=workers, **settings)

    model = seeded_fcn(6)
    optimizer = OPTIMIZERS[name](model.parameters())
    for batch, checkpoint in zip(BatchStream(data, 300, steps, seed=0), checkpoints, strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.target).backward()
        optimizer.step()
        assert_same_bits(dict(model.state_dict()), checkpoint.model)


def test_locked_equals_autograd_at_the_real_size(mnist: tuple, tmp_path: Path) -> None:
    steps = 30
    settings = {"method": "backprop", "checkpoint_every": 10, "optimizer": OPTIMIZERS["adam"]}
    checkpoints = train(tmp_path, seeded_fcn(3, 256), mnist[0], steps, **settings)
    model = seeded_fcn(3, 256)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    for batch in BatchStream(mnist[0], 250, steps, seed=0):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.target).backward()
        optimizer.step()
    assert_same_bits(dict(model.state_dict()), checkpoints[-1].model)


@pytest.mark.parametrize(
    ("method", "lag", "every"),
    [
        ("cdni", 1, 1),
        ("cdni", 4, 1),
        ("cdni", 9, 1),
        ("cdni", 3, 2),
        ("dni", 3, 1),
        ("delayed", 1, 1),
        ("delayed", 3, 1),
    ],
)
def test_fixed_lag_is_reproducible_however_slow_the_workers(
    method: str, lag: int, every: int, small_mnist: tuple, tmp_path: Path
) -> None:
    data, steps = small_mnist[0], 14
    settings = {"method": method, "lag": lag, "batch_size": 300, "queue_capacity": 3, "synthesizer_hidden": (16,)}
    settings |= {"checkpoint_every": 5, "synthesizer_every": every}
    model = slowed(seeded_fcn(3))
    serial = train(tmp_path, model, data, steps, serial=True, **settings)
    first, second = (train(tmp_path, model, data, steps, **settings) for _ in range(2))
    assert [checkpoint.step for checkpoint in serial] == [5, 10, 14]
    for a, b, c in zip(serial, first, second, strict=True):
        assert_same_bits(everything(a), everything(b))
        assert_same_bits(everything(a), everything(c))


@pytest.mark.parametrize("method", ["cdni", "delayed"])
def test_evaluations_change_nothing(method: str, small_mnist: tuple) -> None:
    settings = {"method": method, "lag": 3, "batch_size": 100, "workers": 3}
    models = []
    for serial, eval_every in [(True, 0), (True, 1), (False, 1)]:
        trainer = Trainer(seeded_fcn(3), serial=serial, eval_every=eval_every, **settings)
        models.append(dict(trainer.fit(small_mnist[0], epochs=2, eval_set=small_mnist[1]).model.state_dict()))
    assert_same_bits(models[0], models[1])
    assert_same_bits(models[0], models[2])


def test_dropout_is_reproducible_too(small_mnist: tuple, tmp_path: Path) -> None:
    blocks = [nn.Sequential(block, nn.Dropout(0.3)) for block in seeded_fcn(3)[:2]] + [seeded_fcn(3)[2]]
    settings = {"lag": 2, "batch_size": 300}
    model = slowed(nn.Sequential(*blocks))
    ours = train(tmp_path, model, small_mnist[0], 8, **settings)
    serial = train(tmp_path, model, small_mnist[0], 8, serial=True, **settings)
    assert_same_bits(everything(ours[-1]), everything(serial[-1]))


def test_delayed_with_one_batch_in_flight_is_backprop(small_mnist: tuple, tmp_path: Path) -> None:
    one = {"batch_size": 300, "checkpoint_every": 3}
    locked = train(tmp_path, seeded_fcn(3), small_mnist[0], 8, method="backprop", **one)
    lagged = train(tmp_path, seeded_fcn(3), small_mnist[0], 8, method="delayed", lag=1, **one)
    assert_same_bits([c.model for c in locked], [c.model for c in lagged])


def test_initial_weights_do_not_depend_on_the_number_of_workers(small_mnist: tuple, tmp_path: Path) -> None:
    model, states = seeded_fcn(4), []
    settings = {"lag": 1, "batch_size": 500, "synthesizer_hidden": (8,), "checkpoint_every": 1}
    settings |= {"optimizer": partial(SGD, lr=1e-30), "synthesizer_lr": 1e-30}  # so small that nothing changes
    for workers, split in ((4, (1, 2, 3)), (2, (2,))):
        states.append(train(tmp_path, model, small_mnist[0], 1, workers=workers, split=split, **settings)[0])
    parameters = dict(model.named_parameters())
    for state in states:
        assert all(torch.allclose(value, state.model[name], rtol=0, atol=1e-20) for name, value in parameters.items())
    ours, theirs = (states[0].stages[1]["method"]["synthesizer"], states[1].stages[0]["method"]["synthesizer"])
    weights = [name for name in ours if name.endswith("weight")]
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-20) for name in weights)


def test_data_order_is_a_function_of_the_seed(small_mnist: tuple) -> None:
    orders = [[batch.target for batch in BatchStream(small_mnist[0], 300, 8, seed)] for seed in (0, 0, 1)]
    assert_same_bits(orders[0], orders[1])
    assert not torch.equal(orders[0][0], orders[2][0])
