"""BP(λ): what goes upstream is a mixture of the bootstrapped gradient and of the one that came back."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from simulation import Plan, Simulation
from slow import slowed
from test_parity import assert_same_bits, everything, seeded_fcn, train
from test_resume import EPOCH, assert_same, fit, newest
from test_stage import CLASSES, SGD, nonzero_synthesizer, small_batch, small_network, spec
from torch import Tensor, nn
from torch.nn import functional as F

from async_dni import METHODS, Method
from async_dni.learning.batch import Batch
from async_dni.learning.divergence import DivergenceError
from async_dni.learning.stage import Stage, StageSpec
from async_dni.learning.updates.habits import Habits
from async_dni.network.partition import partition
from async_dni.record.checkpoint import without_orphans
from async_dni.runtime.serial import Serial
from async_dni.runtime.upstream import Upstream

CPU = torch.device("cpu")
WIDTH = 16


def middle(layers: nn.Module, weight: float, **settings: Any) -> Stage:
    """A stage between others."""
    torch.manual_seed(1)
    made = spec(1, nn.Sequential(layers), nonzero_synthesizer(WIDTH, (), CLASSES), classes=CLASSES)
    return replace(made, target_lambda=weight, **settings).build(CPU)


def middle_batch(index: int = 0) -> Batch:
    torch.manual_seed(2 + index)
    return Batch(index, torch.randn(8, WIDTH), torch.randint(CLASSES, (8,)))


# Arithmetic.


@pytest.mark.parametrize("weight", [0.25, 0.75, 1.0])
def test_the_mixture_is_that_of_a_hand_computation(weight: float) -> None:
    """By the weights of then for the bootstrapped part, by those of now for the other, which another batch has changed."""
    layers = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
    stage, batch, delta = middle(layers, weight), middle_batch(), torch.randn(8, WIDTH)
    then = copy.deepcopy(stage.module)
    stage.forward(batch)
    assert stage.update(0) is None, "nothing goes upstream yet"
    assert stage.defers(0)
    stage.forward(middle_batch(1))
    stage.update(1)
    now, gradients = copy.deepcopy(stage.module), [p.grad for p in stage.module.parameters()]

    x = batch.x.clone().requires_grad_()
    synthetic = torch.tensor(nonzero := stage.method.now(then(x).detach(), batch.target).numpy().copy())
    assert nonzero.any()
    (bootstrapped,) = torch.autograd.grad(then(x), x, synthetic)
    (true,) = torch.autograd.grad(now(x), x, delta)
    batch.x.zero_()  # its slot is another's
    mixture = stage.learn(0, delta)
    torch.testing.assert_close(mixture, (1 - weight) * bootstrapped + weight * true)
    assert all(a is b for a, b in zip(gradients, [p.grad for p in stage.module.parameters()], strict=True))
    assert_same_bits(dict(now.state_dict()), dict(stage.module.state_dict()))
    assert not stage.defers(0)
    assert stage.defers(1)


def test_without_it_nothing_is_kept_and_nothing_deferred() -> None:
    stage, batch = middle(nn.Linear(WIDTH, WIDTH), 0.0), middle_batch()
    stage.forward(batch)
    assert isinstance(stage.update(0), Tensor)
    assert not stage.defers(0)
    assert stage.pending[0].deferred is None
    assert stage.learn(0, torch.randn(8, WIDTH)) is None


def test_first_and_last_stage_and_passed_over_batches_defer_nothing() -> None:
    assert [stage.is_deferring for stage in four_stages(0.5)] == [False, True, True, False]
    assert [stage.next_defers for stage in four_stages(0.5)] == [True, True, False, False]
    stage = middle(nn.Linear(WIDTH, WIDTH), 0.5, synthesizer_every=2)
    for index in (0, 1):
        stage.forward(middle_batch(index))
        assert stage.update(index) is None
    assert list(stage.pending) == [0]


def test_a_batch_without_an_answer_gives_its_bootstrapped_gradient() -> None:
    layer = nn.Linear(WIDTH, WIDTH)
    plain, stage = (middle(copy.deepcopy(layer), weight) for weight in (0.0, 0.5))
    for each in (plain, stage):
        each.forward(middle_batch())
    expected = plain.update(0)
    assert stage.update(0) is None
    left = stage.forget(0)
    assert torch.equal(left, expected)
    assert stage.forget(0) is None


def test_buffers_stay_as_they_were_and_a_waiting_graph_is_not_disturbed() -> None:
    """A gradient is learnt from while another batch, whose forward pass was made, waits for room: its graph holds them."""
    layers = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(inplace=True))
    stage = middle(layers, 0.5)
    stage.forward(middle_batch(0))
    stage.update(0)
    stage.forward(middle_batch(1))
    before = copy.deepcopy(dict(stage.module.state_dict()))
    own = dict(stage.module.named_buffers())
    assert stage.learn(0, torch.randn(8, WIDTH)) is not None
    assert_same_bits(before, dict(stage.module.state_dict()))
    assert all(own[name] is buffer for name, buffer in stage.module.named_buffers())
    stage.update(1)


def test_dropout_draws_again_from_the_stages_random_numbers() -> None:
    stage = middle(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5)), 1.0)
    other = copy.deepcopy(stage)
    found, kept = [], []
    for each in (stage, other):
        torch.manual_seed(3)
        kept.append(each.forward(middle_batch()) != 0)
        each.update(0)
        found.append(each.learn(0, torch.ones(8, WIDTH)))
    assert torch.equal(*found)
    with_the_same = 2.0 * kept[0].float() @ stage.module[0][0].weight  # what the mask of the update would give
    assert not torch.allclose(found[0], with_the_same)


def test_where_the_output_does_not_depend_on_the_input_zeros_go_upstream() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), WIDTH)

    stage = middle(Constant(), 1.0)
    stage.forward(middle_batch())
    stage.update(0)
    assert torch.equal(stage.learn(0, torch.ones(8, WIDTH)), torch.zeros(8, WIDTH))


def test_a_gradient_that_is_not_finite_does_not_go_upstream() -> None:
    stage = middle(nn.Linear(WIDTH, WIDTH), 0.5)
    stage.forward(middle_batch())
    stage.update(0)
    with pytest.raises(DivergenceError):
        stage.learn(0, torch.full((8, WIDTH), float("inf")))
    assert not stage.defers(0)


def test_a_restored_stage_sends_what_it_had_still_to_send() -> None:
    stage, other = (middle(nn.Linear(WIDTH, WIDTH), 0.5) for _ in range(2))
    stage.forward(middle_batch())
    stage.update(0)
    other.load_state_dict(copy.deepcopy(stage.state_dict()))
    assert other.defers(0)
    delta = torch.randn(8, WIDTH)
    assert torch.equal(stage.learn(0, delta), other.learn(0, delta))


def four_specs(weight: float, lr: float = 0.05) -> list[StageSpec]:
    torch.manual_seed(5)
    blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(2)]
    network = nn.Sequential(small_network()[0], *blocks, nn.Linear(WIDTH, CLASSES))
    optimizer = SGD if lr else lambda parameters: torch.optim.SGD(parameters, lr=0.0)
    return [
        replace(
            spec(
                k,
                module,
                None if k == 3 else nonzero_synthesizer(WIDTH, (), CLASSES),
                optimizer=optimizer,
                classes=CLASSES,
                num_stages=4,
                lr=1e-3,
            ),
            target_lambda=weight,
        )
        for k, module in enumerate(partition(network, [1, 2, 3]))
    ]


def four_stages(weight: float, lr: float = 0.05) -> list[Stage]:
    return [each.build(CPU) for each in four_specs(weight, lr)]


@pytest.mark.parametrize("lag", [1, 3])
def test_targets_are_true_gradients_where_weights_stay(lag: int) -> None:
    """λ = 1 and a learning rate of 0: each synthesizer is told what backpropagation through the whole network says."""
    stages = four_stages(1.0, lr=0.0)
    told: list[dict[int, Tensor]] = [{} for _ in stages]
    for k, stage in enumerate(stages[:-1]):
        learn = stage.learn

        def note(index: int, gradient: Tensor, k: int = k, learn: Any = learn) -> Any:
            told[k][index] = gradient.clone()
            return learn(index, gradient)

        stage.learn = note  # type: ignore[method-assign]
    serial = Serial(stages, lag)
    torch.manual_seed(6)
    batches = [small_batch(index) for index in range(5)]
    for batch in batches:
        serial.learn_due(batch.index)
        serial.train(batch)
    serial.learn_due(5 + lag)
    for batch in batches:
        outputs = list(itertools.accumulate(stages, lambda h, stage: stage.module(h), initial=batch.x))[1:]
        loss = F.cross_entropy(outputs[-1], batch.target)
        for k, gradient in enumerate(torch.autograd.grad(loss, outputs[:-1])):
            torch.testing.assert_close(told[k][batch.index], gradient)


def test_float16_scales_what_is_passed_back() -> None:
    stage = middle(nn.Linear(WIDTH, WIDTH), 1.0, habits=Habits(autocast="float16", output_dtypes=(torch.float16,)))
    stage.forward(middle_batch())
    stage.update(0)
    delta = torch.full((8, WIDTH), 2.0**-22)  # float16's smallest number is 2**-24, so a share of it would be lost
    mixture = stage.learn(0, delta)
    assert mixture.dtype == torch.float32
    torch.testing.assert_close(mixture, delta @ stage.module[0].weight, rtol=1e-2, atol=1e-9)


# The protocol.

PLANS: dict[str, dict[str, Any]] = {
    "free": {},
    "capacity 1": {"capacity": 1, "steps": 6},
    "every second": {"every": 2, "steps": 6},
    "fixed lag": {"lag": 3, "steps": 6},
    "batch norm, lag 1": {"lag": 1, "has_batch_norm": True, "capacity": 1},
    "drop": {"drops": True, "capacity": 1, "steps": 8},
}


def run(**settings: Any) -> Simulation:
    """Run, and check that all batches were answered, once and in order, and that each cut can be gone on from."""
    plan = Plan(**{"stages": 4, "target_lambda": 0.5, **settings})
    with Simulation(plan) as simulation:
        simulation.run()
    ends = {len(queue.sent) and queue.sent[-1] for queue in simulation.down}
    assert ends == {(plan.steps, False)}
    left = 0 if plan.lag is None else plan.lag - 1  # not learnt from at the end, so not sent by those that learn first
    for k, (down, up) in enumerate(zip(simulation.down, simulation.up, strict=True), start=1):
        asked = [index for index, _ in down.sent[:-1] if index % plan.every == 0]
        answered = [index for index, _ in up.sent]
        if plan.drops:  # a worker that took another's place does not know which batches never came to it
            assert answered == sorted(set(answered))
            assert set(asked) <= set(answered)
        else:
            assert asked[: len(answered)] == answered
            assert len(answered) >= len(asked) - left * (k < plan.stages - 1)
        written, released = down.counters
        assert written - released == 1, "every slot is given back, but for that of the end"
    for (_, is_full, _), states in simulation.cuts.items():
        if is_full:
            kept = without_orphans(states)
            if not plan.kills:
                assert [len(state["pending"]) for state in kept] == [len(state["pending"]) for state in states]
    return simulation


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_nobody_waits_for_ever_in_any_order(plan: dict[str, Any]) -> None:
    for seed in range(8):
        simulation = run(**plan, seed=seed)
        if not plan.get("drops"):
            assert all(has_tensors for up in simulation.up for _, has_tensors in up.sent)
        assert all(spec.heartbeat.lost == 0 for spec in simulation.specs)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_worker_may_die_at_any_point(plan: dict[str, Any]) -> None:
    for stage in (0, 1, 2, 3):
        for n in itertools.count(stage, 7):
            simulation = run(**plan, kills={stage: [n]}, is_late=n % 2 == 0, seed=n)
            if simulation.lives[stage][0].end == "done":
                break  # it has fewer points


def test_two_workers_may_die_at_any_points() -> None:
    for seed in range(12):
        run(kills={1: [3 + seed, 7], 2: [2 + 2 * seed]}, steps=6, seed=seed, is_late=seed % 3 == 0)


def test_what_comes_after_a_worker_has_left_is_waited_for_by_nobody() -> None:
    """A worker of stage 0 that took another's place at the end of the stream had nothing to learn from, and left. Stage 1,
    which had gradients of the dead one's batches to send when it would have learnt from them, waited for room for ever."""
    for n in (21, 24, 27):
        run(kills={0: [n]}, is_late=True, seed=n, capacity=1, steps=6)


def test_what_the_stage_before_has_already_is_not_sent_again_when_a_run_goes_on() -> None:
    """Cut in a free run, stage 0 had a gradient that stage 1, by its own state, had still to send; gone on from with a lag,
    whether stage 0 learnt from the one or the other was a race."""

    def state(gradients: dict[int, Any], *deferred: int, plain: tuple[int, ...] = ()) -> dict[str, Any]:
        pending = [{"index": index, "deferred": {}} for index in deferred] + [{"index": index} for index in plain]
        return {"pending": pending, "gradients": gradients}

    found = without_orphans([state({4: 0.0}, plain=(3, 4, 5)), state({4: 1.0, 5: 1.0}, 4, 5), state({})])
    assert [p["index"] for p in found[0]["pending"]] == [4, 5], "nobody would send that of 3"
    assert [(p["index"], "deferred" in p) for p in found[1]["pending"]] == [(4, False), (5, True)]


@pytest.mark.parametrize(("last", "expected"), [(None, range(3, 10)), (7, range(8, 10)), (2, range(3, 10))])
def test_only_what_was_not_sent_is_given_up(last: int | None, expected: range) -> None:
    """All batches of a run so far were gone through, in time that grew with their square, with no sign of life."""
    stage = SimpleNamespace(pending={}, is_deferring=True)
    queue, schedule = SimpleNamespace(last_index=last), SimpleNamespace(start=3)
    spec: Any = SimpleNamespace(gradient_out=queue, schedule=schedule, heartbeat=SimpleNamespace(step=10))
    upstream = Upstream(spec, stage, None)  # type: ignore[arg-type]
    upstream.give_up()
    assert upstream._held == dict.fromkeys(expected)


def test_a_method_that_does_not_predict_defers_nothing_and_no_cut_counts_on_it() -> None:
    made = replace(four_specs(0.5)[0], method=replace(METHODS["cdni"], make=Guess))
    stages = [replace(made, index=k).build(CPU) for k in range(3)]
    assert not any(stage.is_deferring or stage.next_defers for stage in stages)


class Guess(Method):
    """Whatever it was made of."""

    def __init__(self, parts: object) -> None:
        pass

    def now(self, h: Tensor, target: Tensor) -> Tensor:
        return torch.zeros_like(h)


def test_a_restored_batch_of_which_nothing_is_sent_any_more_is_let_go_by_the_stage_before() -> None:
    """λ = 1, and then 0: what was deferred has no bootstrapped part, so nothing goes upstream."""
    stages = four_stages(1.0)
    serial = Serial(stages, 1)
    serial.train(small_batch(0))
    for stage in stages:
        stage.target_lambda, stage.is_deferring = 0.0, False
    serial.learn_due(1)
    assert [list(stage.pending) for stage in stages] == [[]] * 4


# Runs.


@pytest.mark.parametrize(("weight", "lag", "every"), [(0.5, 1, 1), (1.0, 3, 1), (0.9, 9, 2)])
def test_workers_do_what_one_process_does(
    weight: float, lag: int, every: int, small_mnist: tuple, tmp_path: Path
) -> None:
    settings = {"lag": lag, "batch_size": 300, "queue_capacity": 2, "checkpoint_every": 5, "synthesizer_every": every}
    settings |= {"target_lambda": weight, "workers": 4}
    blocks = [nn.Sequential(block, nn.Dropout(0.2)) for block in seeded_fcn(4)[:3]]
    model = slowed(nn.Sequential(*blocks, seeded_fcn(4)[3]))
    serial = train(tmp_path, model, small_mnist[0], 14, serial=True, **settings)
    workers = train(tmp_path, model, small_mnist[0], 14, **settings)
    assert [checkpoint.step for checkpoint in serial] == [5, 10, 14]
    for a, b in zip(serial, workers, strict=True):
        assert_same_bits(everything(a), everything(b))


@pytest.mark.parametrize("first", [False, True], ids=["workers", "serial"])
@pytest.mark.parametrize("then", [False, True], ids=["workers", "serial"])
def test_two_and_two_epochs_are_four(first: bool, then: bool, small_mnist: tuple, tmp_path: Path) -> None:
    settings = {"target_lambda": 0.5, "workers": 4, "lag": 4}
    fit(small_mnist[0], 2, serial=True, run_dir=tmp_path / "whole", **settings)
    fit(small_mnist[0], 1, serial=first, run_dir=tmp_path / "halves", **settings)
    pending = [[p["index"] for p in stage["pending"]] for stage in newest(tmp_path / "halves").stages]
    assert pending == [[1, 2, 3]] * 3 + [[]]
    fit(small_mnist[0], 2, serial=then, resume=tmp_path / "halves", **settings)
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "halves"))


@pytest.mark.parametrize(
    ("lags", "weights", "workers"), [((4, None), (0.5, 0.0), (4, 4)), ((None, 2), (0.0, 1.0), (4, 3))]
)
def test_other_settings_may_follow(
    lags: tuple, weights: tuple, workers: tuple, small_mnist: tuple, tmp_path: Path
) -> None:
    for epochs, (lag, weight, count) in enumerate(zip(lags, weights, workers, strict=True), start=1):
        directory = {"run_dir": tmp_path} if epochs == 1 else {"resume": tmp_path}
        result = fit(small_mnist[0], epochs, lag=lag, target_lambda=weight, workers=count, **directory)
    assert result.summary["steps"] == 2 * EPOCH
    assert all(worker["lost"] == 0 for worker in result.summary["workers"])
