"""Auxiliary heads: what a cut after each block would bring with it, for a method that wants them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ..config import TrainerConfig
from ..foundation.error import ConfigError, reason
from ..foundation.reference import load
from ..learning.auxiliary_head import AuxiliaryHead, SumOfHeads, is_known, positions_of
from ..learning.blocks import named_blocks
from ..learning.methods import METHODS
from ..learning.structure import one_or_all
from ..network.memory import check_fits
from ..network.trial import Trial, check_head, factory_name
from .boundaries import Made, has_channels_first, possible_cuts, weights_of
from .job import Job, OwnHead


def own_head(config: TrainerConfig, given: OwnHead | None) -> OwnHead | None:
    """A user's own, as it was given, or as the settings name it. Raises `ConfigError`."""
    if given is not None and config.auxiliary_head is not None:
        raise ConfigError("auxiliary_head", config.auxiliary_head, "a function is given, too; allowed: one of the two")
    if given is not None and not METHODS[config.method].auxiliary_head:
        raise ConfigError(
            "auxiliary_head", factory_name(given), f"{config.method} has no auxiliary heads; allowed: none"
        )
    if given is not None and config.auxiliary_hidden:
        allowed = "they are of the default heads, and a function is given; allowed: one of the two"
        raise ConfigError("auxiliary_hidden", config.auxiliary_hidden, allowed)
    return given if config.auxiliary_head is None else load("auxiliary_head", config.auxiliary_head)


def with_heads(job: Job, model: nn.Sequential, trial: Trial, made: Sequence[Made]) -> list[Made]:
    """What comes after each block, with the head that comes there where a cut may be. Raises `ConfigError`."""
    if not job.method.auxiliary_head:
        return list(made)
    cuts = possible_cuts(job, model)
    return [
        dataclasses.replace(each, auxiliary_head=_make(job, model, trial, block)) if block in cuts else each
        for block, each in enumerate(made)
    ]


def _make(job: Job, model: nn.Sequential, trial: Trial, block: int) -> nn.Module:
    name, output = named_blocks(model)[block][0], trial.outputs[block]
    heads: list[nn.Module | None] = []
    for place, (part, dim) in enumerate(output.carrying):
        if dim is None:
            heads.append(None)
            continue
        h = part.movedim(dim, 0)
        with weights_of(job, block, place):
            if job.auxiliary_head is None:
                head = _default(job, model, trial, block, h)
            else:
                head = _own(job.auxiliary_head, name, h, trial)
        heads.append(None if head is None else head.to(h.dtype))
    if not any(head is not None for head in heads):
        shapes = " and ".join(str(list(part.shape[1:])) for part, _ in output.carrying)
        found = f"no auxiliary head is known for its output {shapes} a sample, where the network's is"
        allowed = "allowed: one of your own (auxiliary_head), or no cut there (split)"
        raise ConfigError("model", f"block {name!r}", f"{found} {list(trial.outputs[-1].tensor.shape[1:])}; {allowed}")
    dims = [dim or 0 for _, dim in output.carrying]
    return heads[0] if heads[0] is not None and dims == [0] else SumOfHeads(heads, dims)


def _own(make: OwnHead, block: str, h: Tensor, trial: Trial) -> nn.Module:
    """A user's own for an output `[batch, *features]` of a block, which is looked at."""
    output = trial.outputs[-1].tensor
    try:
        head = make(tuple(h.shape[1:]), tuple(output.shape[1:]))
    except Exception as error:
        found = f"it can't be made of (features, output_features) ({reason(error)})"
        raise ConfigError("auxiliary_head", factory_name(make), found) from error
    if not isinstance(head, nn.Module):
        raise ConfigError(
            "auxiliary_head", factory_name(make), f"it gives {type(head).__name__}; allowed: an nn.Module"
        )
    head = head.to(h.dtype)
    check_head(head, block, h, output)
    return head


def _default(job: Job, model: nn.Sequential, trial: Trial, block: int, h: Tensor) -> nn.Module | None:
    """By the shapes of an output `[batch, *features]` of a block and of the network's; None where none is known."""
    output, target, hidden = trial.outputs[-1].tensor, trial.first.target, job.config.auxiliary_hidden
    channels_first = has_channels_first(model, block, h, target)
    classes_first = has_channels_first(model, len(model) - 1, output, target)
    features, outputs = tuple(h.shape[1:]), tuple(output.shape[1:])
    if not is_known(positions_of(features, channels_first), positions_of(outputs, classes_first)):
        return None
    make = partial(AuxiliaryHead, features, outputs, hidden, channels_first=channels_first, classes_first=classes_first)
    check_fits(make, "auxiliary_hidden", hidden, f"an auxiliary head for an output {list(features)}")
    return make()


def first_row(trial: Trial, block: int) -> object:
    """What a head after a block gets for the first sample."""
    carrying = trial.outputs[block].carrying
    return one_or_all([part if dim is None else part.narrow(dim, 0, 1) for part, dim in carrying])
