"""What each block of a network puts out, by an example."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..foundation.error import ConfigError, reason
from ..learning.blocks import copy_of, named_blocks
from ..learning.structure import Output, Structure, carries, form, layout_of, mapped, parts_of


def block_outputs(model: nn.Sequential, x: Structure) -> list[Output]:
    """Every block's output for x, `[batch, *features]`, in evaluation mode. Random numbers are left alone.

    Raises `ConfigError`, naming the block, where a block does not take what comes before it, and where its output is
    not tensors of which each has a row for each of x, in whichever dimension, or is the same for every batch; for other
    rows, and for fewer of them, it is to be alike. At least one has floats.
    """
    rows = len(parts_of(x)[0])
    half = rows // 2
    others = [(0, half), (half, rows)] if half else [(0, 2)]
    twice = x if half else mapped(lambda part: torch.cat((part, part)), x)
    batches = [mapped(lambda part, a=a, b=b: part[a:b], twice) for a, b in others]  # type: ignore[misc]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = _outputs(model.eval(), x)
        first, *rest = [_outputs(model, batch, outputs) for batch in batches]
    sizes = [b - a for a, b in others]
    found = [Output(h, _batch_dims(h, rows, other, sizes[0])) for h, other in zip(outputs, first, strict=True)]
    for (name, _), output, *alike in zip(named_blocks(model), found, first, *rest, strict=True):
        for other, size in zip(alike, sizes, strict=True):
            _check(name, output, rows, other, size)
    if not isinstance(outputs[-1], Tensor):
        last = named_blocks(model)[-1][0]
        raise ConfigError(
            "model", f"block {last!r}", f"its output, the network's, must be one tensor, not {form(outputs[-1])}"
        )
    return found


def materialized(model: nn.Sequential, x: Structure, seed: int) -> nn.Sequential:
    """The network itself; where it has lazy parameters, a copy that x has gone through once, initialized by the seed.

    Raises `ConfigError`, naming the block, where it does not take x.
    """
    if not any(is_lazy(each) for each in (*model.parameters(), *model.buffers())):
        return model
    copied = copied_whole(model)
    modes = {name: module.training for name, module in copied.named_modules()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _outputs(copied.eval(), x)
    for name, module in copied.named_modules():
        module.training = modes[name]
    return copied


def copied_whole(model: nn.Sequential) -> nn.Sequential:
    """A copy on the CPU. Raises `ConfigError`, naming the block, where one can't be copied."""
    try:
        return copy_of(model)
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


def _outputs(model: nn.Sequential, x: Structure, like: Sequence[Structure] = ()) -> list[Structure]:
    """Every block's output; where there are others, `like`, it is to be put together as they are."""
    outputs, rows = list[Structure](), len(parts_of(x)[0])
    x = mapped(Tensor.clone, x)  # a block may work in place
    for index, (name, block) in enumerate(named_blocks(model)):
        try:
            h = block(x)
        except Exception as error:
            took = f"it does not take what comes before it, {form(x)} ({reason(error)})"
            raise ConfigError("model", f"block {name!r}", took) from error
        if problem := _problem(h, rows, like[index] if like else None):
            raise ConfigError("model", f"block {name!r}", problem)
        outputs.append(h)
        x = mapped(Tensor.clone, h)
    return outputs


def _problem(h: Structure, rows: int, like: Structure | None) -> str | None:
    """What is wrong with a block's output for a batch of so many rows, and beside that for another batch."""
    if isinstance(h, Tensor) and h.shape[:1] != (rows,):
        return f"its output is {list(h.shape)} for {rows} samples; allowed: a row for each sample"
    parts = parts_of(h)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        return f"its output must be one tensor, or a tuple or dict of tensors, not {form(h)}"
    if not all(part.numel() for part in parts):
        return f"its output is {list(h.shape) if isinstance(h, Tensor) else form(h)}; allowed: at least one feature"
    if like is not None and layout_of(h) != layout_of(like):
        return f"its output is {form(like)} for one batch and {form(h)} for another; allowed: the same structure"
    if isinstance(h, Tensor) and isinstance(like, Tensor) and h.shape[1:] != like.shape[1:]:
        found = f"its output is {list(like.shape)} for one batch and {list(h.shape)} for another"
        return f"{found}; allowed: the same features, whatever a batch holds"
    if not any(carries(part) for part in parts):
        return f"its output is {form(h)}; allowed: a floating point type"
    return None


def _batch_dims(h: Structure, rows: int, other: Structure, size: int) -> tuple[int | None, ...]:
    """Which dimension of each part counts the samples: the one that is `rows` here and `size` there."""
    if isinstance(h, Tensor):
        return (0,)
    dims = []
    for part, beside in zip(parts_of(h), parts_of(other), strict=True):
        both = list(zip(part.shape, beside.shape, strict=False))
        dims.append(next((dim for dim, (a, b) in enumerate(both) if (a, b) == (rows, size)), None))
    return tuple(dims)


def _check(name: str, output: Output, rows: int, other: Structure, size: int) -> None:
    """Raise `ConfigError` unless another batch's output has the same shapes, but for the number of its samples."""
    for part, dim, beside in zip(output.parts, output.batch_dims, parts_of(other), strict=True):
        for shape, count in ((part.shape, rows), (beside.shape, size)):
            if dim is not None and (len(shape) <= dim or shape[dim] != count):
                found = f"its output is {list(shape)} for {count} samples"
                raise ConfigError("model", f"block {name!r}", f"{found}; allowed: a row for each sample")
        here, there = ([s for place, s in enumerate(shape) if place != dim] for shape in (part.shape, beside.shape))
        if here != there:
            found = f"{list(part.shape)} for one batch and {list(beside.shape)} for another"
            allowed = "allowed: the same features, whatever a batch holds"
            raise ConfigError("model", f"block {name!r}", f"its output is {found}; {allowed}")
