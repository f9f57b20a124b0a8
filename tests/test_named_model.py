"""A network by name or by a user's function, on data by name or by a user's function: as the command line trains them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_launch import ROOT, launch
from torch import Tensor, nn

from async_dni import ConfigError, fcn, transformer
from async_dni.data.own_data import make_own
from async_dni.network.named_model import check_settings, load_maker, make_named

SOURCE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width_in, width):
        super().__init__()
        self.linear = nn.Linear(width_in, width)
    def forward(self, x):
        return torch.relu(self.linear(x))

def make(input_shape, num_classes, depth=2, width=8):
    sizes = [*input_shape, *[width] * depth]
    return nn.Sequential(*(Block(a, b) for a, b in zip(sizes, sizes[1:])), nn.Linear(width, num_classes))

class Chain(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.a, self.b = Block(6, width), nn.Linear(width, 3)
    def forward(self, x):
        return self.b(self.a(x))

def data(samples=100, pair=True):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 6, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return ((x, y), (x[:20], y[:20])) if pair else (x, y)
"""
OFFERED = {"input_shape": lambda: (1, 4, 4), "num_classes": lambda: 3}


def start(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`launch.py` in another directory, in a process of its own."""
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a user's file in it."""
    (tmp_path / "users_file.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("users_file", None)
    importlib.invalidate_caches()


def test_network_and_data_of_a_file_train_in_workers_and_resume(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("--model", "users_file.py:make", "--model-arg", "depth=3", "--model-arg", "width=5")
    data = ("--data", "users_file.py:data", "--data-arg", "samples=120")
    run = start(*chosen, *data, "--workers", "4", "--batch-size", "20", "--steps", "12", "--run-dir", "run", cwd=here)
    assert (run.returncode, run.stderr) == (0, "")
    assert "cdni, 4 workers: 12 steps, 240 samples" in run.stdout
    shapes = {
        name: list(value.shape) for name, value in torch.load(here / "run" / "model.pt", weights_only=True).items()
    }
    assert shapes == {
        "0.linear.weight": [5, 6],
        "0.linear.bias": [5],
        "1.linear.weight": [5, 5],
        "1.linear.bias": [5],
        "2.linear.weight": [5, 5],
        "2.linear.bias": [5],
        "3.weight": [3, 5],
        "3.bias": [3],
    }
    stored = json.loads((here / "run" / "config.json").read_text())
    kept = {name: stored[name] for name in ("model", "model_arg", "data", "data_arg", "dataset")}
    assert kept == {
        "model": f"{here}/users_file.py:make",
        "model_arg": ["depth=3", "width=5"],
        "data": f"{here}/users_file.py:data",
        "data_arg": ["samples=120"],
        "dataset": None,
    }
    (elsewhere := here / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    assert launch("--resume", "../run", "--steps", "14") == 0
    said = capsys.readouterr()
    assert "14 steps (from 12)" in said.out
    assert said.err == ""
    monkeypatch.chdir(here)
    assert launch("--resume", "run", "--steps", "16", "--dataset", "mnist") == 2
    assert capsys.readouterr().err == (
        f"launch.py: --dataset: got mnist; give it or --data, not both (--data is {here}/users_file.py:data)\n"
    )


def test_module_of_a_file_is_split_at_names(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ("--model", "users_file:Chain", "--split-points", "b", "--data", "users_file:data")
    status = launch(*chosen, "--workers", "2", "--batch-size", "20", "--steps", "6", "--run-dir", "run")
    assert (status, capsys.readouterr().err) == (0, "")
    names = list(torch.load(here / "run" / "model.pt", weights_only=True))
    assert names == ["a.linear.weight", "a.linear.bias", "b.weight", "b.bias"]
    status = launch("--resume", "run", "--steps", "7")
    assert (status, capsys.readouterr().err) == (0, "")


def test_reference_network_on_a_users_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ("--data", "users_file.py:data", "--data-arg", "pair=False", "--width", "8")
    status = launch(*chosen, "--batch-size", "20", "--steps", "6", "--run-dir", "run")
    assert (status, capsys.readouterr().err) == (0, "")
    shapes = [list(value.shape) for value in torch.load(here / "run" / "model.pt", weights_only=True).values()]
    assert shapes[0] == [8, 6]
    assert shapes[-1] == [3], "as many classes as there are labels"


def test_transformer_learns_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("abcdefgh" * 400)
    chosen = ("--model", "transformer", "--model-arg", "depth=1,width=16,heads=2", "--dataset", "text")
    where = ("--data-dir", str(tmp_path / "text.txt"), "--sequence-length", "16", "--run-dir", str(tmp_path / "run"))
    training = ("--method", "backprop", "--workers", "3", "--batch-size", "20", "--epochs", "6", "--lr", "0.01")
    assert launch(*chosen, *where, *training, "--serial") == 0, capsys.readouterr().err
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test_loss"] < 0.2, "of ln 8 = 2.08 at first: each character tells the next"


def test_cnn_trains_on_mnist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ("--model", "cnn", "--width", "4", "--model-arg", "dropout=0.1", "--batch-size", "100", "--steps", "20")
    assert launch(*chosen, "--serial", "--eval-every", "0", "--run-dir", str(tmp_path / "run")) == 0
    shapes = [list(v.shape) for v in torch.load(tmp_path / "run" / "model.pt", weights_only=True).values()]
    assert shapes[0] == [4, 1, 5, 5]
    assert shapes[-2:] == [[10, 4 * 7 * 7], [10]]


# make_named


def made(name: str, maker: Any, flags: dict[str, Any], **arguments: Any) -> nn.Module:
    return make_named(name, maker, flags, arguments, OFFERED)


def test_reference_network_gets_its_settings_and_what_the_data_are() -> None:
    network = made("fcn", load_maker("fcn"), {"layers": None, "width": 6}, layers=2)
    expected = fcn(2, 6, input_shape=(1, 4, 4), num_classes=3)
    assert [p.shape for p in network.parameters()] == [p.shape for p in expected.parameters()]


def test_function_gets_flags_and_arguments_as_it_takes_them() -> None:
    seen: dict[str, Any] = {}

    def make(width: int, *, input_shape: Any, gain: float = 1.0) -> nn.Module:
        seen.update(width=width, input_shape=input_shape, gain=gain)
        return nn.Identity()

    assert isinstance(made("a.py:make", make, {"layers": None, "width": 3}, gain=0.5), nn.Identity)
    assert seen == {"width": 3, "input_shape": (1, 4, 4), "gain": 0.5}


@pytest.mark.parametrize(
    ("name", "flags", "arguments", "said"),
    [
        ("fcn", {}, {"depth": 3}, "model_arg: got depth=3; fcn takes layers, width"),
        ("fcn", {}, {"layers": 0}, "model_arg: got layers=0; allowed: a whole number of at least 1"),
        (
            "fcn",
            {"layers": 2},
            {"layers": 2},
            "model_arg: got layers=2; --layers is given, too; allowed: one of the two",
        ),
        ("a.py:make", {"width": 2}, {"width": 2}, "model_arg: got width=2; --width is given, too"),
        ("tanh", {}, {"layers": 5}, "model_arg: got layers=5; tanh has 2 layers"),
        ("resnet", {}, {"dropout": 0.5}, "model_arg: got dropout=0.5; resnet takes depth, width"),
        (
            "cnn",
            {},
            {"dropout": "some"},
            "model_arg: got dropout=some; allowed: a finite number of at least 0 and below 1",
        ),
    ],
)
def test_settings_are_checked_before_anything_is_read(
    name: str, flags: dict[str, Any], arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings(name, flags, arguments)
    assert str(caught.value).startswith(said)


def test_what_only_shows_when_it_is_made_is_named_as_it_was_given() -> None:
    with pytest.raises(ConfigError, match=r"model_arg: got depth=9; allowed: 6n \+ 2"):
        made("resnet", load_maker("resnet"), {}, depth=9)
    with pytest.raises(ConfigError, match="model: got resnet; it is for images"):
        make_named("resnet", load_maker("resnet"), {}, {}, {**OFFERED, "input_shape": lambda: (4,)})
    with pytest.raises(ConfigError, match=r"model: got a\.py:make; it gives list; allowed: an nn\.Module"):
        made("a.py:make", lambda: [nn.Identity()], {})


def test_transformer_has_the_vocabulary_of_the_data() -> None:
    network = make_named(
        "transformer", load_maker("transformer"), {}, {"depth": 1}, {**OFFERED, "input_shape": lambda: (4,)}
    )
    expected = transformer(1, input_shape=(4,), num_classes=3)
    assert [p.shape for p in network.parameters()] == [p.shape for p in expected.parameters()]


# make_own


X, Y = torch.zeros(4, 2), torch.zeros(4)


class Pairs(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index], 0


PAIRS = Pairs()


@pytest.mark.parametrize("one", [(X, Y), (X.numpy(), Y.numpy()), PAIRS, [(X, 0), (X, 1)], {"x": X, "y": Y}])
def test_function_gives_a_training_set_alone(one: Any) -> None:
    found = make_own("a.py:make", lambda: one, {})
    assert found[0] is one
    assert found[1] is None


@pytest.mark.parametrize("two", [((X, Y), (X, Y)), (PAIRS, PAIRS), (PAIRS, (X, Y)), (PAIRS, None)])
def test_function_gives_a_training_and_an_evaluation_set(two: Any) -> None:
    found = make_own("a.py:make", lambda: two, {})
    assert all(a is b for a, b in zip(found, two, strict=True))
    assert make_own("a.py:make", lambda: [PAIRS, PAIRS], {}) == (PAIRS, PAIRS), "in a list, too"


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (None, "data: got a.py:make; it gives None; allowed: a training set, or a pair"),
        (
            (PAIRS, PAIRS, PAIRS),
            "data: got a.py:make; it gives (Pairs, Pairs, Pairs); allowed: a training set, or a pair",
        ),
        ((), "data: got a.py:make; it gives (); allowed: a training set, or a pair"),
        ({"train": PAIRS}, "data: got a.py:make; it gives {train: Pairs}; allowed: a training set, or a pair"),
        ((None, PAIRS), "data: got a.py:make; it gives (NoneType, Pairs); allowed: "),
    ],
)
def test_what_is_no_data_set_is_refused(gives: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_own("a.py:make", lambda: gives, {})
    assert str(caught.value).startswith(said)
