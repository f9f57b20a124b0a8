"""A module of any kind as blocks: outputs and gradients are those of the module, to the bit."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from async_dni import ConfigError, Trainer
from async_dni.network.split import SplitNetwork, joined, split


class Skip(nn.Module):
    """x + b(relu(a(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.a(x)))


class Chain(nn.Module):
    """Submodules in containers, a parameter and a buffer of its own, dropout by its mode, an argument that nobody gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.layers = nn.ModuleList([Skip(8), Skip(8), Skip(8)])
        self.norm = nn.BatchNorm1d(8)
        self.scale = nn.Parameter(torch.ones(8))
        self.register_buffer("shift", torch.full((8,), 0.25))
        self.unused = nn.Linear(2, 2)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, deep: bool = True) -> Tensor:
        x = torch.tanh(self.first(x))
        for layer in self.layers:
            x = layer(x)
        x = F.dropout(self.norm(x) * self.scale + self.shift, 0.5, training=self.training)
        if mask is not None:
            x = x * mask
        return self.last(x + torch.arange(8.0) / 8)


class Images(nn.Module):
    """A convolutional network as people write it: the size of the batch is kept for later; pooling by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.more = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows, _, _, _ = x.shape
        x = F.max_pool2d(self.features(x), 2)
        return self.fc(F.relu(self.more(x)).view(rows, -1))


class Looks(nn.Module):
    """Its forward looks at what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.sum() > 0:
            x = -x
        return self.b(x)


class Wraps(nn.Module):
    """Holds one that can't be followed, and need not be."""

    def __init__(self) -> None:
        super().__init__()
        self.looks, self.after = Looks(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.relu(self.looks(x)))


class Noisy(Wraps):
    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.looks(x) + torch.randn(3))


class Sizes(Wraps):
    def forward(self, x: Tensor) -> Tensor:
        h = self.looks(x)
        half = h.shape[1] // 2
        return self.after(h)[:, :half]


class Two(Wraps):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.after(self.looks(x) + y)


def gradients(model: nn.Module, x: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output for a batch, and the gradients by name."""
    torch.manual_seed(5)
    model.zero_grad()
    output = model(x)
    F.cross_entropy(output, target).backward()
    return output.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


CASES = [
    (Chain, ["layers.1"], (6,), [1]),
    (Chain, ["layers.0", "layers.2", "norm", "last"], (6,), [1, 1, 1, 1]),
    (Chain, ["layers.1.b"], (6,), [2]),  # the skip connection crosses the cut, too
    (Chain, ["layers.1.a", "layers.1.b", "layers.2"], (6,), [1, 2, 1]),
    (Images, ["more"], (1, 8, 8), [1]),
    (Images, ["features.1", "fc"], (1, 8, 8), [1, 1]),
    (Wraps, ["after"], (6,), [1]),
]


@pytest.mark.parametrize(("make", "points", "shape", "crossing"), CASES)
@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_those_of_the_module_to_the_bit(
    make: type[nn.Module], points: list[str], shape: tuple[int, ...], crossing: list[int], training: bool
) -> None:
    model = make().train(training)
    network = split(copy.deepcopy(model), points)
    assert len(network) == len(points) + 1
    x, target = torch.randn(5, *shape), torch.tensor([0, 1, 2, 0, 1])
    output, grads = gradients(model, x, target)
    split_output, split_grads = gradients(network, x, target)
    assert torch.equal(output, split_output)
    assert {name.split(".", 1)[1] for name in split_grads} == set(grads)
    assert all(torch.equal(grad, grads[name.split(".", 1)[1]]) for name, grad in split_grads.items())
    for buffer, own in zip(network.joined().buffers(), model.buffers(), strict=True):
        assert torch.equal(buffer, own), "statistics of batch norm, too"
    h, found = x, []
    for block in network[:-1]:
        h = block(h)
        found.append(len(h) if isinstance(h, tuple) else 1)
    assert found == crossing


def test_blocks_share_the_parameters_of_the_module_and_its_names() -> None:
    model = Chain()
    network = split(model, ["layers.1", "last"])
    own = dict(model.named_parameters())
    assert all(own[name.split(".", 1)[1]] is parameter for name, parameter in network.named_parameters())
    assert set(own) - {name.split(".", 1)[1] for name, _ in network.named_parameters()} == {
        "unused.weight",
        "unused.bias",
    }
    for block in network:
        names = [name for name, _ in block.named_parameters()]
        assert names == [name for name in own if name in names], "in its order, too"
    assert joined(network) is model
    assert joined(model) is model
    assert not [name for name in vars(model) if name.startswith("_tensor")], "tracing leaves nothing in it"


def test_modes_stay_as_they_were_put() -> None:
    model = Chain()
    model.norm.eval()
    network = split(model, ["norm"])
    assert (model.training, model.norm.training, model.layers[0].training) == (True, False, True)
    assert [block.training for block in network] == [True, True]
    network.eval()
    x = torch.randn(3, 6)
    assert torch.equal(network(x), model.eval()(x)), "no dropout in evaluation"
    assert [block.training for block in split(Chain().eval(), ["norm"])] == [False, False]


@pytest.mark.parametrize(("make", "points", "shape", "crossing"), CASES)
def test_blocks_can_be_sent_to_another_process(
    make: type[nn.Module], points: list[str], shape: tuple[int, ...], crossing: list[int]
) -> None:
    network = split(make(), points).eval()
    x = torch.randn(2, *shape)
    for other in (copy.deepcopy(network), nn.Sequential(*(pickle.loads(pickle.dumps(block)) for block in network))):
        assert torch.equal(other.eval()(x), network(x))


def test_copy_of_the_blocks_is_a_copy_of_the_module() -> None:
    network = split(Chain(), ["norm"])
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.fill_(2.0)
    assert all(torch.equal(p, torch.full_like(p, 2.0)) for n, p in copied.joined().named_parameters() if n[0] != "u")
    assert not any(torch.equal(p, torch.full_like(p, 2.0)) for p in network.joined().parameters())


def test_slice_of_the_blocks_is_a_network_of_them() -> None:
    part = split(Chain(), ["layers.1", "norm"])[1:]
    assert isinstance(part, SplitNetwork)
    assert joined(part) is part


REFUSED: list[tuple[Any, list[str], str]] = [
    (Chain, ["layer1"], "got layer1; the network has no such submodule; allowed: first, layers, layers.0, "),
    (Chain, ["unused"], "got unused; the forward does not use this submodule"),
    (Chain, ["first"], "got first; nothing is computed before it; allowed: a later submodule"),
    (Chain, ["norm", "norm"], "got norm; it is named twice"),
    (Chain, ["layers.1", "layers.1.a"], "got layers.1.a; it begins where layers.1 does; allowed: one of the two"),
    (Looks, ["b"], "got Looks; line "),
    (Looks, ["b"], "test_split.py, `if x.sum() > 0:`, can't be followed (TraceError: symbolically traced variables"),
    (Noisy, ["after"], "got Noisy; its forward makes tensors of random numbers"),
    (
        Sizes,
        ["after"],
        "test_split.py, `half = h.shape[1] // 2`, gives a size before the cut, which is used after it; allowed",
    ),
    (Two, ["after"], "got Two; Two.forward takes x, y; allowed: one argument"),
    (nn.Identity, ["a"], "got a; the network has no such submodule; allowed: none"),
]


@pytest.mark.parametrize(("make", "points", "sentence"), REFUSED)
def test_what_can_not_be_split_is_refused_in_a_sentence(make: Any, points: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split(make(), points)
    assert str(caught.value).startswith("split_points: got ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 6, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


class Plain(nn.Module):
    """Without dropout, whose random numbers each stage has its own of."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"a": Skip(6), "b": Skip(6)})
        self.gain, self.head = nn.Parameter(torch.ones(1)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body["b"](self.body["a"](x)) * self.gain)


@pytest.mark.parametrize("points", [["body.b", "head"], ["body.a.b", "body.b.b"]], ids=["a tensor", "a tuple"])
@pytest.mark.parametrize("serial", [True, False])
def test_locked_training_of_a_split_module_is_that_of_the_module(
    serial: bool, points: list[str], tmp_path: Any
) -> None:
    """Also where a skip connection crosses the cut."""
    model = Plain()
    settings = {"workers": 3, "method": "backprop", "batch_size": 20, "optimizer": sgd, "serial": serial}
    trainer = Trainer(model, split_points=points, run_dir=tmp_path / "run", **settings)
    before = copy.deepcopy(model.state_dict())
    result = trainer.fit(data(), steps=6, eval_set=data())
    reference, stream = copy.deepcopy(model).train(), trainer_stream()
    optimizer = sgd(reference.parameters())
    for x, target in stream:
        optimizer.zero_grad()
        F.cross_entropy(reference(x), target).backward()
        optimizer.step()
    assert type(result.model) is Plain
    trained = result.model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in reference.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "it is not changed"
    written = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert all(torch.equal(value, written[name]) for name, value in trained.items())
    (file,) = (tmp_path / "run" / "checkpoints").iterdir()
    loaded = Plain()
    split(loaded, points).load_state_dict(torch.load(file, weights_only=True)["model"])
    assert all(torch.equal(value, trained[name]) for name, value in loaded.state_dict().items())
    again = Trainer(Plain(), split_points=points, resume=tmp_path / "run", **settings).fit(data(), steps=7)
    assert again.summary["steps"] == 7


def trainer_stream() -> list[tuple[Tensor, Tensor]]:
    from async_dni.data.brought.forms import as_dataset
    from async_dni.data.stream import BatchStream

    return [(batch.x, batch.target) for batch in BatchStream(as_dataset(data()), 20, 6, 0)]


class Tied(nn.Module):
    """Its two layers have one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(self.a(x))))


def test_parameter_that_two_stages_would_share_is_named() -> None:
    trainer = Trainer(Tied(), workers=2, split_points=["b"], batch_size=20)
    with pytest.raises(ConfigError, match="model: got block '1'; it shares a parameter with block '0'"):
        trainer.fit(data(), steps=1)
    result = Trainer(Tied(), workers=2, split_points=["c"], batch_size=20).fit(data(), steps=2)
    assert result.model.a.weight is result.model.b.weight, "in one stage it stays one"


@pytest.mark.parametrize("points", [("head",), ("body.b.b",)], ids=["a tensor", "a tuple"])
def test_synthetic_gradients_at_split_points(points: tuple[str, ...]) -> None:
    model = Plain()
    results = [
        Trainer(model, workers=2, split_points=points, batch_size=20, lag=2, serial=serial).fit(data(), steps=8)
        for serial in (True, False)
    ]
    assert [worker["synthesizer_updates"] for worker in results[1].summary["workers"]] == [7, 0], "the last is not due"
    first, second = (result.model.state_dict() for result in results)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
