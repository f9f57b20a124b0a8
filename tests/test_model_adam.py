"""The optimizer of a method's own model is PyTorch's fused Adam, to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import Adam

from async_dni.learning.updates.model_adam import ModelAdam


def models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    return one, copy.deepcopy(one)


def give_gradients(one: nn.Module, other: nn.Module, step: int, without: str = "") -> None:
    generator = torch.Generator().manual_seed(step)
    for (name, parameter), same in zip(one.named_parameters(), other.parameters(), strict=True):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad, same.grad = (None, None) if name == without else (gradient, gradient.clone())


@pytest.mark.parametrize("late", ["", "1.bias"], ids=["all", "one whose gradients come later"])
def test_steps_are_those_of_adam(late: str) -> None:
    ours, theirs = models()
    lean, plain = ModelAdam(ours.parameters(), lr=0.1), Adam(theirs.parameters(), lr=0.1, fused=True)
    for step in range(8):
        give_gradients(ours, theirs, step, late if step in (0, 1, 5) else "")
        if step == 3:
            lean.param_groups[0]["lr"] = plain.param_groups[0]["lr"] = 0.01  # as a schedule does
        if step == 6:
            state = copy.deepcopy(plain.state_dict())
            lean.load_state_dict(state)
        lean.step()
        plain.step()
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    found, expected = lean.state_dict()["state"], plain.state_dict()["state"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key][name], value) for key in found for name, value in expected[key].items())


def test_a_copy_steps_by_itself() -> None:
    ours, theirs = models()
    lean = ModelAdam(ours.parameters(), lr=0.1)
    for step in range(2):
        give_gradients(ours, theirs, step)
        lean.step()
    before = [parameter.clone() for parameter in ours.parameters()]
    copied = copy.deepcopy(lean)
    for parameter in copied.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    copied.step()
    assert all(map(torch.equal, ours.parameters(), before))
    assert not any(map(torch.equal, copied.param_groups[0]["params"], before))
