"""Cutting a network into stages: by hand, or balanced by cost."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from .config import ConfigError


def check_partition(model: nn.Module, workers: int, split: Sequence[int] | None) -> None:
    """Raise `ConfigError` unless the network has a block for each worker, and `split` falls between its blocks."""
    if not isinstance(model, nn.Sequential):
        raise ConfigError("model", type(model).__name__, "allowed: an nn.Sequential, each child of which is a block")
    if workers > len(model):
        raise ConfigError("workers", workers, f"the network has {len(model)} blocks; allowed: 1 to {len(model)}")
    if split is not None and split[-1] >= len(model):
        last = len(model) - 1
        raise ConfigError(
            "split", ",".join(map(str, split)), f"the network has {len(model)} blocks; allowed: cuts from 1 to {last}"
        )


def partition(model: nn.Sequential, split: Sequence[int]) -> list[nn.Sequential]:
    """The stages between the cuts; `split` holds the index of each stage's first block, but for the first stage.

    Blocks keep their names, so a stage's state dict is a part of the network's. The blocks are shared, not copied.
    """
    blocks = list(model.named_children())
    bounds = [0, *split, len(blocks)]
    return [nn.Sequential(OrderedDict(blocks[a:b])) for a, b in zip(bounds, bounds[1:], strict=False)]


def balance(costs: Sequence[float], cut_costs: Sequence[float], num_stages: int) -> list[int]:
    """The cuts whose costliest stage is cheapest.

    `costs[i]` is the cost of block i, `cut_costs[i]` what a cut after block i adds to the stage before it (its
    synthesizer). Returns the index of each stage's first block, but for the first stage.
    """

    @cache
    def best(first: int, stages: int) -> tuple[float, tuple[int, ...]]:
        if stages == 1:
            return sum(costs[first:]), ()
        options = []
        for cut in range(first + 1, len(costs) - stages + 2):
            rest, cuts = best(cut, stages - 1)
            options.append((max(sum(costs[first:cut]) + cut_costs[cut - 1], rest), (cut, *cuts)))
        return min(options)

    return list(best(0, num_stages)[1])


def block_outputs(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    """An example of every block's output, `[batch, *features]`; running statistics are left as they were.

    Raises `ConfigError`, naming the block, where a block does not take what comes before it.
    """
    model.eval()
    outputs = []
    with torch.no_grad():
        for name, block in model.named_children():
            try:
                x = block(x)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                reason = " ".join(str(error).split())
                took = f"it does not take what comes before it, {list(x.shape)} {x.dtype} ({reason})"
                raise ConfigError("model", f"block {name!r}", took) from None
            if not isinstance(x, Tensor):
                raise ConfigError("model", f"block {name!r}", f"its output must be one tensor, not {type(x).__name__}")
            outputs.append(x)
    model.train()
    return outputs
