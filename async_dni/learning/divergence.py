"""Numbers that are not finite, found before they leave the stage, and the layer that they come from."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import named_blocks
from .structure import Structure, mapped, parts_of

REMEDY = "see --on-divergence, --clip-grad-norm and the learning rate"


class DivergenceError(ArithmeticError):
    """A number that training can't go on with; says which. The worker adds stage and batch."""


def is_finite(tensor: Tensor) -> bool:
    """Whether all of a tensor is finite; one pass, but for sums that overflow."""
    return math.isfinite(float(tensor.detach().sum())) or bool(torch.isfinite(tensor).all())


def are_finite(structure: Structure) -> bool:
    """Whether all of a structure's floating parts are."""
    return all(is_finite(part) for part in parts_of(structure) if part.is_floating_point())


def check_output(
    module: nn.Module, x: Structure, h: Structure, context: AbstractContextManager[Any] | None = None
) -> None:
    """Raise `DivergenceError`, naming the block, where the output h of a stage on x is not finite.

    `context`: under which blocks are computed again, as h was, to find the one that is wrong.
    """
    if are_finite(h):
        return
    if not are_finite(x):
        raise DivergenceError("the input is not finite")
    x = mapped(Tensor.clone, x)  # a block may work in place
    with context or nullcontext(), torch.no_grad():
        for name, block in named_blocks(module):
            if wrong := wrong_parameters(block, name):
                raise DivergenceError(f"the weights {wrong[0]!r} are not finite")
            try:
                x = block(x)
            except Exception as error:
                raise DivergenceError("the output is not finite") from error  # how it was computed can't be done again
            if not are_finite(x):
                raise DivergenceError(f"the output of block {name!r} is not finite")
    raise DivergenceError("the output is not finite")  # and is, when computed again: a layer that is random


def check_gradients(module: nn.Module, norm: Tensor) -> None:
    """Raise `DivergenceError`, naming the layer, where the gradients' norm is not finite."""
    if not torch.isfinite(norm):
        _check_each_gradient(module)
        raise DivergenceError("the norm of the gradients is not finite")


def check_grad_input(module: nn.Module, grad_input: Tensor) -> None:
    """Raise `DivergenceError`, naming the layer, where the gradient that goes upstream is not finite."""
    if not is_finite(grad_input):
        _check_each_gradient(module)
        raise DivergenceError("the gradient of the input is not finite")


def _check_each_gradient(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not is_finite(parameter.grad):
            raise DivergenceError(f"the gradient of {name!r} is not finite")


def check_loss(loss: Tensor, name: str) -> None:
    """Raise `DivergenceError` where a loss, a scalar, is not finite."""
    if not math.isfinite(float(loss)):
        raise DivergenceError(f"the {name} is {float(loss)}")


def check_weights(module: nn.Module, prefix: str = "") -> None:
    """Raise `DivergenceError`, naming the layer, where a weight is not finite."""
    if wrong := wrong_parameters(module, prefix):
        raise DivergenceError(f"the weights {wrong[0]!r} are not finite")


def wrong_parameters(module: nn.Module, prefix: str = "") -> list[str]:
    """Names of the parameters that are not finite."""
    return [name for name, parameter in module.named_parameters(prefix) if not is_finite(parameter)]
