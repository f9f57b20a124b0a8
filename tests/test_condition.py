"""What synthesizers see of the target: what the table of `learning/condition.py` says."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from async_dni import ConfigError, Trainer
from async_dni.fit.boundaries import has_channels_first
from async_dni.learning.condition import MOST_IN_A_ROW, Condition, condition_of, embedded, hot, in_rows

BATCH, CLASSES, TIME = 4, 3, 6


def seen(output: Tensor, target: Tensor, positions: tuple[int, ...] = (), **settings: Any) -> Tensor:
    """What a synthesizer of an output with these positions sees."""
    settings = {"ignored": -100, "classes_first": True, **settings}
    condition = condition_of(output, target, **settings).fitted(positions, target)
    found = condition(target)
    assert found.is_floating_point() is (found.dtype == torch.float32)
    if found.is_floating_point():
        assert found.shape[-1] == condition.width
    return found


def logits(*positions: int) -> Tensor:
    return torch.randn(BATCH, CLASSES, *positions)


def labels(*positions: int) -> Tensor:
    return torch.arange(BATCH * torch.Size(positions).numel()).remainder(CLASSES).view(BATCH, *positions)


def test_a_class_a_sample_is_seen_as_it_is_wherever() -> None:
    for positions in ((), (TIME,), (2, 3)):
        assert torch.equal(seen(logits(), labels(), positions), labels())


def test_a_class_a_position_is_seen_as_it_is_where_positions_correspond() -> None:
    assert torch.equal(seen(logits(TIME), labels(TIME), (TIME,)), labels(TIME))
    assert torch.equal(seen(logits(2, 3), labels(2, 3), (2, 3)), labels(2, 3))
    last = torch.randn(BATCH, TIME, CLASSES)  # as a loss of the user's own may want it
    assert torch.equal(seen(last, labels(TIME), (TIME,), classes_first=False), labels(TIME))


def test_classes_of_positions_are_pooled_to_shares_where_h_has_none() -> None:
    found = seen(logits(TIME), labels(TIME))
    assert torch.equal(found, torch.full((BATCH, CLASSES), 1 / 3))


def test_classes_of_positions_are_pooled_to_fewer_and_repeated_for_more() -> None:
    target = torch.tensor([[0, 0, 1, 2]])
    output = torch.randn(1, CLASSES, 4)
    fewer = seen(output, target, (2,))
    assert fewer.tolist() == [[[1, 0, 0], [0, 0.5, 0.5]]]
    more = seen(output, target, (8,))
    assert more.argmax(-1).tolist() == [[0, 0, 0, 0, 1, 1, 2, 2]]
    maps = seen(torch.randn(1, CLASSES, 4, 4), labels(4, 4)[:1], (2, 2))
    assert maps.shape == (1, 2, 2, CLASSES)
    assert torch.equal(maps[0, 0, 0], hot(labels(4, 4)[0, :2, :2].flatten(), CLASSES, torch.float32).mean(0))


def test_ignored_labels_are_none() -> None:
    target = torch.tensor([0, -100, 2, 1])
    assert seen(logits(), target).tolist() == [0, -1, 2, 1]
    assert seen(logits(), torch.tensor([0, 7, 2, 1]), ignored=7).tolist() == [0, -1, 2, 1]
    assert hot(torch.tensor([0, -1]), 2, torch.float32).tolist() == [[1, 0], [0, 0]]
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert embedded(torch.tensor([1, -1, 0]), weight).tolist() == [[3, 4], [0, 0], [1, 2]]
    assert embedded(torch.tensor([[0.5, 1.0]]), weight).tolist() == [[3.5, 5.0]]


@pytest.mark.parametrize("width", [1, 4])
def test_numbers_of_a_sample_are_a_row(width: int) -> None:
    target = torch.randn(BATCH, width)
    assert torch.equal(seen(torch.randn(BATCH, width), target), target)
    assert torch.equal(seen(torch.randn(BATCH, width), target, (TIME,)), target)
    assert seen(torch.randn(BATCH), torch.randn(BATCH)).shape == (BATCH, 1)
    several = torch.ones(BATCH, width, dtype=torch.bool)
    assert torch.equal(seen(torch.randn(BATCH, width), several), several.float())


def test_soft_labels_of_positions_are_rows_at_them() -> None:
    target = torch.softmax(logits(TIME), 1)
    assert torch.equal(seen(logits(TIME), target, (TIME,)), target.transpose(1, 2))
    numbers = torch.randn(BATCH, TIME, 2)  # of a loss that does not say: [batch, time, numbers]
    assert torch.equal(seen(torch.randn(BATCH, TIME, 2), numbers, (TIME,), classes_first=False), numbers)


def test_images_are_seen_whole_where_they_are_small_and_by_their_means_where_not() -> None:
    small = torch.randn(BATCH, 1, 8, 8)
    assert torch.equal(seen(small, small, classes_first=False), small.movedim(1, -1).flatten(1))
    large = torch.randn(BATCH, 1, MOST_IN_A_ROW, 2)
    assert torch.allclose(seen(large, large, classes_first=False), large.mean((2, 3)))
    assert seen(small, small, (4, 4), classes_first=False).shape == (BATCH, 4, 4, 1)


def test_a_condition_of_the_users_own_is_what_is_seen() -> None:
    def own(target: Tensor) -> Tensor:
        return torch.stack((target, -target), 1).float()

    assert torch.equal(seen(logits(), labels(), own=own), own(labels()))
    assert torch.equal(seen(logits(), labels(), (TIME,), own=own), own(labels()))


def test_rows_of_labels_and_of_numbers_are_of_the_type_of_h() -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert in_rows(labels(), CLASSES, dtype).dtype == dtype
        assert in_rows(torch.randn(BATCH, 2), 2, dtype).dtype == dtype


def test_channels_come_first_where_layers_or_targets_say_so() -> None:
    signal = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Linear(6, 6))
    h, target = torch.randn(BATCH, 4, 6), labels()
    assert has_channels_first(signal, 0, h, target)
    assert has_channels_first(signal, 1, h, target), "by the newest layer that tells"
    assert not has_channels_first(signal, 2, h, target)
    assert has_channels_first(signal, 2, h, labels(6)), "positions of the target"
    assert not has_channels_first(signal, 0, h, labels(4))
    assert has_channels_first(nn.Sequential(nn.ReLU()), 0, torch.randn(BATCH, 2, 3, 3), target)
    assert not has_channels_first(nn.Sequential(nn.ReLU()), 0, h, target)


class Rows(nn.Module):
    """A synthesizer that notes what it is called with."""

    calls: ClassVar[list[Tensor]] = []

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        self.calls.append(seen)
        return self.scale * h


def test_trainer_takes_a_condition() -> None:
    x, target = torch.randn(40, 6), torch.randint(0, CLASSES, (40,))
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, CLASSES))
    widths = []

    def make(features: tuple[int, ...], width: int) -> nn.Module:
        widths.append(width)
        return Rows()

    def parity(target: Tensor) -> Tensor:
        return torch.stack((target % 2, target % 2 == 0), 1).float()

    settings: dict[str, Any] = {"workers": 2, "batch_size": 20, "serial": True, "synthesizer": make}
    Trainer(model, condition=parity, **settings).fit((x, target), steps=2)
    assert widths == [2]
    assert all(torch.equal(seen.sum(1), torch.ones(len(seen))) for seen in Rows.calls)
    for own, sentence in (
        (lambda target: target.unknown, r"condition: got <lambda>; it does not take targets \[20\] torch.int64"),
        (
            lambda target: target,
            r"condition: got <lambda>; it gives \[20\] torch.int64 for 20 samples; allowed: numbers",
        ),
    ):
        with pytest.raises(ConfigError, match=sentence):
            Trainer(model, condition=own, **settings).fit((x, target), steps=2)
    with pytest.raises(ConfigError, match="condition: got a function; dni sees nothing of the target; allowed: none"):
        Trainer(model, condition=parity, method="dni", workers=2)


def test_a_condition_can_be_sent() -> None:
    import pickle

    made = condition_of(logits(TIME), labels(TIME), ignored=-100, classes_first=True)
    assert pickle.loads(pickle.dumps(made)) == made == Condition(CLASSES, labels=True, ignored=-100)
