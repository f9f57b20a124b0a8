"""Stages whose layers torch.compile makes code of, and convolutions with channels last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from async_dni import ConfigError, Trainer, cnn
from async_dni.runtime.machine.compiler import no_compiler

needs_compiler = pytest.mark.skipif(no_compiler() is not None, reason=str(no_compiler()))


def blobs(count: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 4


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(wide, nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))


def trained(**settings: Any) -> nn.Module:
    trainer = Trainer(small_network(), workers=2, batch_size=16, seed=3, lag=2, **settings)
    return trainer.fit(blobs(), steps=6).model


def differences(one: nn.Module, other: nn.Module) -> list[float]:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return [float((a.double() - b.double()).abs().max()) for a, b in pairs]


@needs_compiler
@pytest.mark.parametrize("method", ["cdni", "delayed"])
def test_compiled_stages_learn_the_same_but_for_rounding(method: str) -> None:
    plain, compiled = trained(method=method), trained(method=method, compile=True)
    assert max(differences(plain, compiled)) < 1e-4
    assert max(differences(plain, small_network())) > 1e-3, "something was learnt"
    assert next(compiled.parameters()).grad is None, "nothing is left of what was compiled with"


def test_without_a_compiler_nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"compile: got True; torch.compile needs a C\+\+ compiler"):
        Trainer(small_network(), workers=2, compile=True, run_dir=tmp_path / "run").fit(blobs(), steps=1)
    assert not (tmp_path / "run").exists()


def test_channels_last_changes_the_layout_and_nothing_else() -> None:
    plain, last = trained(), trained(channels_last=True)
    assert max(differences(plain, last)) < 1e-4
    plan = Trainer(small_network(), workers=2, batch_size=16, channels_last=True).cut(blobs())
    assert plan[1][0].module[0][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_leaves_the_users_network_alone() -> None:
    network = cnn()
    before = [parameter.stride() for parameter in network.parameters()]
    Trainer(network, workers=2, batch_size=4, channels_last=True).cut((torch.zeros(8, 1, 28, 28), torch.arange(8)))
    assert [parameter.stride() for parameter in network.parameters()] == before
