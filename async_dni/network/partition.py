"""Cutting a network into stages: by hand, or balanced by cost."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache

from torch import nn

from ..foundation.error import ConfigError
from ..learning.blocks import named_blocks

NETWORKS = "an nn.Sequential, each child of which is a block; of another module, split_points name where it is cut"


def check_partition(model: nn.Module, workers: int, split: Sequence[int] | None) -> nn.Sequential:
    """The network. Raises `ConfigError` unless it has something to train, a block a worker, and `split` between its blocks."""
    if not isinstance(model, nn.Sequential):
        raise ConfigError("model", type(model).__name__, f"allowed: {NETWORKS}")
    if workers > len(model):
        raise ConfigError("workers", workers, f"the network has {len(model)} blocks; allowed: 1 to {len(model)}")
    if split is not None and split[-1] >= len(model):
        last = len(model) - 1
        raise ConfigError(
            "split", ",".join(map(str, split)), f"the network has {len(model)} blocks; allowed: cuts from 1 to {last}"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("model", "nothing to train", "allowed: at least one parameter that requires a gradient")
    return model


def partition(model: nn.Sequential, split: Sequence[int]) -> list[nn.Sequential]:
    """The stages between the cuts; `split` holds the index of each stage's first block, but for the first stage.

    Blocks keep their names, so a stage's state dict is a part of the network's. The blocks are shared, not copied.
    """
    blocks = named_blocks(model)
    bounds = [0, *split, len(blocks)]
    return [nn.Sequential(OrderedDict(blocks[a:b])) for a, b in zip(bounds, bounds[1:], strict=False)]


def check_shared(model: nn.Sequential, split: Sequence[int]) -> None:
    """Raise `ConfigError` where two stages would share a parameter: each has its own memory, so it would be two."""
    seen: dict[nn.Parameter, tuple[int, str]] = {}
    for k, stage in enumerate(partition(model, split)):
        for name, block in named_blocks(stage):
            for parameter in block.parameters():
                other, where = seen.setdefault(parameter, (k, name))
                if other != k:
                    shares = f"it shares a parameter with block {where!r}, which is in another stage"
                    raise ConfigError("model", f"block {name!r}", f"{shares}; allowed: both in one (split)")


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
