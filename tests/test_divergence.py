"""Numbers that are not finite: found in the batch that they come from, told by name, passed over, or undone."""

from __future__ import annotations

import copy
import itertools
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from simulation import CLASSES, ROWS, WIDTH, Plan, Simulation
from test_launch import launch
from test_parity import OPTIMIZERS, assert_same_bits, seeded_fcn, train
from test_restart import Told, check_protocol, fit
from torch import Tensor, nn
from torch.optim import SGD

from async_dni import ConfigError, TrainerConfig, WorkerError
from async_dni.data.stream import BatchStream
from async_dni.learning.batch import Batch
from async_dni.learning.divergence import (
    DivergenceError,
    check_grad_input,
    check_gradients,
    check_loss,
    check_output,
    check_weights,
    is_finite,
)
from async_dni.learning.methods.loss_gradient import LossGradient
from async_dni.learning.methods.synthetic_gradient import SyntheticGradient
from async_dni.learning.methods.true_gradient import TrueGradient
from async_dni.learning.stage import Stage
from async_dni.learning.synthesizers import make_synthesizer
from async_dni.runtime.worker import Worker
from async_dni.runtime.worker_process import _failure

NAN, INF = math.nan, math.inf

# Where a number that is not finite comes from.

OUTPUT, GRADIENT, INPUT_GRADIENT, LOSS = "output", "gradient", "input gradient", "loss"


class BadBackward(torch.autograd.Function):
    """The identity, with a gradient of NaN."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * NAN


class Faulty(nn.Module):
    """A block with a fault in some of the training batches of its process, counted from 0."""

    def __init__(self, block: nn.Module, fault: str, batches: tuple[int, ...]) -> None:
        super().__init__()
        self.block, self.fault, self.batches, self.seen = block, fault, batches, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training and torch.is_grad_enabled()  # it is not when the block that is wrong is looked for
        fault = self.fault if self.seen - 1 in self.batches else None
        if fault == INPUT_GRADIENT and x.requires_grad:
            x = BadBackward.apply(x)
        h = self.block(x)
        if fault == GRADIENT:
            h = BadBackward.apply(h)
        if fault == LOSS:  # finite, and the loss of all classes but the last is not
            return h * 0 + torch.tensor([-3e38] * (CLASSES - 1) + [3e38])
        return h * NAN if fault == OUTPUT else h


def faulty(stage: int, fault: str, *batches: int) -> Any:
    """For `Plan.wrap`."""
    return lambda k, block: Faulty(block, fault, batches) if k == stage else block


METHODS: dict[str, dict[str, Any]] = {
    "cdni": {},
    "cdni, fixed lag": {"lag": 3},
    "delayed": {"method": "delayed"},
    "delayed, fixed lag": {"method": "delayed", "lag": 2},
    "backprop": {"method": "backprop"},
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
PLACES = [*itertools.product((OUTPUT, GRADIENT), range(3)), (INPUT_GRADIENT, 1), (INPUT_GRADIENT, 2), (LOSS, 2)]
faults = pytest.mark.parametrize(("fault", "stage"), PLACES, ids=[f"{fault} of {stage}" for fault, stage in PLACES])


def all_finite(states: Any) -> bool:
    """Whether all tensors of a nest are."""
    if isinstance(states, Tensor):
        return bool(states.isfinite().all())
    children = states.values() if isinstance(states, dict) else states if isinstance(states, list) else []
    return all(all_finite(child) for child in children)


def check_what_is_kept(simulation: Simulation) -> None:
    """No snapshot and no cut has a number that is not finite."""
    assert all_finite(list(simulation.cuts.values()))
    assert all_finite([spec.snapshots.load() for spec in simulation.specs])


# stop


@methods
@faults
def test_stop_ends_the_run_and_keeps_nothing_of_it(method: dict[str, Any], fault: str, stage: int) -> None:
    # a snapshot and two cuts are due right after the batch
    plan = Plan(**method, steps=5, snapshot_every=1, eval_every=1, wrap=faulty(stage, fault, 2))
    with Simulation(plan) as simulation:
        with pytest.raises(DivergenceError) as caught:
            simulation.run()
        (life,) = [lives[0] for lives in simulation.lives if lives[0].end == "failed"]
        assert life.stage == stage
        assert isinstance(life.worker, Worker)
        failure = _failure(caught.value, life.worker)
        what = {
            OUTPUT: f"the output of block '{stage}' is not finite",
            GRADIENT: f"the gradient of '{stage}.block.weight' is not finite",
            INPUT_GRADIENT: "the gradient of the input is not finite",
            LOSS: "the loss is inf",
        }[fault]
        batch = 2
        if (fault, stage) == (GRADIENT, 0):  # nothing goes up from there: it is seen by the weights
            what, batch = "the weights '0.block.weight' are not finite", life.worker.in_hand.index  # type: ignore[union-attr]
            assert batch in (2, 3)
        where = f"diverged (block {stage}) on batch {batch}, [{ROWS}, {WIDTH}] torch.float32"
        assert failure.error.startswith(f"{where}: {what}; ")
        assert not failure.traceback
        check_what_is_kept(simulation)


@pytest.mark.parametrize(
    ("method", "fault", "message"),
    [
        ("cdni", OUTPUT, "the output of block '1' is not finite"),
        ("delayed", GRADIENT, r"the gradient of '1\.block\.0\.weight' is not finite"),
        ("backprop", INPUT_GRADIENT, "the gradient of the input is not finite"),
    ],
)
def test_stop_is_told_in_a_sentence(method: str, fault: str, message: str, small_mnist: tuple, tmp_path: Path) -> None:
    first, second, third = seeded_fcn(3, 16)
    model, told = nn.Sequential(first, Faulty(second, fault, (5,)), third), Told()
    where = r"^stage 1 diverged \(block 1\) on batch 5, \[100, 16\] torch.float32: "
    with pytest.raises(WorkerError, match=where + message + "; see --on-divergence") as caught:
        fit(small_mnist, model, method=method, run_dir=tmp_path, progress=told)
    assert (caught.value.stage, caught.value.details) == (1, "")


def test_a_network_that_is_not_finite_is_told_of_by_its_stage(small_mnist: tuple) -> None:
    model = seeded_fcn(4, 16)
    torch.nn.init.constant_(model[2][0].weight, math.inf)
    with pytest.raises(WorkerError, match=r"^stage \d diverged .*the weights '2\.0\.weight' are not finite"):
        fit(small_mnist, model, method="cdni", workers=2)


@pytest.mark.parametrize("layers", [3, 4])  # a layer a worker, and cuts that are measured
def test_launch_tells_of_divergence_in_a_sentence(
    layers: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = ("--layers", str(layers), "--workers", "3", "--width", "16")
    arguments = (*network, "--steps", "50", "--optimizer", "sgd", "--lr", "1e30", "--quiet")
    assert launch(*arguments, "--run-dir", str(tmp_path)) == 1
    output, errors = capfd.readouterr()
    assert not output
    (error,) = errors.splitlines()
    assert error.startswith("launch.py: stage ")
    assert " diverged (block" in error
    assert "Traceback" not in error


# skip


def passed_over(method: dict[str, Any], fault: str, stage: int) -> list[int]:
    """How many updates each stage passes over for one batch."""
    waits = "method" in method
    if fault == OUTPUT:  # it goes down; and where the update waits, none can be made from what would come up
        return [int(waits or k >= stage) for k in range(3)]
    return [int(k <= stage if waits else k == stage) for k in range(3)]


@methods
@faults
def test_skip_passes_over_the_update(method: dict[str, Any], fault: str, stage: int) -> None:
    # the last batch, so that the final cut is that of the batch before
    plan = Plan(**method, steps=4, checkpoint_every=3, on_divergence="skip", wrap=faulty(stage, fault, 3))
    with Simulation(plan) as simulation:
        assert check_protocol(simulation.run()) == 4
        check_what_is_kept(simulation)
        skipped = [spec.heartbeat.skipped for spec in simulation.specs]
        assert skipped == passed_over(method, fault, stage)
        assert [spec.heartbeat.steps for spec in simulation.specs] == [4, 4, 4]
        assert [spec.heartbeat.updates for spec in simulation.specs] == [4 - count for count in skipped]
        before, after = simulation.cuts[3, True, False], simulation.cuts[4, True, True]
        for k, count in enumerate(skipped):
            same = [torch.equal(value, after[k]["model"][name]) for name, value in before[k]["model"].items()]
            assert all(same) or not count
            loss = simulation.lives[k][0].worker.telemetry.record({})["loss"]  # type: ignore[union-attr]
            assert loss is None or math.isfinite(loss), "what is recorded must be a number"


@methods
def test_skip_goes_on_whatever_comes_and_whoever_dies(method: dict[str, Any]) -> None:
    rng = random.Random(1)
    for seed in range(12):
        fault, stage = rng.choice(PLACES)
        wrap = faulty(stage, fault, *rng.sample(range(6), 3))
        kills = {rng.randrange(3): [rng.randrange(30)]} if seed % 2 else {}
        plan = Plan(**method, steps=6, seed=seed, on_divergence="skip", wrap=wrap, kills=kills, has_batch_norm=True)
        with Simulation(plan) as simulation:
            check_protocol(simulation.run())
            check_what_is_kept(simulation)


@pytest.mark.parametrize("plan", [{"every": 2}, {"drops": True, "capacity": 1, "steps": 8}], ids=str)
@faults
def test_skip_where_not_every_batch_has_a_gradient(plan: dict[str, Any], fault: str, stage: int) -> None:
    for batch in (1, 2):
        with Simulation(Plan(**plan, on_divergence="skip", wrap=faulty(stage, fault, batch))) as simulation:
            check_protocol(simulation.run())
            check_what_is_kept(simulation)


def test_batch_norm_forgets_a_batch_that_is_passed_over() -> None:
    """Its running statistics took up the NaN, and every evaluation after was of nothing."""
    stage = Stage(
        nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, CLASSES)),
        None,
        LossGradient(nn.CrossEntropyLoss()),
        is_first=True,
        is_last=True,
        checks_gradients=True,
    )
    stage.forward(Batch(0, torch.randn(ROWS, WIDTH), torch.arange(ROWS)))
    before = copy.deepcopy(stage.module.state_dict())
    with pytest.raises(DivergenceError, match="the input is not finite"):
        stage.forward(Batch(1, torch.full((ROWS, WIDTH), NAN), torch.arange(ROWS)))
    assert_same_bits(before, dict(stage.module.state_dict()))


def test_skip_ends_the_run_where_the_weights_are_gone() -> None:
    """Every update after would be passed over."""
    plan = Plan(on_divergence="skip", snapshot_every=0, eval_every=9, checkpoint_every=9)
    with Simulation(plan) as simulation:
        with torch.no_grad():
            simulation.stages[1].module[0].weight[0, 0] = INF
        with pytest.raises(DivergenceError, match=r"the weights '1\.weight' are not finite"):
            simulation.run()
        assert simulation.specs[1].heartbeat.skipped == 0


# restore


@methods
@faults
def test_restore_takes_up_the_last_snapshot(method: dict[str, Any], fault: str, stage: int) -> None:
    plan = Plan(**method, steps=4, eval_every=2, checkpoint_every=3, on_divergence="restore")
    plan.wrap, plan.has_batch_norm = faulty(stage, fault, 3), True
    with Simulation(plan) as simulation:
        assert check_protocol(simulation.run()) == 4
        check_what_is_kept(simulation)
        is_tried_again = fault == OUTPUT  # with the weights of the snapshot, and then it is trained on
        before, after = simulation.cuts[2, False, False][stage], simulation.cuts[4, True, True][stage]
        same = [torch.equal(value, after["model"][name]) for name, value in before["model"].items()]
        is_late = method.get("method") == "delayed"  # a batch before it may be trained on after it
        assert is_tried_again or is_late or all(same)
        assert simulation.specs[stage].heartbeat.steps == 4


@methods
def test_restore_while_other_updates_wait(method: dict[str, Any]) -> None:
    """Restoring a batch norm changes its statistics in place, which autograd took for reason to refuse the backward pass
    of the batches that were under way."""
    plan = Plan(**method, steps=6, on_divergence="restore", wrap=faulty(1, GRADIENT, 2), has_batch_norm=True)
    with Simulation(plan) as simulation:
        assert check_protocol(simulation.run()) == 6
        check_what_is_kept(simulation)
        assert simulation.specs[1].heartbeat.skipped == 1


@methods
def test_divergence_again_without_a_new_snapshot_ends_the_run(method: dict[str, Any]) -> None:
    plan = Plan(**method, steps=6, snapshot_every=4, on_divergence="restore", wrap=faulty(1, OUTPUT, 1, 2))
    with Simulation(plan) as simulation:
        message = "the output of block '1' is not finite, again, after the last snapshot was restored"
        with pytest.raises(DivergenceError, match=message):
            simulation.run()
        check_what_is_kept(simulation)


@methods
def test_divergence_after_a_new_snapshot_is_undone_again(method: dict[str, Any]) -> None:
    plan = Plan(**method, steps=6, snapshot_every=1, on_divergence="restore", wrap=faulty(1, OUTPUT, 1, 4))
    with Simulation(plan) as simulation:
        assert check_protocol(simulation.run()) == 6
        check_what_is_kept(simulation)
        assert simulation.specs[1].heartbeat.updates == 6


def test_processes_restore_and_skip_and_come_to_their_end(small_mnist: tuple, tmp_path: Path) -> None:
    first, second, third = seeded_fcn(3, 16)
    for action in ("restore", "skip"):
        model = nn.Sequential(first, Faulty(copy.deepcopy(second), OUTPUT, (7,)), third)
        result = fit(small_mnist, model, on_divergence=action, run_dir=tmp_path / action)
        skipped = [worker["skipped"] for worker in result.summary["workers"]]
        assert skipped == ([0, 1, 1] if action == "skip" else [0, 0, 0])
        assert result.summary["steps"] == 20
        assert all_finite(dict(result.model.state_dict()))
        log = (tmp_path / action / "workers" / "1.log").read_text()
        assert ("restored from the snapshot after batch 6" if action == "restore" else "passed over") in log


# A stage, and the checks.


def stage_of(method: str) -> Stage:
    module = nn.Sequential(nn.Linear(WIDTH, WIDTH))
    if method == "cdni":
        synthesizer = make_synthesizer((WIDTH,), (), CLASSES)
        gradient: Any = SyntheticGradient(
            synthesizer, SGD(synthesizer.parameters(), 0.1), conditioned=True, precision=None
        )
    else:
        gradient = TrueGradient()
    optimizer = SGD(module.parameters(), 0.1, momentum=0.9)
    return Stage(module, optimizer, gradient, is_first=True, is_last=False, checks_gradients=True)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize(
    ("method", "message"),
    [("cdni", "the synthesizer's loss is "), ("backprop", "the gradient of '0.weight' is not finite")],
)
def test_gradient_that_comes_back_is_refused(method: str, message: str, value: float) -> None:
    stage = stage_of(method)
    for index in range(2):
        stage.forward(Batch(index, torch.randn(ROWS, WIDTH), torch.arange(ROWS)))
        stage.update(index)
    stage.learn(0, torch.randn(ROWS, WIDTH))
    before = copy.deepcopy(stage.trained_state())
    gradient = torch.randn(ROWS, WIDTH)
    gradient[1, 2] = value
    with pytest.raises(DivergenceError, match=message):
        stage.learn(1, gradient)
    assert_same_bits(before, stage.trained_state())
    assert stage.method.loss is None
    assert not stage.pending


def test_what_is_finite() -> None:
    assert is_finite(torch.full((4,), 3e38)), "its sum is not"
    assert is_finite(torch.arange(3))
    assert is_finite(torch.empty(0))
    for value in (NAN, INF, -INF):
        assert not is_finite(torch.tensor([1.0, value]))
    assert not is_finite(torch.tensor([INF, -INF]))


def test_the_first_block_that_is_wrong_is_named() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    x = torch.ones(1, 2)
    check_output(module, x, module(x))
    with pytest.raises(DivergenceError, match="the input is not finite"):
        check_output(module, x * NAN, module(x * NAN))
    with pytest.raises(DivergenceError, match=r"^the output is not finite"):
        check_output(module, x, module(x) * NAN)  # not when it is computed again
    large = torch.full((1, 2), 1e38)
    with torch.no_grad():
        module[0].weight.fill_(10)
    with pytest.raises(DivergenceError, match="the output of block '0' is not finite"):
        check_output(module, large, module(large))
    with torch.no_grad():
        module[2].bias[0] = NAN
    with pytest.raises(DivergenceError, match=r"the weights '2\.bias' are not finite"):
        check_output(module, x, module(x))


def test_checks_name_what_is_wrong() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_weights(module)
    check_loss(torch.tensor(1.0), "loss")
    check_gradients(module, torch.tensor(1.0))
    check_grad_input(module, torch.ones(2))
    with pytest.raises(DivergenceError, match="the norm of the gradients is not finite"):
        check_gradients(module, torch.tensor(INF))
    with pytest.raises(DivergenceError, match="the gradient of the input is not finite"):
        check_grad_input(module, torch.tensor([NAN, 1.0]))
    module[1].bias.grad = torch.tensor([1.0, NAN])
    for check, number in ((check_gradients, torch.tensor(NAN)), (check_grad_input, torch.tensor([NAN]))):
        with pytest.raises(DivergenceError, match=r"the gradient of '1\.bias' is not finite"):
            check(module, number)
    with pytest.raises(DivergenceError, match="the loss is inf"):
        check_loss(torch.tensor(INF), "loss")
    with torch.no_grad():
        module[0].weight[1, 1] = -INF
    with pytest.raises(DivergenceError, match=r"the weights 'ours\.0\.weight' are not finite"):
        check_weights(module, "ours")


# Clipping


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("workers", [1, 3])
def test_clipping_is_pytorchs_a_stage_at_a_time(name: str, workers: int, small_mnist: tuple, tmp_path: Path) -> None:
    norm, steps = 2.0 if workers == 1 else 0.5, 6
    settings = {"method": "backprop", "batch_size": 300, "optimizer": OPTIMIZERS[name], "workers": workers}
    model, data = seeded_fcn(3), small_mnist[0]
    (checkpoint,) = train(tmp_path, model, data, steps, clip_grad_norm=norm, **settings)

    optimizer = OPTIMIZERS[name](model.parameters())
    stages, norms = [model] if workers == 1 else list(model), []
    for batch in BatchStream(data, 300, steps, seed=0):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.target).backward()
        norms += [float(nn.utils.clip_grad_norm_(stage.parameters(), norm)) for stage in stages]
        optimizer.step()
    assert min(norms) < norm < max(norms), "some are clipped and some are not"
    assert_same_bits(dict(model.state_dict()), checkpoint.model)


@pytest.mark.parametrize("workers", [1, 3])
def test_clipping_is_of_the_mean_that_is_stepped_on(workers: int, small_mnist: tuple, tmp_path: Path) -> None:
    norm, steps, every = 2.0 if workers == 1 else 1.0, 8, 3
    settings = {"method": "backprop", "batch_size": 300, "optimizer": OPTIMIZERS["sgd"], "workers": workers}
    model, data = seeded_fcn(3), small_mnist[0]
    more = {"clip_grad_norm": norm, "accumulate": every, "serial": True}
    (checkpoint,) = train(tmp_path, model, data, steps, **more, **settings)

    optimizer = OPTIMIZERS["sgd"](model.parameters())
    stages, norms = [model] if workers == 1 else list(model), []
    for batch in BatchStream(data, 300, steps, seed=0):
        nn.functional.cross_entropy(model(batch.x), batch.target).backward()
        place = batch.index % every
        if place == every - 1 or batch.index == steps - 1:
            for parameter in model.parameters():
                parameter.grad /= place + 1
            norms += [float(nn.utils.clip_grad_norm_(stage.parameters(), norm)) for stage in stages]
            optimizer.step()
            optimizer.zero_grad()
    assert min(norms) < norm < max(norms), "some are clipped and some are not"
    assert_same_bits(dict(model.state_dict()), checkpoint.model)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_divergence": "skip", "serial": True}, "on_divergence: got skip; one process has no snapshots"),
        ({"on_divergence": "restore", "serial": True}, "on_divergence: got restore; one process has no snapshots"),
        ({"on_divergence": "restore", "snapshot_every": 0}, "on_divergence: got restore; there is nothing to restore"),
        ({"on_divergence": "ignore"}, "on_divergence: got ignore; allowed: stop, skip, restore"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm: got 0.0; allowed: a finite number above 0"),
        ({"clip_grad_norm": -1.0}, "clip_grad_norm: got -1.0; allowed: a finite number above 0"),
        ({"clip_grad_norm": NAN}, "clip_grad_norm: got nan; allowed: a finite number above 0"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainerConfig(**settings)


def test_skip_needs_no_snapshots() -> None:
    assert TrainerConfig(on_divergence="skip", snapshot_every=0).on_divergence == "skip"
