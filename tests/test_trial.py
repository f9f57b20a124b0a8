"""What is tried out before the start changes nothing, and lets through what can be trained."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_inputs import Batches, Gives, Pairs, network, positives, tensors
from torch import Tensor, nn

from async_dni import ConfigError, Trainer
from async_dni.data.stream import BatchStream
from async_dni.learning.blocks import named_blocks
from async_dni.learning.methods import MethodSpec
from async_dni.learning.methods.cdni import CDNI
from async_dni.learning.methods.dni import DNI
from async_dni.learning.structure import Output
from async_dni.network.memory import check_fits
from async_dni.network.outputs import block_outputs
from async_dni.network.partition import partition
from async_dni.network.trial import optimizer_name, try_out
from async_dni.runtime.transport.queue_memory import check_queues


class Counts(nn.Module):
    """Counts its calls, and makes a random number in each."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + 0 * torch.rand(1)


def tried(model: nn.Sequential, data: Any = None, eval_set: Any = None, method: MethodSpec = CDNI) -> Any:
    stream = BatchStream(data or Pairs(), 10, 4, seed=0)
    return try_out(model, nn.CrossEntropyLoss(), method, stream, eval_set)


def test_trying_out_changes_neither_the_network_nor_random_numbers() -> None:
    model = network(Counts(), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Dropout()).train()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    trial = tried(model, eval_set=Pairs())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[1].calls == 0
    assert all(module.training for module in model.modules())
    assert [list(h.tensor.shape) for h in trial.outputs] == [[10, 6]] * 5 + [[10, 2]]
    assert torch.equal(trial.first.x, BatchStream(Pairs(), 10, 4, seed=0)[0].x), "nothing worked on it in place"
    assert (trial.classes, tried(model, method=DNI).classes) == (2, 0)


def test_batch_of_one_sample_can_be_tried_out() -> None:
    stream = BatchStream(Pairs(), 1, 4, seed=0)
    trial = try_out(network(nn.BatchNorm1d(6)), nn.CrossEntropyLoss(), CDNI, stream, None)
    assert trial.outputs[-1].tensor.shape == (1, 2)


def test_rows_that_a_mask_chooses_are_refused_though_the_first_batch_keeps_all() -> None:
    x = torch.rand(10, 6) + 1
    with pytest.raises(ConfigError, match=r"block '0'; its output is \[9, 6\] for 10 samples; allowed: a row"):
        block_outputs(nn.Sequential(Gives(positives)), torch.cat((x[:9], -x[:1])))
    block_outputs(nn.Sequential(Gives(positives)), x)  # what only other data would show


def test_features_that_depend_on_the_number_of_rows_are_refused() -> None:
    model = nn.Sequential(Gives(lambda x: x[:, : len(x)]), nn.AdaptiveAvgPool1d(3))
    with pytest.raises(ConfigError, match=r"block '0'; its output is \[10, 6\] for one batch and \[5, 5\] for another"):
        block_outputs(model, torch.rand(10, 6))


def test_block_that_stands_in_two_places_is_trained_in_both(tmp_path: Path) -> None:
    # nn.Sequential.named_children gives it once
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(6, 8), relu, nn.Linear(8, 8), relu, nn.Linear(8, 2))
    assert [name for name, _ in named_blocks(model)] == ["0", "1", "2", "3", "4"]
    x = torch.randn(5, 6)
    first, second = partition(model, [3])
    assert torch.equal(second(first(x)), model(x))
    settings = {"workers": 2, "batch_size": 10, "split": (3,), "serial": True, "run_dir": tmp_path}
    trained = Trainer(model, **settings).fit(Pairs(), epochs=1).model
    with torch.no_grad():
        weights = [trained[i] for i in (0, 2, 4)]
        expected = weights[2](torch.relu(weights[1](torch.relu(weights[0](x)))))
        assert torch.equal(trained(x), expected)


def test_layers_that_share_weights_within_a_stage_are_trained(tmp_path: Path) -> None:
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(6, 2))
    settings = {"workers": 2, "batch_size": 10, "split": (3,), "serial": True}
    trained = Trainer(model, **settings).fit(Pairs(), epochs=1).model
    assert torch.equal(trained[0].weight, trained[2].weight)


def test_stage_without_parameters_is_a_stage() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    result = Trainer(model, workers=3, batch_size=10, serial=True).fit(Pairs(), epochs=1)
    assert [worker["updates"] for worker in result.summary["workers"]] == [4, 4, 4]


def test_labels_that_the_loss_ignores_can_be_trained_with() -> None:
    target = torch.zeros(40, dtype=torch.int64)
    target[::2] = -100
    settings = {"workers": 2, "batch_size": 10, "serial": True, "method": "dni", "synthesizer_hidden": ()}
    result = Trainer(network(), **settings).fit(tensors(target=target), epochs=1, eval_set=tensors(target=target))
    assert result.test_error is not None
    assert not result.problems


def test_batches_that_a_data_set_makes_can_be_trained_with() -> None:
    data = Batches(partial(labelled_by_sign))
    result = Trainer(network(), workers=2, batch_size=10, serial=True).fit(data, epochs=1, eval_set=data)
    assert result.test_error is not None


def labelled_by_sign(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, (x[:, 0] > 0).long()


def test_optimizers_are_known_by_their_class() -> None:
    assert optimizer_name(partial(torch.optim.SGD, lr=0.1)) == "SGD"
    assert optimizer_name(torch.optim.Adam) == "Adam"


def test_queues_that_fit_in_memory_are_allowed() -> None:
    activations, target = [Output(torch.zeros(10, size), (0,)) for size in (6, 2)], torch.zeros(10, dtype=torch.int64)
    check_queues(4, 10, activations, target)
    check_queues(10**12, 10, activations[1:], target)  # one stage, no queue
    with pytest.raises(ConfigError, match=r"queue_capacity: got 1000000000000; the queues would take .* GiB, and "):
        check_queues(10**12, 10, activations, target)


def test_what_does_not_fit_in_memory_takes_none_and_no_random_number() -> None:
    random = torch.get_rng_state()
    with pytest.raises(ConfigError, match=r"width: got 5; the network would take 3,725.3 GiB, and .* GiB are free"):
        check_fits(partial(nn.Linear, 10**6, 10**6), "width", 5, "the network")
    check_fits(partial(nn.Linear, 6, 6), "width", 5, "the network")
    assert torch.equal(torch.get_rng_state(), random)
