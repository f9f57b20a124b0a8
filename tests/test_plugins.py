"""A method and a synthesizer from outside the package, which is not touched for them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from deadly import condemn
from test_launch import ROOT
from test_launch import launch as launch_here
from torch import nn

from async_dni import METHODS, SYNTHESIZERS, ConfigError, Method, MethodSpec, SynthesizerSpec, Trainer, TrainerConfig
from async_dni.cli import load_plugins
from async_dni.foundation.registry import Registry

PLUGIN = Path(__file__).with_name("toys.py")


@pytest.fixture
def toys() -> Iterator[None]:
    """The plugin, for one test."""
    import toys

    METHODS.add(toys.IMITATION)
    SYNTHESIZERS.add(toys.BIAS)
    yield
    METHODS.remove("imitation")
    SYNTHESIZERS.remove("bias")


def launch(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`launch.py`, where it has to find the plugin by itself."""
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A working directory with the plugin's file in it."""
    (tmp_path / "toys.py").write_text(PLUGIN.read_text())
    return tmp_path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process's working directory, in which there may be a plugin `mine`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("mine", None)
    importlib.invalidate_caches()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.ReLU()), nn.Linear(5, 5), nn.Linear(5, 3))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(90, 6, generator=generator), torch.randint(3, (90,), generator=generator)


def reference(steps: int) -> nn.Sequential:
    """What `imitation` comes to: each block is trained by autograd, on what the one before it puts out before its update."""
    model, (x, y) = network(), data()
    optimizers = [torch.optim.SGD(block.parameters(), lr=0.1) for block in model]
    for step in range(steps):
        generator = torch.Generator().manual_seed(step // 3)  # of seed 0 and the epoch
        rows = torch.randperm(90, generator=generator)[step % 3 * 30 :][:30]
        h = x[rows]
        for k, (block, optimizer) in enumerate(zip(model, optimizers, strict=True)):
            out = block(h.detach())
            hot = nn.functional.pad(nn.functional.one_hot(y[rows], 3), (0, out.shape[1] - 3))
            loss = (out - hot).square().sum() / 60
            if k == 2:
                loss = nn.functional.cross_entropy(out, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            h = out
    return model


@pytest.mark.parametrize("settings", [{"serial": True}, {}, {"queue_capacity": 1}])
def test_method_without_a_gradient_queue_trains_as_autograd_does(toys: None, settings: dict[str, object]) -> None:
    trainer = Trainer(network(), method="imitation", batch_size=30, optimizer=sgd, **settings)
    result = trainer.fit(data(), steps=7)
    for (name, trained), expected in zip(
        result.model.state_dict().items(), reference(7).state_dict().values(), strict=True
    ):
        torch.testing.assert_close(trained, expected, msg=name)
    assert [worker["updates"] for worker in result.summary["workers"]] == [7] * 3


def test_method_without_a_gradient_queue_survives_a_death(toys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    condemn(monkeypatch, {1: ("update", 4)})
    trainer = Trainer(network(), method="imitation", batch_size=30, optimizer=sgd, snapshot_every=1)
    result = trainer.fit(data(), steps=7)
    assert [worker["restarts"] for worker in result.summary["workers"]] == [0, 1, 0]
    for trained, expected in zip(result.model.state_dict().values(), reference(7).state_dict().values(), strict=True):
        torch.testing.assert_close(trained, expected)


def test_method_without_a_gradient_queue_drops_and_resumes(toys: None, tmp_path: Path) -> None:
    settings = {"method": "imitation", "batch_size": 30, "optimizer": sgd}
    dropping = Trainer(network(), overflow="drop", queue_capacity=1, **settings).fit(data(), steps=30)
    workers = dropping.summary["workers"]
    assert workers[0]["updates"] == 30
    assert workers[1]["updates"] == 30 - workers[0]["dropped"]
    Trainer(network(), run_dir=tmp_path, checkpoint_every=2, **settings).fit(data(), steps=5)
    result = Trainer(network(), resume=tmp_path, **settings).fit(data(), steps=7)
    for trained, expected in zip(result.model.state_dict().values(), reference(7).state_dict().values(), strict=True):
        torch.testing.assert_close(trained, expected)


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """A factory that can be sent to a worker."""
    return torch.optim.SGD(parameters, lr=0.1)


def test_synthesizer_by_its_name_predicts_in_every_stage_but_the_last(toys: None) -> None:
    from toys import Bias

    _, stages, _ = Trainer(network(), synthesizer="bias", batch_size=30).cut(data())
    assert [type(stage.synthesizer) for stage in stages] == [Bias, Bias, type(None)]
    result = Trainer(network(), synthesizer="bias", batch_size=30).fit(data(), steps=6)
    assert [worker["synthesizer_updates"] for worker in result.summary["workers"]] == [6, 6, 0]


def test_method_says_what_it_can_not_go_with(toys: None) -> None:
    with pytest.raises(ConfigError, match="auxiliary_hidden: got 8; imitation has no auxiliary heads; allowed: none"):
        TrainerConfig(method="imitation", auxiliary_hidden=(8,))
    with pytest.raises(ConfigError, match="synthesizer: got linear; imitation has no synthesizers; allowed: none"):
        TrainerConfig(method="imitation", synthesizer="linear")
    with pytest.raises(ConfigError, match="synthesizer_hidden: got 8; the bias synthesizer has no hidden layers"):
        TrainerConfig(synthesizer="bias", synthesizer_hidden=(8,))


def test_synthesizer_that_does_not_fit_an_output_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"synthesizer: got convolutional; it is for outputs \[channels, \*pos"):
        Trainer(network(), synthesizer="convolutional", batch_size=30).fit(data(), steps=1)


def test_command_line_trains_with_what_a_plugin_names_and_resumes_it(here: Path, capsys: Any) -> None:
    (here / "mine.py").write_text(PLUGIN.read_text())

    def launched(*arguments: str) -> str:
        """What a launch prints that trains; what it has loaded is forgotten."""
        try:
            status = launch_here(*arguments)
        finally:
            METHODS.remove("imitation")
            SYNTHESIZERS.remove("bias")
            del sys.modules["mine"]
        said = capsys.readouterr()
        assert (status, said.err) == (0, "")
        return said.out

    small = ("--layers", "3", "--width", "16", "--batch-size", "500", "--quiet")
    chosen = ("--plugin", "mine", "--method", "imitation")
    first = launched(*chosen, *small, "--steps", "4", "--run-dir", "run")
    assert first.startswith("imitation, 3 workers: 4 steps")
    assert json.loads((here / "run" / "config.json").read_text())["plugin"] == ["mine"]
    assert launched("--resume", "run", "--steps", "6").startswith("imitation, 3 workers: 6 steps (from 4)")
    assert launched("--plugin", "mine", "--synthesizer", "bias", *small, "--steps", "3")


def test_example_of_contributing_trains(here: Path) -> None:
    (example,) = re.findall(r"```python\n(# my_method.py.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    (here / "mine.py").write_text(example)
    load_plugins(["mine"])
    try:
        serial, workers = (
            Trainer(network(), method="smoothed", batch_size=30, optimizer=sgd, lag=1, serial=serial).fit(
                data(), steps=9
            )
            for serial in (True, False)
        )
    finally:
        METHODS.remove("smoothed")
    for a, b in zip(serial.model.state_dict().values(), workers.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(workers.model[0][0].weight, network()[0][0].weight), "it learns from the first gradient on"


def test_help_lists_what_a_plugin_adds(directory: Path) -> None:
    said = launch("--plugin", "toys", "--help", cwd=directory).stdout
    assert "imitation (of a loss of each stage's own)" in " ".join(said.split())
    assert "{convolutional,positionwise,low-rank,linear,mlp,bias}" in said


def test_entry_point_of_an_installed_package_is_a_name(directory: Path) -> None:
    installed = directory / "toys-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    points = "[async_dni.methods]\nimitation = toys:IMITATION\n[async_dni.synthesizers]\nbroken = toys:NOTHING\n"
    (installed / "entry_points.txt").write_text(points)
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    small = ("--layers", "2", "--workers", "2", "--batch-size", "500", "--quiet", "--steps", "2")
    run = launch("--method", "imitation", *small, cwd=elsewhere, PYTHONPATH=str(directory))
    assert (run.returncode, run.stderr) == (0, "")
    broken = launch("--synthesizer", "broken", *small, cwd=elsewhere, PYTHONPATH=str(directory))
    assert broken.returncode == 2
    assert broken.stderr.startswith(
        "launch.py: --synthesizer: got broken; toys:NOTHING can't be loaded (AttributeError"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "it can't be imported (ModuleNotFoundError: No module named 'mine')"),
        ("1 / 0", "it can't be imported (ZeroDivisionError: division by zero)"),
        (
            "import dataclasses, async_dni\n"
            "async_dni.METHODS.add(dataclasses.replace(async_dni.METHODS['dni'], name='cdni'))",
            "it can't be imported (ValueError: there is another method 'cdni')",
        ),
    ],
)
def test_plugin_that_can_not_be_imported_is_refused(content: str | None, said: str, here: Path, capfd: Any) -> None:
    if content is not None:
        (here / "mine.py").write_text(content)
    assert launch_here("--plugin", "mine") == 2
    assert capfd.readouterr() == ("", f"launch.py: --plugin: got mine; {said}\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("import sys; sys.exit('no')", "(SystemExit: no)"),
        (
            "import async_dni as a; a.METHODS.add(a.SYNTHESIZERS['mlp'])",
            "(TypeError: a method is a MethodSpec, not SynthesizerSpec)",
        ),
    ],
)
def test_plugin_that_exits_or_adds_something_else_is_refused(content: str, said: str, here: Path, capfd: Any) -> None:
    (here / "mine.py").write_text(content)
    assert launch_here("--plugin", "mine") == 2
    assert capfd.readouterr() == ("", f"launch.py: --plugin: got mine; it can't be imported {said}\n")


@pytest.mark.parametrize("stored", [None, 3, "toys", [3]])
def test_plugins_of_a_resumed_run_are_checked(stored: object, here: Path, capfd: Any) -> None:
    settings = {"used": {"split": [1]}, "workers": 2, "plugin": stored}
    (here / "config.json").write_text(json.dumps(settings))
    assert launch_here("--resume", str(here)) == 2
    said = capfd.readouterr().err
    assert re.match(r"launch.py: --plugin: got .*; allowed: words, separated by commas\n$", said), said


def test_entry_point_of_another_kind_or_name_is_refused_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {
        "odd": EntryPoint("odd", "json:dumps", "async_dni.nobody"),
        "mine": EntryPoint("mine", "async_dni.learning.methods.dni:DNI", "async_dni.nobody"),
    }
    registry = Registry(MethodSpec, "method", "async_dni.nobody", [])
    monkeypatch.setattr(registry, "_entry_points", points)
    assert registry.help() == "odd (json:dumps); mine (async_dni.learning.methods.dni:DNI)", (
        "nothing is loaded for that"
    )
    with pytest.raises(ConfigError, match=r"method: got odd; json:dumps can't be loaded \(AttributeError"):
        registry["odd"]
    with pytest.raises(ConfigError, match=r"can't be loaded \(ValueError: it is called 'dni'\)"):
        registry["mine"]


@pytest.mark.parametrize("settings", [{"method": ["cdni"]}, {"synthesizer": ["linear"]}, {"method": {"a": 1}}])
def test_what_can_not_be_a_name_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="allowed: "):
        TrainerConfig(**settings)  # type: ignore[arg-type]


def test_description_that_contradicts_itself_is_an_error(toys: None) -> None:
    for contradiction in ({"waits": True}, {"synthesizer": True}):
        with pytest.raises(
            ValueError, match="imitation: what waits for gradients, or learns from them, needs gradients"
        ):
            dataclasses.replace(METHODS["imitation"], **contradiction)
    METHODS.add(dataclasses.replace(METHODS["backprop"], name="unsure", waits=False, lag=None))
    try:
        with pytest.raises(ConfigError, match="method 'unsure': what it makes waits for gradients or not"):
            Trainer(network(), method="unsure", batch_size=30).cut(data())
    finally:
        METHODS.remove("unsure")


class Answers(Method):
    """Answers with what `make` makes of h."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def now(self, h: Any, target: Any) -> Any:
        return self.make(h)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda parts: None,
            r"it can't be made, or answer \(TypeError: method 'unusable': it makes NoneType; allowed: a Method",
        ),
        (
            lambda parts: Answers(lambda h: h[:, 1:]),
            r"it gives \[2, 4\] torch.float32 for the gradient of an output \[2, 5\]",
        ),
        (
            lambda parts: Answers(lambda h: None),
            r"it gives NoneType for the gradient of an output \[2, 5\] torch.float32",
        ),
    ],
    ids=["no method", "another shape", "nothing"],
)
def test_method_that_can_not_be_used_is_refused(toys: None, make: Any, sentence: str) -> None:
    METHODS.add(dataclasses.replace(METHODS["imitation"], name="unusable", make=make))
    try:
        with pytest.raises(ConfigError, match=f"method: got unusable; {sentence}"):
            Trainer(network(), method="unusable", batch_size=30).fit(data(), steps=1)
    finally:
        METHODS.remove("unusable")


def test_method_that_can_not_be_pickled_is_named(toys: None) -> None:
    lock, made = threading.Lock(), METHODS["imitation"].make
    METHODS.add(dataclasses.replace(METHODS["imitation"], name="unusable", make=lambda parts: lock and made(parts)))
    try:
        with pytest.raises(
            ConfigError, match="method: got unusable; a worker is another process, so its description must be"
        ):
            Trainer(network(), method="unusable", batch_size=30).fit(data(), steps=1)
    finally:
        METHODS.remove("unusable")


def test_synthesizer_that_takes_other_arguments_is_refused(toys: None) -> None:
    SYNTHESIZERS.add(SynthesizerSpec(name="short", help="", make=lambda features, classes: nn.Linear(1, 1)))
    try:
        with pytest.raises(
            ConfigError, match=r"synthesizer: got short; it can't be made of \(features, hidden, classes\) \(Type"
        ):
            Trainer(network(), synthesizer="short", batch_size=30).cut(data())
    finally:
        SYNTHESIZERS.remove("short")
    with pytest.raises(
        ConfigError, match=r"synthesizer: got Bias; it can't be made of \(features, classes\) \(TypeError"
    ):
        Trainer(network(), synthesizer=SYNTHESIZERS["bias"].make, batch_size=30).cut(data())


def test_a_name_and_a_function_are_one_synthesizer_too_many(toys: None) -> None:
    config = TrainerConfig(synthesizer="bias")
    with pytest.raises(ConfigError, match="synthesizer: got bias; a function is given, too"):
        Trainer(network(), config, synthesizer=lambda features, classes: nn.Linear(1, 1))


def test_registry_is_asked_by_name_and_lists_in_order() -> None:
    registry = Registry(MethodSpec, "method", "async_dni.nobody", [METHODS[name] for name in METHODS])
    assert list(registry) == ["cdni", "dni", "delayed", "backprop", "local"]
    assert "cdni" in registry
    assert "ddg" not in registry
    with pytest.raises(ConfigError, match="method: got ddg; allowed: cdni, dni, delayed, backprop, local"):
        registry["ddg"]
    assert registry.add(METHODS["dni"]) is METHODS["dni"], "the same again"
