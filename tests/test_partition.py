from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from async_dni import ConfigError, fcn
from async_dni.network.partition import balance, check_partition, partition


def costliest(costs, cut_costs, cuts):
    bounds = [0, *cuts, len(costs)]
    return max(sum(costs[a:b]) + (cut_costs[b - 1] if b < len(costs) else 0) for a, b in pairwise(bounds))


def check_balance(costs, cut_costs, num_stages):
    cuts = balance(costs, cut_costs, num_stages)
    assert len(cuts) == num_stages - 1
    assert all(a < b for a, b in pairwise([0, *cuts, len(costs)]))
    every = combinations(range(1, len(costs)), num_stages - 1)
    return costliest(costs, cut_costs, cuts), min(costliest(costs, cut_costs, other) for other in every)


@st.composite
def problems(draw, cost):
    blocks = draw(st.integers(1, 8))
    costs, cut_costs = (draw(st.lists(cost, min_size=blocks, max_size=blocks)) for _ in range(2))
    return costs, cut_costs, draw(st.integers(1, blocks))


@given(problem=problems(st.integers(0, 20)))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_no_other_cuts_have_a_cheaper_costliest_stage(problem):
    found, cheapest = check_balance(*problem)
    assert found == cheapest


@given(problem=problems(st.floats(0, 1e3)))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_real_costs_are_balanced_too(problem):
    found, cheapest = check_balance(*problem)
    assert found == pytest.approx(cheapest)


def test_a_cut_is_moved_by_what_its_synthesizer_costs():
    assert balance([1, 1, 1, 1], [0, 0, 0, 0], 2) == [2]
    assert balance([1, 1, 1, 1], [9, 9, 0, 9], 2) == [3]


def test_what_a_cut_after_the_last_block_costs_does_not_count():
    assert balance([1, 1, 2], [0, 0, 100], 2) == [2]


@pytest.mark.parametrize("split", [[], [1], [2], [1, 3], [1, 2, 3]])
def test_stages_in_a_row_are_the_network(split):
    model = fcn(layers=4, width=8, input_shape=(6,))
    stages = partition(model, split)
    assert len(stages) == len(split) + 1
    x = torch.rand(3, 6)
    expected, h = model.eval()(x), x
    for stage in stages:
        h = stage(h)
    assert torch.equal(h, expected)


def test_stages_keep_the_names_of_blocks_and_share_their_weights():
    named = nn.Sequential()
    for name in ("stem", "body", "head"):
        named.add_module(name, nn.Linear(2, 2))
    stages = partition(named, [1])
    assert [list(dict(stage.named_children())) for stage in stages] == [["stem"], ["body", "head"]]
    together = {name: tensor for stage in stages for name, tensor in stage.state_dict().items()}
    assert list(together) == list(named.state_dict())
    assert stages[1].head.weight is named.head.weight


@pytest.mark.parametrize(
    ("model", "workers", "split", "setting"),
    [
        (nn.Linear(2, 2), 1, None, "model"),
        (nn.Sequential(), 1, None, "workers"),
        (fcn(3), 4, None, "workers"),
        (fcn(3), 2, (3,), "split"),
        (fcn(3), 3, (1, 7), "split"),
    ],
)
def test_networks_that_cannot_be_cut_so_are_refused(model, workers, split, setting):
    with pytest.raises(ConfigError) as caught:
        check_partition(model, workers, split)
    assert caught.value.setting == setting


@pytest.mark.parametrize(("workers", "split"), [(1, None), (3, None), (3, (1, 2)), (2, (2,))])
def test_as_many_workers_as_blocks_are_allowed(workers, split):
    check_partition(fcn(3), workers, split)
