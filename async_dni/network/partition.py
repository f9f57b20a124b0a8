"""Cutting a network into stages: by hand, or balanced by cost."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from ..foundation.error import ConfigError, reason
from ..learning.blocks import named_blocks


def check_partition(model: nn.Module, workers: int, split: Sequence[int] | None) -> None:
    """Raise `ConfigError` unless a network has something to train, a block a worker, and `split` between its blocks."""
    if not isinstance(model, nn.Sequential):
        raise ConfigError("model", type(model).__name__, "allowed: an nn.Sequential, each child of which is a block")
    if workers > len(model):
        raise ConfigError("workers", workers, f"the network has {len(model)} blocks; allowed: 1 to {len(model)}")
    if split is not None and split[-1] >= len(model):
        last = len(model) - 1
        raise ConfigError(
            "split", ",".join(map(str, split)), f"the network has {len(model)} blocks; allowed: cuts from 1 to {last}"
        )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            block = name.split(".")[0]
            lazy = "it has lazy parameters; allowed: a network that a batch has gone through once"
            raise ConfigError("model", f"block {block!r}", lazy)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("model", "nothing to train", "allowed: at least one parameter that requires a gradient")


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


def block_outputs(model: nn.Sequential, x: Tensor) -> list[Tensor]:
    """An example of every block's output for x, `[batch, *features]`, in evaluation mode. Random numbers are left alone.

    Raises `ConfigError`, naming the block, where a block does not take what comes before it, and where its output is
    not one tensor of floats that has a row for each of x, and the same features for other rows and for fewer of them.
    """
    half = len(x) // 2
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = _outputs(model.eval(), x)
        for rows in (x[:half], x[half:]) if half else ():
            _outputs(model, rows, outputs)
    return outputs


def copied(model: nn.Sequential) -> nn.Sequential:
    """A copy on the CPU. Raises `ConfigError`, naming the block, where one can't be copied."""
    try:
        return copy.deepcopy(model).cpu()
    except Exception as error:
        allowed = f"a worker is another process, so every block must be picklable ({error})"
        raise ConfigError("model", f"block {_uncopied(model)!r}", allowed) from error


def _uncopied(model: nn.Sequential) -> str:
    for name, block in named_blocks(model):
        try:
            copy.deepcopy(block)
        except Exception:
            return name
    return "…"  # each by itself can be copied


def _outputs(model: nn.Sequential, x: Tensor, like: Sequence[Tensor] = ()) -> list[Tensor]:
    """Every block's output; where there are others, `like`, its features are to be the same."""
    x, rows, outputs = x.clone(), len(x), list[Tensor]()  # cloned: the first block may work in place
    for index, (name, block) in enumerate(named_blocks(model)):
        try:
            h = block(x)
        except Exception as error:
            took = f"it does not take what comes before it, {list(x.shape)} {x.dtype} ({reason(error)})"
            raise ConfigError("model", f"block {name!r}", took) from error
        if problem := _problem(h, rows, like[index] if like else None):
            raise ConfigError("model", f"block {name!r}", problem)
        outputs.append(h)
        x = h
    return outputs


def _problem(h: object, rows: int, like: Tensor | None) -> str | None:
    """What is wrong with a block's output for a batch of so many rows, and beside that for another batch."""
    if not isinstance(h, Tensor):
        return f"its output must be one tensor, not {type(h).__name__}"
    if h.shape[:1] != (rows,):
        return f"its output is {list(h.shape)} for {rows} samples; allowed: a row for each sample"
    if not h.numel():
        return f"its output is {list(h.shape)}; allowed: at least one feature"
    if like is not None and h.shape[1:] != like.shape[1:]:
        found = f"{list(like.shape)} for one batch and {list(h.shape)} for another"
        return f"its output is {found}; allowed: the same features, whatever a batch holds"
    return None if h.is_floating_point() else f"its output is {h.dtype}; allowed: a floating point type"
