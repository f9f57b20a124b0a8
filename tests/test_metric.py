"""Metrics that have a name: of a set in batches they are what they are of the whole set."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from async_dni import METRICS, ConfigError, Metric
from async_dni.record.scores.confusion import Confusion

CLASSES, IGNORED = 7, 2


def found(name: str, output: Tensor, target: Tensor, size: int, ignored: int | None = None) -> float:
    metric = METRICS[name].make(ignored)
    metric.update(output[:1], target[:1])
    metric.reset()
    for outputs, targets in zip(output.split(size), target.split(size), strict=True):
        metric.update(outputs, targets)
    return metric.compute()


@pytest.mark.parametrize("size", [1, 5, 23])
@pytest.mark.parametrize("shape", [(23,), (23, 4), (23, 3, 2)])
def test_metrics_of_labels(shape: tuple[int, ...], size: int) -> None:
    output, target = torch.randn(23, CLASSES, *shape[1:]), torch.randint(CLASSES, shape)
    rows, labels = output.movedim(1, -1).reshape(-1, CLASSES), target.reshape(-1)
    for ignored in (None, IGNORED):
        kept = torch.ones_like(labels, dtype=torch.bool) if ignored is None else labels != ignored
        nats = float(F.cross_entropy(rows[kept].double(), labels[kept]))
        order = rows.argsort(1, descending=True)
        expected = {
            "top1": 100 * float((order[:, 0] == labels)[kept].double().mean()),
            "top5": 100 * float((order[:, :5] == labels[:, None]).any(1)[kept].double().mean()),
            "perplexity": math.exp(nats),
            "bits": nats / math.log(2),
        }
        for name, value in expected.items():
            assert found(name, output, target, size, ignored) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("size", [1, 5, 23])
def test_r2_is_the_mean_over_a_target_s_numbers(size: int) -> None:
    target = torch.randn(23, 3) * torch.tensor([1.0, 100.0, 1.0]) + torch.tensor([0.0, 1e4, 0.0])
    output = target + torch.randn(23, 3)
    y, guess = target.double(), output.double()
    each = 1 - (y - guess).square().sum(0) / (y - y.mean(0)).square().sum(0)
    assert found("r2", output, target, size) == pytest.approx(float(each.mean()), rel=1e-9)
    assert found("r2", target, target, size) == 1
    assert found("r2", target.mean(0).expand(23, 3), target, size) == pytest.approx(0, abs=1e-6)


def test_r2_of_what_never_changes() -> None:
    target = torch.tensor([[1.0, 5.0], [1.0, 6.0]])
    assert found("r2", target, target, 1) == 1
    assert found("r2", target + torch.tensor([0.5, 0.0]), target, 1) == 0.5


def test_nothing_counted_is_no_number() -> None:
    output, target = torch.randn(4, CLASSES), torch.full((4,), IGNORED)
    for name in ("top1", "top5", "perplexity", "bits"):
        assert math.isnan(found(name, output, target, 2, IGNORED))


def test_labels_of_few_bits_are_labels() -> None:
    output, target = torch.randn(300, 300), torch.randint(200, (300,))
    for dtype in (torch.uint8, torch.int32):
        assert found("top1", output, target.to(dtype), 7) == found("top1", output, target, 7)
        confusion = Confusion(None)
        confusion.add(output, target.to(dtype))
        assert confusion.table is not None
        assert sum(map(sum, confusion.table)) == 300


def test_perplexity_may_be_infinite() -> None:
    assert found("perplexity", torch.tensor([[0.0, 1000.0]]), torch.tensor([0]), 1) == math.inf


def test_metrics_of_labels_refuse_what_is_none() -> None:
    for target in (torch.randn(4, CLASSES), torch.zeros(4, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"allowed: outputs \[batch, classes, ...\] and labels \[batch, ...\]"):
            METRICS["top5"].make(None).update(torch.randn(4, CLASSES), target)
    with pytest.raises(ValueError, match=r"allowed: outputs shaped like targets, not outputs \[4, 1\], targets \[4\]"):
        METRICS["r2"].make(None).update(torch.randn(4, 1), torch.randn(4))


def test_registry() -> None:
    assert list(METRICS) == ["top1", "top5", "perplexity", "bits", "r2"]
    assert all(isinstance(METRICS[name].make(None), Metric) for name in METRICS)
    assert [name for name in METRICS if METRICS[name].higher_is_better] == ["top1", "top5", "r2"]
    with pytest.raises(ConfigError, match="metrics: got top3; allowed: top1, top5, "):
        METRICS["top3"]
