import copy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from async_dni import fcn
from async_dni.learning.batch import Batch
from async_dni.learning.condition import Condition
from async_dni.learning.methods.cdni import CDNI
from async_dni.learning.methods.dni import DNI
from async_dni.learning.stage import StageSpec
from async_dni.learning.structure import Output
from async_dni.learning.synthesizers import make_synthesizer
from async_dni.learning.synthesizers.low_rank import default_rank
from async_dni.network import cost
from async_dni.network.cost import (
    LONG,
    ROUNDS,
    _fastest,
    _measure_method,
    _without_overhead,
    count_costs,
    measure_costs,
)

FEATURES, WIDTH, CLASSES, ROWS = 6, 8, 3, 10


class Clock:
    """A clock that only the modules under measurement move."""

    now = 0.0


class Takes(nn.Module):
    """A layer whose forward takes some seconds on the clock, `late` more every second time."""

    def __init__(self, seconds, late=0.0):
        super().__init__()
        self.seconds, self.late, self.calls = seconds, late, 0
        self.linear = nn.Linear(FEATURES, FEATURES)

    def forward(self, x, condition=None):
        self.calls += 1
        Clock.now += self.seconds + (0 if self.calls % 2 else self.late)
        return self.linear(x)


@pytest.fixture
def clock(monkeypatch):
    Clock.now = 0.0
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: Clock.now))


def spec(synthesizer=None, classes=0):
    optimizer = partial(torch.optim.SGD, lr=0.1)
    method = CDNI if classes else DNI
    return StageSpec(0, 1, nn.Sequential(), optimizer, nn.CrossEntropyLoss(), method, synthesizer, None, classes)


def batch():
    return Batch(0, torch.randn(ROWS, FEATURES), torch.randint(CLASSES, (ROWS,)))


def network():
    return fcn(3, WIDTH, input_shape=(FEATURES,), num_classes=CLASSES)


def synthesizers():
    return [make_synthesizer((WIDTH,), (4,), CLASSES), make_synthesizer((WIDTH,), (), CLASSES), None]


def test_a_block_costs_what_it_takes(clock):
    costs, cut_costs = measure_costs(spec(), [Takes(2), Takes(3), Takes(5)], [None] * 3, batch, 1)
    assert costs == [2, 3, 5]
    assert cut_costs == [0, 0, 0]


def test_loading_a_batch_costs_the_first_block(clock):
    def load():
        Clock.now += 7
        return batch()

    costs, _ = measure_costs(spec(), [Takes(2), Takes(3)], [None] * 2, load, 1)
    assert costs == [9, 3]


def test_what_every_stage_takes_is_in_no_blocks_cost(clock):
    class SlowSGD(torch.optim.SGD):
        def step(self, closure=None):
            Clock.now += 4
            return super().step(closure)

    slow = replace(spec(), optimizer=partial(SlowSGD, lr=0.1))
    costs, _ = measure_costs(slow, [Takes(2), Takes(3), Takes(5)], [None] * 3, batch, 1)
    assert costs == [2, 3, 5]


def test_no_block_costs_less_than_nothing():
    assert _without_overhead([1.0, 6.0, 8.0], 5.0, [True] * 3) == [0.0, 1.0, 3.0]


def test_the_overhead_is_of_blocks_that_learn():
    assert _without_overhead([5.0, 1.0, 6.0], 8.0, [True, False, True]) == [1.0, 1.0, 2.0]
    assert _without_overhead([5.0, 1.0], 5.0, [True, False]) == [5.0, 1.0]


def test_blocks_grow_where_the_whole_takes_longer_than_its_parts():
    assert _without_overhead([1.0, 3.0], 8.0, [True, False]) == [2.0, 6.0]
    assert _without_overhead([3.0], 3.0, [True]) == [3.0]


def test_a_block_with_nothing_to_train_before_it_needs_no_gradient_of_its_input():
    wanted = []

    class Asks(nn.Linear):
        def forward(self, x):
            wanted.append(x.requires_grad)
            return super().forward(x)

    frozen = nn.Linear(FEATURES, FEATURES).requires_grad_(False)
    for before, needed in ([nn.ReLU()], False), ([frozen], False), ([nn.Linear(FEATURES, FEATURES)], True):
        for after in [], [nn.ReLU()]:
            wanted.clear()
            blocks = [*before, Asks(FEATURES, FEATURES), *after]
            measure_costs(spec(), blocks, [None] * len(blocks), batch, 1)
            assert set(wanted) == {needed}
            costs, _ = counted(blocks, [None] * len(blocks), torch.randn(ROWS, FEATURES))
            assert costs[1] == ROWS * ((2 + needed) * FEATURES**2 + FEATURES)


def test_what_is_measured_stands_still():
    outputs = []

    class Shows(nn.Linear):
        def forward(self, x):
            outputs.append(super().forward(x).detach().clone())
            return super().forward(x)

    runs_away = replace(spec(), optimizer=partial(torch.optim.SGD, lr=1e30))
    measured = batch()
    measure_costs(runs_away, [Shows(FEATURES, FEATURES)], [None], lambda: measured, 1)
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_learning_costs_as_often_as_it_is_done(clock):
    every = replace(spec(), synthesizer_every=2)
    _, cut_costs = measure_costs(every, [Takes(2), Takes(3)], [Takes(8), None], batch, 1)
    assert cut_costs == [8 + 8 / 2, 0]
    outputs = [torch.randn(ROWS, FEATURES)] * 2
    blocks, synthesizers = [Takes(0), Takes(0)], [Takes(0), None]
    _, each = count(blocks, synthesizers, outputs, outputs[0], CLASSES)
    _, fourth = count(blocks, synthesizers, outputs, outputs[0], CLASSES, synthesizer_every=4)
    assert each[0] == 3 * ROWS * FEATURES**2
    assert fourth[0] == 1.5 * ROWS * FEATURES**2


def test_what_takes_long_is_measured_less_often(clock):
    calls = []
    for seconds, rounds in ((LONG / 100, ROUNDS), (0.4 * LONG, 3), (2 * LONG, 1)):

        def load(seconds=seconds):
            calls.append(seconds)
            Clock.now += seconds
            return batch()

        measure_costs(spec(), [Takes(0), Takes(0)], [None] * 2, load, 1)
        assert calls.count(seconds) == 1 + rounds  # and a warm-up


def test_a_synthesizer_costs_what_it_takes_to_predict_and_to_learn(clock):
    costs, cut_costs = measure_costs(spec(), [Takes(2), Takes(3)], [Takes(7), None], batch, 1)
    assert costs == [2, 3]
    assert cut_costs == [14, 0]


def test_the_fastest_round_counts(clock):
    assert ROUNDS > 1
    blocks = [Takes(0.02, late=0.1), Takes(0.03, late=0.1)]
    costs, _ = measure_costs(spec(), blocks, [None] * 2, batch, 1)
    assert costs == pytest.approx([0.02, 0.03])


def test_a_synthesizer_is_measured_after_what_empties_the_cache_which_does_not_count(clock):
    def run():
        Clock.now += 0.01

    def before():
        Clock.now += 0.1
        emptied.append(Clock.now)

    emptied = []
    assert _fastest(run, before)[0] == pytest.approx(0.01)
    assert len(emptied) == ROUNDS
    filled = []
    _measure_method(spec(), Takes(7), torch.randn(ROWS, FEATURES), batch().target, lambda: filled.append(1))
    assert len(filled) == 2  # a round of predicting and one of learning, as both take long


def test_every_synthesizer_has_a_cost_and_blocks_have():
    costs, cut_costs = measure_costs(spec(classes=CLASSES), list(network()), synthesizers(), batch, 1)
    assert len(costs) == len(cut_costs) == 3
    assert sum(costs[1:]) > 0  # the first has loading
    assert all(seconds > 0 for seconds in cut_costs[:2])
    assert cut_costs[2] == 0


def test_nothing_given_is_changed():
    model, given, measured = network(), synthesizers(), batch()
    before = copy.deepcopy((model.state_dict(), [m.state_dict() for m in given[:2]], measured.x, measured.target))
    measure_costs(spec(classes=CLASSES), list(model), given, lambda: measured, 1)
    after = (model.state_dict(), [m.state_dict() for m in given[:2]], measured.x, measured.target)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_measuring_leaves_the_random_state_as_it_was():
    model, given = network(), synthesizers()
    before = torch.get_rng_state()
    measure_costs(spec(classes=CLASSES), [nn.Dropout(0.5), *model], [None, *given], batch, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_threads_are_set_for_the_measurement_only():
    seen = []

    class Looks(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    model = [nn.Sequential(Looks(), nn.Linear(FEATURES, CLASSES))]
    measure_costs(spec(), model, [None], batch, 2)
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1


def test_the_threads_are_set_back_where_a_block_fails():
    class Fails(nn.Module):
        def forward(self, x):
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        measure_costs(spec(), [Fails()], [None], batch, 2)
    assert torch.get_num_threads() == 1


def test_blocks_without_parameters_are_measured_too():
    blocks = [nn.Flatten(), nn.Linear(FEATURES, CLASSES), nn.ReLU()]
    costs, _ = measure_costs(spec(), blocks, [None] * 3, batch, 1)
    assert all(seconds > 0 for seconds in costs)


# Counted costs


def counted(blocks, synthesizers, x, classes=CLASSES):
    outputs, h = [], x
    for block in blocks:
        h = block(h)
        outputs.append(h.detach())
    return count(blocks, synthesizers, outputs, x, classes)


def count(blocks, synthesizers, outputs, x, classes, **settings):
    first = Batch(0, x, torch.zeros(len(x), dtype=torch.int64))
    condition = Condition(classes, labels=True) if classes else None
    found = [Output(h, (0,)) for h in outputs]
    return count_costs(blocks, synthesizers, found, first, [(condition,)] * len(blocks), **settings)


def test_counted_costs_are_the_products_of_forward_and_backward():
    blocks = [nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)]
    costs, _ = counted(blocks, [None] * 3, torch.randn(ROWS, FEATURES))
    first, second, third = FEATURES * WIDTH, WIDTH * WIDTH, WIDTH * CLASSES
    # no gradient goes to the data: forward and weights only; and each output is touched once
    assert costs == [ROWS * (2 * first + WIDTH), ROWS * (3 * second + WIDTH), ROWS * (3 * third + CLASSES)]


def test_a_synthesizer_counts_two_predictions_and_one_gradient():
    _, cut_costs = counted(list(network()), synthesizers(), torch.randn(ROWS, FEATURES))
    mlp, rank = (WIDTH + CLASSES) * 4 + 4 * WIDTH, default_rank(WIDTH)
    assert cut_costs == [3 * ROWS * mlp, 3 * ROWS * (WIDTH * rank + (rank + CLASSES) * WIDTH), 0]


def test_counting_changes_nothing_and_is_the_same_every_time():
    model, given, x = network(), synthesizers(), torch.randn(ROWS, FEATURES)
    outputs = [torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH), torch.randn(ROWS, CLASSES)]
    before = copy.deepcopy((model.state_dict(), [m.state_dict() for m in given[:2]]))
    random_state = torch.get_rng_state()
    first = count(list(model), given, outputs, x, CLASSES)
    assert count(list(model), given, outputs, x, CLASSES) == first
    torch.testing.assert_close((model.state_dict(), [m.state_dict() for m in given[:2]]), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
