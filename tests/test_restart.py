"""Workers that are killed are replaced: at every point where one can die, and with real processes.

The protocol is tried in a simulation (`simulation.py`), by killing a worker at each of its points in turn: every batch
goes down once and in order, every gradient comes up once and in order, no slot is kept, every cut is made, nobody waits
for ever. Then real processes are killed.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from deadly import condemn
from simulation import Plan, Simulation
from test_launch import launch
from test_parity import assert_same_bits, seeded_fcn
from torch import Tensor, nn

from async_dni import ConfigError, Trainer, TrainerConfig, TrainResult, WorkerError
from async_dni.record.checkpoint import list_checkpoints, load_checkpoint
from async_dni.record.progress import Progress

# The protocol.

PLANS: dict[str, dict[str, Any]] = {
    "cdni": {},
    "dni, fixed lag": {"method": "dni", "lag": 3},
    "delayed": {"method": "delayed"},
    "delayed, fixed lag": {"method": "delayed", "lag": 2},
    "backprop": {"method": "backprop", "capacity": 1},
    "every second gradient": {"every": 2},
    "drop": {"drops": True, "capacity": 1, "steps": 8},
    "alone": {"stages": 1},
    "local": {"method": "local"},
}


def check_protocol(simulation: Simulation) -> int:
    """What holds after every run, whatever happened in it; returns the number of batches."""
    plan = simulation.plan
    end = simulation.down[0].sent[-1][0] if simulation.down else plan.steps
    assert end == plan.steps or (plan.stop_at is not None and end < plan.steps)
    for activations, gradients in itertools.zip_longest(simulation.down, simulation.up):
        *batches, last = activations.sent
        indices = [index for index, has_tensors in batches if has_tensors]
        assert len(indices) == len(batches)
        assert last == (end, False), "the end of the stream"
        assert indices == (sorted(set(indices)) if plan.drops else list(range(end)))
        if gradients is not None:
            assert [index for index, _ in gradients.sent] == [index for index in indices if index % plan.every == 0]
        written, released = activations.counters
        assert written - released == 1, "every slot is given back, but for that of the end"
    check_cuts(simulation, end)
    return end


def check_counts(simulation: Simulation, end: int) -> None:
    """Whoever died: all others did their whole work, and the dead but for what they died with."""
    for lives, spec in zip(simulation.lives, simulation.specs, strict=True):
        deaths, counted = len(lives) - 1, spec.heartbeat
        if not simulation.plan.drops:  # a worker may die between what it does and that it counts it
            assert abs(counted.steps - end) <= deaths
            assert abs(counted.updates - end) <= deaths
        if not deaths:
            assert counted.lost == 0


def check_cuts(simulation: Simulation, end: int) -> None:
    """Each cut was made, and what is under way in a checkpoint is what a run can go on from."""
    plan = simulation.plan
    full = {step for step in range(1, end) if step % plan.checkpoint_every == 0}
    others = {step for step in range(1, end) if step % plan.eval_every == 0} - full
    due = {(step, True, False) for step in full} | {(step, False, False) for step in others} | {(end, True, True)}
    assert due <= set(simulation.cuts)
    for (step, is_full, _), states in simulation.cuts.items():
        for state in states if is_full else []:
            under_way = [pending["index"] for pending in state["pending"]]
            assert sorted(state["gradients"]) == under_way
            assert all(index < step for index in under_way)
            assert not (plan.waits and under_way)


def run(**plan: Any) -> Simulation:
    """Run and check; a failure says what happened."""
    with Simulation(Plan(**plan)) as simulation:
        try:
            check_counts(simulation, check_protocol(simulation.run()))
        except BaseException as error:
            raise AssertionError(simulation.describe()) from error
    return simulation


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_worker_may_die_at_any_point(plan: dict[str, Any]) -> None:
    for stage in range(len(run(**plan).lives)):
        for n in itertools.count():
            simulation = run(**plan, kills={stage: [n]}, is_late=n % 2 == 0, seed=n)
            if simulation.lives[stage][0].end == "done":
                break  # it has fewer points
        assert n > 8


def test_workers_may_die_again_and_again() -> None:
    rng = random.Random(0)
    for seed in range(120):
        plan = {**rng.choice(list(PLANS.values())), "seed": seed}
        plan |= {"steps": rng.choice([3, 6]), "stages": rng.choice([2, 3, 4]), "is_late": rng.random() < 0.5}
        plan |= {"snapshot_every": rng.choice([1, 3]), "eval_every": rng.choice([1, 2]), "checkpoint_every": 3}
        plan |= {"stop_at": rng.choice([None, rng.randrange(10, 90)])}
        condemned = rng.sample(range(plan["stages"]), rng.randint(1, plan["stages"]))
        run(**plan, kills={stage: [rng.randrange(30) for _ in range(rng.randint(1, 3))] for stage in condemned})


@pytest.mark.parametrize("method", ["cdni", "delayed", "local"])
def test_an_early_end_comes_after_what_the_dead_had_sent(method: str) -> None:
    """A first worker of stage 0 that was asked to end while its successor was not there yet: the successor ended at once,
    at a batch that had been sent already, and the message of the end was taken for one of those. All waited for ever."""
    for stop_at in (15, 30, 45):
        for n in range(3, 20):
            run(method=method, kills={0: [n]}, stop_at=stop_at, is_late=True)


def test_a_full_cut_that_waits_is_not_passed_by_a_later_one() -> None:
    """Cuts of the layers alone were sent at once, also where a full one before them waited for gradients. The supervisor
    knows by the newest cut which ones a dead worker had still to send, and took that full one for sent."""
    for n in range(30):
        run(every=2, steps=5, eval_every=1, checkpoint_every=3, kills={0: [n]})


def test_no_update_is_lost_that_a_snapshot_has() -> None:
    """Locked, with a snapshot after each batch: a worker's death changes nothing, to the last bit, unless it dies
    between a batch and its snapshot, which is where the update is lost."""
    for plan in ({"method": "backprop"}, {"method": "delayed", "lag": 1}, {"method": "local"}):
        plan |= {"snapshot_every": 1, "steps": 3}
        expected, exact = run(**plan).cuts[3, True, True], 0
        for stage, n in itertools.product(range(3), range(20)):
            simulation = run(**plan, kills={stage: [n]})
            if simulation.lives[stage][0].unsaved == 0:
                exact += 1
                final = simulation.cuts[3, True, True]
                assert_same_bits([state["model"] for state in expected], [state["model"] for state in final])
        assert exact > 30


# Processes.

STEPS, EPOCH, CHECKPOINTS = 20, 10, [5, 10, 15, 20]


class Told(Progress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


def fit(data: tuple, model: nn.Sequential | None = None, steps: int = STEPS, **settings: Any) -> TrainResult:
    settings = {"batch_size": 100, "snapshot_every": 3, "checkpoint_every": 5, "keep_checkpoints": 100} | settings
    trainer = Trainer(model or seeded_fcn(3, 16), synthesizer_hidden=(), threads_per_worker=1, **settings)
    return trainer.fit(data[0], steps=steps, eval_set=data[1])


def check_result(result: TrainResult, deaths: list[int]) -> None:
    """The run came to its end, with all that was due on the way."""
    workers = result.summary["workers"]
    assert [worker["restarts"] for worker in workers] == deaths
    assert result.summary["steps"] == STEPS
    for worker, died in zip(workers, deaths, strict=True):
        assert abs(worker["steps"] - STEPS) <= died
    assert [evaluation.step for evaluation in result.history] == [EPOCH, STEPS]
    assert result.run_dir is not None
    checkpoints = [load_checkpoint(path) for path in list_checkpoints(result.run_dir / "checkpoints")]
    assert [checkpoint.step for checkpoint in checkpoints] == CHECKPOINTS
    assert all(value.isfinite().all() for checkpoint in checkpoints for value in checkpoint.model.values())


@pytest.mark.parametrize(
    ("method", "stage", "phase"),
    [
        ("cdni", 0, "load"),
        ("cdni", 0, "send"),
        ("cdni", 1, "forward"),
        ("cdni", 1, "learn"),
        ("cdni", 2, "update"),
        ("delayed", 0, "learn"),
        ("delayed", 1, "send"),
        ("delayed", 2, "forward"),
        ("backprop", 0, "wait_gradient"),
        ("backprop", 1, "snapshot"),
        ("backprop", 2, "send"),
    ],
)
def test_run_survives_a_death(
    method: str, stage: int, phase: str, small_mnist: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    condemn(monkeypatch, {stage: (phase, 3)})
    told = Told()
    result = fit(small_mnist, method=method, run_dir=tmp_path / "run", progress=told)
    check_result(result, [int(k == stage) for k in range(3)])
    (warning,) = told.warnings
    assert warning.startswith(f"stage {stage} was killed by SIGKILL (in batch ")
    assert f", {phase}); it is started again from the snapshot after batch " in warning
    assert warning.endswith("(restart 1 of 3)")
    assert f"in place of a worker that died ({phase})" in (tmp_path / "run" / "workers" / f"{stage}.log").read_text()


@pytest.mark.parametrize(("method", "lag"), [("cdni", None), ("cdni", 4), ("delayed", None), ("backprop", None)])
def test_run_in_which_all_workers_die_can_be_gone_on_with(
    method: str, lag: int | None, small_mnist: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    condemn(monkeypatch, {0: ("load", 4), 1: ("forward", 5), 2: ("update", 6)})
    check_result(fit(small_mnist, method=method, lag=lag, run_dir=tmp_path / "run"), [1, 1, 1])
    condemn(monkeypatch, {0: ("load", 1), 1: ("forward", 1), 2: ("update", 2)})  # with gradients of before under way
    result = fit(small_mnist, method=method, lag=lag, steps=STEPS + 3, resume=tmp_path / "run")
    assert result.summary["steps"] == STEPS + 3
    assert [worker["restarts"] for worker in result.summary["workers"]] == [1, 1, 1]


class DiesAtItsStart(nn.Module):
    """Kills the process that unpickles it, as a worker does with its stage, unless it has done so before."""

    def __init__(self, flag: Path) -> None:
        super().__init__()
        self.flag = flag

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if multiprocessing.parent_process() is not None and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_worker_that_dies_while_it_starts_is_started_again(small_mnist: tuple, tmp_path: Path) -> None:
    first, second, third = seeded_fcn(3, 16)
    model = nn.Sequential(first, nn.Sequential(second, DiesAtItsStart(tmp_path / "died")), third)
    told = Told()
    check_result(fit(small_mnist, model, run_dir=tmp_path / "run", progress=told), [0, 1, 0])
    (warning,) = told.warnings
    assert "(while it started); it is started again from its beginning (restart 1 of 3)" in warning


def test_without_snapshots_a_death_ends_the_run(small_mnist: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    condemn(monkeypatch, {1: ("forward", 3)})
    with pytest.raises(WorkerError, match=r"^stage 1 was killed by SIGKILL \(in batch 2, forward\)$") as caught:
        fit(small_mnist, snapshot_every=0)
    assert (caught.value.stage, caught.value.details) == (1, "")


@pytest.mark.parametrize("method", ["cdni", "delayed", "backprop"])
def test_when_no_restart_is_left_the_last_snapshots_are_kept(
    method: str, small_mnist: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    condemn(monkeypatch, {1: ("forward", 6)}, times=2)
    told = Told()
    settings = {"method": method, "snapshot_every": 1, "checkpoint_every": 0}
    with pytest.raises(WorkerError, match=r"SIGKILL \(in batch \d+, forward\); no restart is left .*--max-restarts 1"):
        fit(small_mnist, run_dir=tmp_path, max_restarts=1, progress=told, **settings)
    (path,) = list_checkpoints(tmp_path / "checkpoints")
    step = load_checkpoint(path).step
    assert step >= 4, "as far as every stage had come"
    assert told.warnings[-1] == f"the stages' last snapshots are kept as a checkpoint, step {step}"
    assert fit(small_mnist, resume=tmp_path, **settings).summary["steps"] == STEPS


def test_snapshots_do_not_take_the_place_of_newer_checkpoints(
    small_mnist: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were written as the checkpoint of an earlier step, and that removed the later ones: what a run leaves behind
    that goes on from an earlier checkpoint."""
    condemn(monkeypatch, {1: ("forward", 10)})
    with pytest.raises(WorkerError):
        fit(small_mnist, method="backprop", run_dir=tmp_path, snapshot_every=5, checkpoint_every=2, max_restarts=0)
    steps = [load_checkpoint(path).step for path in list_checkpoints(tmp_path / "checkpoints")]
    assert steps in ([2, 4, 6], [2, 4, 6, 8])


def test_run_that_fails_at_once_keeps_the_checkpoint_that_it_went_on_from(
    small_mnist: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(small_mnist, run_dir=tmp_path, steps=6)
    before = {path: path.read_bytes() for path in list_checkpoints(tmp_path / "checkpoints")}
    condemn(monkeypatch, {1: ("forward", 1)})
    with pytest.raises(WorkerError):
        fit(small_mnist, resume=tmp_path, max_restarts=0)
    assert {path: path.read_bytes() for path in list_checkpoints(tmp_path / "checkpoints")} == before


def test_launch_tells_of_a_death_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    condemn(monkeypatch, {1: ("forward", 9)})
    arguments = ("--width", "16", "--batch-size", "100", "--steps", "50", "--quiet", "--run-dir", str(tmp_path))
    assert launch(*arguments, "--max-restarts", "0", "--snapshot-every", "1") == 1
    output, errors = capfd.readouterr()
    assert not output
    warning, error = errors.splitlines()
    assert warning.startswith("warning: the stages' last snapshots are kept as a checkpoint, step ")
    assert error.startswith("launch.py: stage 1 was killed by SIGKILL (in batch 8, forward); no restart is left")
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 1


@pytest.mark.parametrize("name", ["max_restarts", "snapshot_every"])
@pytest.mark.parametrize("value", [-1, 1.5])
def test_settings_that_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}: got {value}; allowed: a whole number of at least 0"):
        TrainerConfig(**{name: value})
