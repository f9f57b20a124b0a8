"""A network's blocks: the children of an `nn.Sequential`. Cuts fall between them."""

from __future__ import annotations

from torch import nn


def named_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every block with its name; one that stands in two places (`named_children` leaves it out) has two names."""
    return [(name, block) for name, block in model._modules.items() if block is not None]
