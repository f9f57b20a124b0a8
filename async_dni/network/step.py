"""One whole step of each stage before anything is started: optimizers and methods are tried with what they will have."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..foundation.error import ConfigError, reason
from ..learning.autocast import autocast, widened
from ..learning.batch import Batch
from ..learning.blocks import copy_of
from ..learning.stage import StageSpec
from ..learning.structure import Structure, carries, form, mapped, one_or_all, parts_of
from .trial import factory_name

ROWS = 2  # samples are enough, and batch norm needs two


def try_steps(stages: Sequence[StageSpec], first: Batch) -> None:
    """Train copies of the stages on a few samples, with gradients of zero. Raises `ConfigError`, naming the blocks.

    Random numbers are left alone.
    """
    x = mapped(lambda part: part[:ROWS], first.x)
    with torch.random.fork_rng(devices=[]):
        for stage in stages:
            x = _try_step(stage, x, first.target[:ROWS])


def _try_step(stage: StageSpec, x: Structure, target: Tensor) -> Structure:
    """A stage's output for x, detached, after a step of its optimizer."""
    module = copy_of(stage.module)
    blocks = f"block {stage.layers[0]}" if len(stage.layers) == 1 else f"blocks {stage.layers[0]} to {stage.layers[-1]}"
    try:
        with autocast(stage.habits.autocast, torch.device("cpu")):
            h = module(mapped(Tensor.clone, x))
        roots = [part for part in parts_of(h) if part.requires_grad]
        if roots:
            torch.autograd.backward(roots, [torch.zeros_like(part) for part in roots])
    except Exception as error:
        raise ConfigError("model", blocks, f"it can't be trained on {ROWS} samples ({reason(error)})") from error
    optimizer = None
    if any(parameter.requires_grad for parameter in module.parameters()):
        try:
            optimizer = stage.habits.make_optimizer(stage.optimizer, module)
            assert optimizer is not None
            optimizer.step()
        except Exception as error:
            found = f"it can't make a step with the parameters of {blocks} ({reason(error)})"
            allowed = "allowed: an optimizer whose step() needs nothing but their gradients, and takes all of them"
            raise ConfigError("optimizer", factory_name(stage.optimizer), f"{found}; {allowed}") from error
    h = mapped(Tensor.detach, h)
    if stage.index < stage.num_stages - 1 and stage.has_models:
        _try_method(stage, optimizer, h, target)
    return h


def _try_method(stage: StageSpec, optimizer: Optimizer | None, h: Structure, target: Tensor) -> None:
    """Raise `ConfigError` where a method can't be made, or answers with something else than a gradient."""
    name = stage.method.name
    models = {"synthesizer": stage.synthesizer, "auxiliary_head": stage.auxiliary_head}
    alone = replace(stage, **copy.deepcopy(models))  # type: ignore[arg-type]
    carrying = one_or_all([part for part in parts_of(h) if carries(part)])
    if stage.habits.autocast is not None:
        carrying = widened(carrying)  # as methods see it
    try:
        made = alone.make_method(torch.device("cpu"), optimizer)
        answer = made.now(carrying, target)
    except Exception as error:
        raise ConfigError("method", name, f"it can't be made, or answer ({reason(error)})") from error
    kept = None if stage.state is None else stage.state["method"]
    if made.model is not None and kept is not None:
        try:
            made.load_state_dict(copy.deepcopy(kept))
        except Exception as error:
            found = (
                f"the checkpoint's {made.model_name} of the stage that ends with block {stage.layers[-1]!r} is another"
            )
            raise ConfigError("method", name, f"{found} ({reason(error)}); allowed: the same as in its run") from error
    if answer is None and stage.method.waits:
        return
    if answer is None or form(answer) != form(carrying):
        found = f"it gives {form(answer)} for the gradient of an output {form(carrying)}"
        raise ConfigError("method", name, f"{found}; allowed: the same shape and type")
