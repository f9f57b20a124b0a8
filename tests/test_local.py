"""The method `local`: each stage and its auxiliary head by a loss of their own; nothing comes back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_inputs import a_file
from deadly import condemn
from test_kinds import BATCH, CLASSES, NETWORKS, images, made, rows, sequences, sgd
from test_parity import assert_same_bits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR

from async_dni import Callback, ConfigError, Trainer
from async_dni.data.stream import BatchStream
from async_dni.learning.auxiliary_head import AuxiliaryHead, SumOfHeads
from async_dni.learning.divergence import DivergenceError
from async_dni.learning.methods.local import LocalGradient
from async_dni.learning.structure import Output
from async_dni.look.main import main as look
from async_dni.network.cost import Boundary, count_costs, measure_costs
from async_dni.network.partition import partition
from async_dni.record.checkpoint import load_checkpoint, newest_checkpoint
from async_dni.record.progress import Progress

STEPS = 8


def trainer(model: nn.Module, **settings: Any) -> Trainer:
    settings = {
        "workers": 3,
        "batch_size": BATCH,
        "optimizer": sgd,
        "serial": True,
        "threads_per_worker": 1,
        **settings,
    }
    return Trainer(model, method="local", **settings)


def mlp() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1)),
        nn.Sequential(nn.Linear(8, 8), nn.ReLU()),
        nn.Linear(8, 8),
        nn.Linear(8, CLASSES),
    )


def last_checkpoint(run_dir: Path) -> Any:
    return load_checkpoint(newest_checkpoint(run_dir))


def by_autograd(model: nn.Sequential, data: Any, ours: Trainer, steps: int = STEPS) -> nn.Sequential:
    """Decoupled greedy learning, plainly: each stage and its head are trained by autograd on what the stage before puts out."""
    split, specs, _ = ours.cut(data)
    model, heads = copy.deepcopy(model), [copy.deepcopy(spec.auxiliary_head) for spec in specs]
    stages = partition(model, split)
    optimizers = [sgd(stage.parameters()) if list(stage.parameters()) else None for stage in stages]
    of_heads = [None if head is None else Adam(head.parameters(), lr=1e-3, fused=True) for head in heads]
    for batch in BatchStream(torch.utils.data.TensorDataset(*data), BATCH, steps, seed=0):
        x = batch.x
        for stage, head, *both in zip(stages, heads, optimizers, of_heads, strict=True):
            h = stage(x.detach() if isinstance(x, Tensor) else tuple(map(detached, x)))
            for optimizer in both:
                if optimizer is not None:
                    optimizer.zero_grad()
            parts = h if isinstance(h, Tensor) else tuple(flat(h))
            F.cross_entropy(parts if head is None else head(parts), batch.target).backward()
            for optimizer in both:
                if optimizer is not None:
                    optimizer.step()
            x = h
    return model


def flat(h: Any) -> list[Tensor]:
    return [h] if isinstance(h, Tensor) else [tensor for part in h for tensor in flat(part)]


def detached(h: Any) -> Any:
    return h.detach() if isinstance(h, Tensor) else tuple(map(detached, h))


@pytest.mark.parametrize("name", ["frozen batch norm", "LSTMs", "a class a position", "a class a pixel", "a signal"])
def test_each_stage_and_its_head_learn_as_by_autograd(name: str) -> None:
    model, data = made(name)
    if name == "frozen batch norm":
        model.train().requires_grad_(True)
    ours = trainer(model, split=(1, 2))
    assert_same_bits(
        dict(ours.fit(data, steps=STEPS).model.state_dict()), dict(by_autograd(model, data, ours).state_dict())
    )


def test_it_learns() -> None:
    """The parity of three signs: layers as they were made tell little of it to those after them."""
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(6))
    y, errors = (x[:, :3] > 0).sum(1) % 2, []
    for frozen in (0, 2):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Sequential(nn.Linear(width, 24), nn.ReLU()) for width in (6, 24)), nn.Linear(24, 2))
        model[:frozen].requires_grad_(False)
        result = trainer(model, optimizer=partial(Adam, lr=1e-2)).fit((x, y), steps=300, eval_set=(x, y))
        errors.append(float(result.test_error or 0.0))
    assert errors[0] < 20 < 30 < errors[1]


def test_workers_are_serial_with_or_without_a_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, free: nothing depends on who is faster. A snapshot after each batch, so that none is done twice."""
    data = rows()
    settings: dict[str, Any] = {"split": (1, 3), "accumulate": 2, "clip_grad_norm": 0.5, "snapshot_every": 1}
    trainer(mlp(), run_dir=tmp_path / "serial", **settings).fit(data, steps=STEPS)
    condemn(monkeypatch, {1: ("forward", 4)})
    result = trainer(mlp(), serial=False, run_dir=tmp_path / "workers", **settings).fit(data, steps=STEPS)
    assert [worker["restarts"] for worker in result.summary["workers"]] == [0, 1, 0]
    ours, theirs = (last_checkpoint(tmp_path / name) for name in ("workers", "serial"))
    assert_same_bits([ours.model, ours.stages], [theirs.model, theirs.stages])


def test_a_lag_has_cuts_counted_so_that_workers_are_serial_there_too() -> None:
    splits = [trainer(mlp(), lag=lag, serial=serial).cut(rows())[0] for lag, serial in ((4, False), (None, True))]
    assert splits[0] == splits[1]


@pytest.mark.parametrize("settings", [{}, {"autocast": "bfloat16"}, {"scheduler": partial(StepLR, step_size=2)}])
def test_a_resumed_run_goes_on_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    data, settings = rows(), {"split": (1, 2), "ema": 0.9, **settings}
    trainer(mlp(), run_dir=tmp_path / "whole", **settings).fit(data, steps=STEPS)
    trainer(mlp(), run_dir=tmp_path / "run", **settings).fit(data, steps=3)
    trainer(mlp(), resume=tmp_path / "run", **settings).fit(data, steps=STEPS)
    whole, resumed = (last_checkpoint(tmp_path / name) for name in ("whole", "run"))
    assert_same_bits([whole.model, whole.stages], [resumed.model, resumed.stages])


def test_heads_are_in_checkpoints_not_in_the_network_and_kept_at_common_cuts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes: list[str] = []
    data = rows()
    result = trainer(mlp(), split=(1, 3), run_dir=tmp_path / "run").fit(data, steps=3)
    network = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert list(network) == list(mlp().state_dict()) == list(result.model.state_dict())
    before = last_checkpoint(tmp_path / "run").stages
    assert list(before[0]["method"]["auxiliary_head"]) == ["layers.0.weight", "layers.0.bias"]
    assert set(before[0]["method"]["optimizer"]["layers.0.weight"]) == {"step", "exp_avg", "exp_avg_sq"}
    assert before[2]["method"] == {}
    assert look(["checkpoint", str(tmp_path / "run")]) == 0
    assert "auxiliary head of 27 numbers" in capsys.readouterr().out
    fresh = trainer(mlp(), workers=4).cut(data)[1]

    class Told(Progress):
        def on_note(self, text: str) -> None:
            notes.append(text)

    recut = trainer(mlp(), workers=4, resume=tmp_path / "run", progress=Told())
    states = [stage.state for stage in recut.cut(data)[1]]
    assert_same_bits(states[0]["method"], before[0]["method"])
    assert states[1]["method"] is None
    assert_same_bits(states[2]["method"], before[1]["method"])
    assert_same_bits(
        dict(fresh[1].auxiliary_head.state_dict()), dict(recut.cut(data)[1][1].auxiliary_head.state_dict())
    )
    recut.fit(data, steps=4)
    assert "new cuts after blocks 1: their auxiliary heads start afresh" in notes


def test_heads_depend_on_the_seed_and_the_block_alone() -> None:
    def heads(**settings: Any) -> list[Any]:
        torch.manual_seed(int(settings.get("seed", 0)) + 100)  # of no matter
        return [stage.auxiliary_head for stage in trainer(mlp(), **settings).cut(rows())[1]]

    two, four = heads(workers=2, split=(2,)), heads(workers=4)
    assert_same_bits(dict(two[0].state_dict()), dict(four[1].state_dict()))
    assert not torch.equal(heads(workers=4, seed=1)[1].layers[0].weight, four[1].layers[0].weight)
    assert two[1] is four[3] is None


# Heads.


@pytest.mark.parametrize(
    ("features", "outputs", "first", "weights"),
    [
        ((6,), (3,), (True, True), 6 * 3),
        ((), (3,), (True, True), 3),
        ((6,), (), (True, True), 6),
        ((6,), (2, 4, 4), (True, True), 6 * 32),  # an image of a vector
        ((4, 5, 5), (3,), (True, True), 4 * 25 * 3),
        ((4, 28, 9), (3,), (True, True), 4 * 7 * 4 * 3),  # averages of 4, and of 2 and 3
        ((20, 6), (3,), (False, True), 6 * 6 * 3),  # a sequence
        ((2, 3, 2, 3, 2), (3,), (True, True), 2 * 7 * 3),  # positions of four dimensions, 36: in a row
        ((7, 6), (3, 7), (False, True), 6 * 3),  # a class a position
        ((7, 6), (7, 3), (False, False), 6 * 3),
        ((2, 3, 2, 3, 6), (2, 3, 2, 3, 3), (False, False), 6 * 3),
        ((4, 3, 6), (3, 6, 6), (True, True), 4 * 3),  # repeats
        ((4, 8, 8), (4, 4, 3), (True, False), 4 * 3),  # averages
    ],
)
def test_head_by_the_shapes(features: Any, outputs: Any, first: tuple[bool, bool], weights: int) -> None:
    head = AuxiliaryHead(features, outputs, channels_first=first[0], classes_first=first[1])
    assert head(torch.randn(5, *features)).shape == (5, *outputs)
    assert sum(p.numel() for name, p in head.named_parameters() if "weight" in name) == weights
    hidden = AuxiliaryHead(features, outputs, (9, 8), channels_first=first[0], classes_first=first[1])
    assert hidden(torch.randn(5, *features)).shape == (5, *outputs)
    assert [layer.out_features for layer in hidden.layers if isinstance(layer, nn.Linear)][:2] == [9, 8]


def test_a_class_a_position_is_told_there() -> None:
    head, h = AuxiliaryHead((7, 6), (3, 7), channels_first=False), torch.randn(5, 7, 6)
    torch.testing.assert_close(head(h), head.layers(h).transpose(1, 2))
    coarse = AuxiliaryHead((4, 3, 3), (2, 6, 6))
    said = coarse(torch.randn(5, 4, 3, 3))
    assert torch.equal(said[..., ::2, ::2], said[..., 1::2, 1::2])


def test_several_parts_add_up_and_one_without_samples_gets_no_gradient() -> None:
    heads = SumOfHeads([nn.Linear(4, 3), None, nn.Sequential(nn.Flatten(), nn.Linear(2, 3))], [0, 0, 1])
    h = torch.randn(5, 4), torch.randn(7), torch.randn(1, 5, 2)
    method = LocalGradient(heads, None, lambda out, target: out.sum())
    gradients = method.now(h, torch.zeros(5))
    weights = heads.heads["0"].weight, heads.heads["2"][1].weight  # type: ignore[index]
    assert torch.equal(gradients[1], torch.zeros(7))
    torch.testing.assert_close(gradients[0], weights[0].sum(0).expand(5, 4))
    torch.testing.assert_close(gradients[2], weights[1].sum(0).expand(1, 5, 2))
    _, specs, _ = trainer(NETWORKS["LSTMs"][0](), split=(1, 2)).cut(sequences())
    assert isinstance(specs[0].auxiliary_head, SumOfHeads)
    assert len(specs[0].auxiliary_head.heads) == 3


class Own(nn.Module):
    """A head of a user's own, with what trains otherwise than it predicts."""

    def __init__(self, features: Any, outputs: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.LazyLinear(8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, *outputs)
        )
        self.layers(torch.zeros(2, *features))

    def forward(self, h: Tensor) -> Tensor:
        return self.layers(h)


def test_own_head_is_trained(tmp_path: Path) -> None:
    data = rows()
    ours = trainer(mlp(), split=(1, 2), auxiliary_head=Own)
    first = ours.cut(data)[1][0].auxiliary_head
    assert isinstance(first, Own)
    model = mlp()
    model[0][3] = nn.Identity()  # random numbers are the stage's
    again = trainer(model, split=(1, 2), auxiliary_head=Own)
    assert_same_bits(
        dict(again.fit(data, steps=STEPS).model.state_dict()), dict(by_autograd(model, data, again).state_dict())
    )


def test_own_head_by_its_file(tmp_path: Path) -> None:
    a_file("from torch import nn\ndef make(features, outputs):\n    return nn.Linear(features[0], outputs[0])\n")(
        tmp_path
    )
    ours = trainer(mlp(), auxiliary_head=f"{tmp_path}/its.py:make", run_dir=tmp_path / "run")
    assert isinstance(ours.cut(rows())[1][0].auxiliary_head, nn.Linear)
    ours.fit(rows(), steps=2)
    assert f'"auxiliary_head": "{tmp_path}/its.py:make"' in (tmp_path / "run" / "config.json").read_text()


def test_head_without_parameters_and_head_of_a_part_of_h() -> None:
    head = LocalGradient(nn.Identity(), None, F.cross_entropy)
    h = torch.randn(4, 3)
    target = torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(head.now(h, target), (h.softmax(1) - F.one_hot(target, 3)) / 4)
    head.load_state_dict(head.state_dict())
    trained = trainer(
        nn.Sequential(nn.Linear(6, CLASSES), nn.Linear(CLASSES, CLASSES)),
        workers=2,
        auxiliary_head=lambda features, outputs: nn.Identity(),
        lr_schedule="cosine",
    )
    trained.fit(rows(), steps=2)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda features, outputs: nn.Linear(8, 2),
            r"got Linear; it gives \[20, 2\] after block '0'; allowed: \[20, 3\], as",
        ),
        (lambda features, outputs: nn.Linear(3, 3), r"got Linear; it does not take the output of block '0', \[20, 8\]"),
        (
            lambda features: nn.Linear(3, 3),
            r"got <lambda>; it can't be made of \(features, output_features\) \(TypeError",
        ),
        (lambda features, outputs: 3, "got <lambda>; it gives int; allowed: an nn.Module"),
    ],
)
def test_bad_head_is_refused(make: Callable[..., Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"auxiliary_head: {sentence}"):
        trainer(mlp(), auxiliary_head=make).fit(rows(), steps=1)


def test_what_can_not_go_together_is_refused() -> None:
    for settings, sentence in (
        (
            {"auxiliary_head": Own, "method": "cdni"},
            "auxiliary_head: got Own; cdni has no auxiliary heads; allowed: none",
        ),
        ({"auxiliary_head": "a.py:b", "method": "dni"}, "auxiliary_head: got .*a.py:b; dni has no auxiliary heads"),
        ({"auxiliary_head": Own, "auxiliary_hidden": (8,)}, "auxiliary_hidden: got 8; they are of the default heads"),
        (
            {"auxiliary_head": "a.py:b", "auxiliary_hidden": (8,)},
            "auxiliary_hidden: got 8; they are of the default heads",
        ),
        ({"auxiliary_head": "a.py:b"}, "auxiliary_head: got .*a.py:b; there is no file"),
        ({"synthesizer": "linear"}, "synthesizer: got linear; local has no synthesizers; allowed: none"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            Trainer(mlp(), **{"method": "local", **settings})  # type: ignore[arg-type]


def test_shapes_without_a_head_are_refused_by_their_block() -> None:
    rows_of_four = nn.Sequential(nn.Flatten(1), nn.Linear(64, 12), nn.Unflatten(1, (3, 4)))
    model, (x, _) = nn.Sequential(nn.Conv2d(1, 4, 3), rows_of_four), images()
    data = x, torch.zeros(len(x), 4, dtype=torch.int64)
    sentence = r"output \[4, 4, 4\] a sample, where the network's is \[3, 4\]; allowed: one of your own"
    with pytest.raises(ConfigError, match=f"model: got block '0'; no auxiliary head is known for its {sentence}"):
        trainer(model, workers=2).fit(data, steps=1)
    trainer(model, workers=2, auxiliary_head=lambda features, outputs: copy.deepcopy(rows_of_four)).fit(data, steps=1)


def test_checkpoint_of_other_heads_is_refused(tmp_path: Path) -> None:
    data = rows()
    trainer(mlp(), run_dir=tmp_path).fit(data, steps=2)
    with pytest.raises(
        ConfigError, match=r"its run had auxiliary_hidden \[\], this one has \[8\]; they must be the same"
    ):
        trainer(mlp(), resume=tmp_path, auxiliary_hidden=(8,)).fit(data, steps=4)
    with pytest.raises(
        ConfigError, match="method: got local; the checkpoint's auxiliary head of the stage that ends with block"
    ):
        trainer(mlp(), resume=tmp_path, auxiliary_head=Own).fit(data, steps=4)


# Beside the layers.


def test_a_batch_of_which_every_label_is_ignored_changes_nothing() -> None:
    x, labels = rows()
    model = mlp()[1:]
    settings: dict[str, Any] = {"workers": 2, "loss_fn": nn.CrossEntropyLoss(ignore_index=7)}
    ours = trainer(nn.Sequential(nn.Linear(6, 8), *model), **settings)
    result = ours.fit((x, torch.full_like(labels, 7)), steps=3)
    assert_same_bits(dict(result.model.state_dict()), dict(ours.model.state_dict()))


def test_a_loss_that_is_not_finite_stops_before_the_head_steps() -> None:
    head = nn.Linear(4, 3)
    before = copy.deepcopy(head.state_dict())
    method = LocalGradient(head, Adam(head.parameters()), F.cross_entropy)
    with pytest.raises(DivergenceError, match="the auxiliary loss is nan"):
        method.now(torch.full((2, 4), float("nan")), torch.tensor([0, 1]))
    assert_same_bits(before, dict(head.state_dict()))
    stage = trainer(mlp()).cut(rows())[1][0].build(torch.device("cpu"))
    stage.method.model.layers[0].weight.data.fill_(float("inf"))  # type: ignore[union-attr, operator, index]
    with pytest.raises(DivergenceError, match=r"the weights 'auxiliary head.layers.0.weight' are not finite"):
        stage.check_weights()


def test_heads_follow_the_schedule_and_have_a_rate_of_their_own() -> None:
    def change(**settings: Any) -> float:
        ours = trainer(mlp(), workers=2, split=(2,), **settings)
        head = ours.cut(rows())[1][0].build(torch.device("cpu"))
        before = copy.deepcopy(head.method.model.state_dict())  # type: ignore[union-attr]
        for batch in BatchStream(torch.utils.data.TensorDataset(*rows()), BATCH, 4, seed=0):
            head.forward(batch)
            head.update(batch.index)
            if batch.index == 1:
                middle = copy.deepcopy(head.method.model.state_dict())  # type: ignore[union-attr]
        after = head.method.model.state_dict()  # type: ignore[union-attr]
        assert not torch.equal(before["layers.0.weight"], middle["layers.0.weight"])
        return float((after["layers.0.weight"] - middle["layers.0.weight"]).abs().max())

    stops = partial(StepLR, step_size=2, gamma=0.0)
    assert change(scheduler=stops) == 0
    assert change(scheduler=stops, synthesizer_lr_schedule="constant") > 0
    assert change(synthesizer_lr=1e-1) > 10 * change()


def test_each_stage_tells_its_loss_and_nothing_is_late() -> None:
    records: dict[int, dict[str, Any]] = {}

    class Listens(Callback):
        def on_step(self, record: dict[str, Any]) -> None:
            if record["loss"] is not None:
                records[record["worker"]] = record

    result = trainer(mlp(), callbacks=Listens()).fit(rows(), steps=STEPS)
    assert sorted(records) == [0, 1, 2]
    assert all(0.1 < record["loss"] < 5 for record in records.values())
    assert {(record["synthesizer_loss"], record["lag"]) for record in records.values()} == {(None, None)}
    assert [worker["updates"] for worker in result.summary["workers"]] == [STEPS] * 3


def test_under_autocast_the_head_sees_float32() -> None:
    seen: list[torch.dtype] = []

    class Spy(nn.Linear):
        def forward(self, h: Tensor) -> Tensor:
            seen.append(h.dtype)
            return super().forward(h)

    ours = trainer(mlp(), workers=2, split=(2,), autocast="bfloat16", auxiliary_head=lambda f, out: Spy(f[0], out[0]))
    ours.fit(rows(), steps=2)
    assert set(seen) == {torch.float32}


def test_the_balance_knows_what_a_head_costs() -> None:
    data = images()
    ours = trainer(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES)), workers=4)
    _, specs, outputs = ours.cut(data)
    first = BatchStream(torch.utils.data.TensorDataset(*data), BATCH, 1, seed=0)[0]
    blocks, heads = [spec.module[0] for spec in specs], [spec.auxiliary_head for spec in specs]
    examples = [Output(output, (0,)) for output in outputs]
    counted = count_costs(blocks, [None] * 4, examples, first, [(None,)] * 4, 1, heads)[1]
    assert counted == [3 * BATCH * 64 * CLASSES] * 3 + [0]
    boundaries = [Boundary("highest", (None,), (0,), head) for head in heads]
    before = copy.deepcopy([head and head.state_dict() for head in heads])
    measured = measure_costs(specs[0], blocks, [None] * 4, lambda: first, 1, boundaries)[1]
    assert [cost > 0 for cost in measured] == [True, True, True, False]
    assert_same_bits(before, [head and dict(head.state_dict()) for head in heads])


def test_batch_norm_of_a_head_needs_two_samples() -> None:
    x, y = rows()
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, CLASSES))
    with pytest.raises(
        ConfigError, match="batch_size: got 20; batch norm needs two samples, and the last of 81 would be"
    ):
        trainer(model, workers=2, auxiliary_head=Own).fit((x[:81], y[:81]), epochs=1)
