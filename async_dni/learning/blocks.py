"""A network's blocks: the children of an `nn.Sequential`. Cuts fall between them."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

M = TypeVar("M", bound=nn.Module)


def named_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every block with its name; one that stands in two places (`named_children` leaves it out) has two names."""
    return [(name, block) for name, block in model._modules.items() if block is not None]


def copy_of(module: M) -> M:
    """A copy on the CPU.

    Tensors that a layer has computed from its parameters and kept (`nn.utils.weight_norm` does) can't be copied with their
    history; they are copied without, as the layer computes them anew. Nor can a lazy layer's buffers; they are made anew.
    """
    memo: dict[int, Any] = {}
    for layer in module.modules():
        for value in vars(layer).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        for buffer in layer._buffers.values():
            if isinstance(buffer, UninitializedBuffer):
                memo[id(buffer)] = UninitializedBuffer(dtype=buffer.dtype)  # type: ignore[call-arg]
    copied: M = copy.deepcopy(module, memo).cpu()
    return copied
