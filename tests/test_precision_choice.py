"""Which precision synthesizers multiply in: what the processor does is tried, and nothing is timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from async_dni import Trainer
from async_dni.learning.precision import rounds_to_bfloat16
from async_dni.learning.synthesizers import LinearSynthesizer, LowRankSynthesizer
from async_dni.network import precision_choice
from async_dni.network.precision_choice import LARGEST_TRIED, WORTH_ROUNDING, choose_precision

SMALL, LARGE = torch.zeros(64, 128), torch.zeros(256, 128)
LABELS = torch.zeros(256, dtype=torch.int64)


@pytest.fixture(params=[True, False], ids=["rounds", "does not round"])
def rounds(request: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this processor, as far as is told, rounds."""
    monkeypatch.setattr(precision_choice, "rounds_to_bfloat16", lambda rows, size: request.param)
    return bool(request.param)


class Asks(nn.Module):
    """A synthesizer that asks PyTorch for the precision, as `torch.compile` does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, h: Tensor, labels: Tensor | None) -> Tensor:
        torch.get_float32_matmul_precision()  # raises where devices differ
        return h * self.weight


def choice(h: Tensor, synthesizer: nn.Module | None = None, given: str | None = None, device: str = "cpu") -> str:
    made = synthesizer or LinearSynthesizer(h.shape[1:], 10)
    return choose_precision(given, made, h, LABELS[: len(h)], device)


def test_large_predictions_are_rounded_where_the_processor_does_that(rounds: bool) -> None:
    assert LARGE.numel() == WORTH_ROUNDING
    assert choice(LARGE) == ("medium" if rounds else "highest")
    assert choice(SMALL) == "highest"


def test_on_cuda_the_processor_is_not_asked(rounds: bool) -> None:
    assert choice(LARGE, device="cuda:0") == "medium"
    assert choice(SMALL, device="cuda:0") == "highest"


@pytest.mark.parametrize("given", ["highest", "high", "medium"])
@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_setting_wins(given: str, device: str, rounds: bool) -> None:
    assert choice(SMALL, given=given, device=device) == given
    assert choice(LARGE, given=given, device=device) == given


def test_thin_products_are_not_rounded(rounds: bool) -> None:
    assert choice(LARGE, LowRankSynthesizer((128,), 10, rank=64)) == "highest"
    assert choice(LARGE, LowRankSynthesizer((128,), 10, rank=128)) == ("medium" if rounds else "highest")


def test_one_that_does_not_take_medium_keeps_highest(rounds: bool) -> None:
    assert choice(LARGE, Asks()) == "highest"


def test_what_is_tried_is_as_large_as_the_prediction_and_no_larger_than_need_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []
    monkeypatch.setattr(precision_choice, "rounds_to_bfloat16", lambda *sizes: bool(tried.append(sizes)))
    choice(LARGE)
    choice(torch.zeros(2, 32, 28, 28), Asks())
    assert tried == [(256, 128), (2, LARGEST_TRIED)]


@pytest.mark.parametrize("settings", [{}, {"lag": 2}, {"split": (1, 2)}, {"synthesizer_matmul_precision": "high"}])
def test_workers_and_the_configuration_are_told_the_same(
    settings: dict[str, Any], rounds: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(128, 128) for _ in range(3)), nn.Linear(128, 3))
    data = torch.randn(256, 128), torch.randint(3, (256,))
    trainer = Trainer(model, workers=3, batch_size=256, synthesizer="linear", run_dir=tmp_path, **settings)
    expected = settings.get("synthesizer_matmul_precision", "medium" if rounds else "highest")
    _, stages, _ = trainer.cut(data)
    assert [stage.synthesizer_matmul_precision for stage in stages[:-1]] == [expected] * 2
    trainer.fit(data, steps=1)
    used = json.loads((tmp_path / "config.json").read_text())["used"]
    assert used["synthesizer_matmul_precision"] == [expected] * 2


def test_this_processor_is_asked_what_it_does() -> None:
    assert choice(LARGE) == ("medium" if rounds_to_bfloat16(256, 128) else "highest")
