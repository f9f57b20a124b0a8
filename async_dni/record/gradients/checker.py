"""A run's gradient checks: of the stages as they were after so many batches.

All is computed from copies, on the CPU, in float32 where the run has autocast, with layers and synthesizers in training mode.
The batch is the next of the stream, which none of the weights has been trained on; of data that is iterated, where that
would cost a pass, it is the first.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from ...data.batches import CHECKING, Batches
from ...data.stream import BatchStream
from ...learning.batch import Batch
from ...learning.blocks import copy_of
from ...learning.divergence import DivergenceError
from ...learning.pending import Pending
from ...learning.precision import matmul_precision
from ...learning.random_state import seeded
from ...learning.stage import Stage, StageSpec
from ...learning.structure import Gradient, all_of, one_or_all
from ..schedule import Schedule
from .check import GradientCheck, StageGradients
from .comparison import Comparison, compare, norm_of

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Gradients:
    """Those of every stage's output but the last's, by stage; of a mean over the batch."""

    true: list[Gradient]
    synthetic: list[Gradient]
    bootstrapped: list[Gradient]


class GradientChecker:
    """Checks the gradients of a run's stages, from states as cuts hold them. `first`: the stream's first batch."""

    def __init__(self, specs: Sequence[StageSpec], stream: Batches, schedule: Schedule, first: Batch) -> None:
        self._specs, self._schedule, self._first = specs, schedule, first
        self._stream = copy.copy(stream)
        self._stream.steps += 1  # the batch that would come after the last

    def is_due(self, step: int) -> bool:
        """Whether there is a check after `step` batches."""
        return self._schedule.checks_after(step)

    def check(self, step: int, wall_seconds: float, states: Sequence[Mapping[str, Any]]) -> GradientCheck:
        """With the stages in these states, after `step` batches. Raises `DataError` where the batch can't be loaded.

        Changes neither the states nor the process's random states.
        """
        batch = self._stream[step] if isinstance(self._stream, BatchStream) else self._first
        with seeded(self._stream.seed, CHECKING, step):
            try:
                stages = [stage_in(spec, state) for spec, state in zip(self._specs, states, strict=True)]
                gradients = find_gradients(stages, batch)
            except DivergenceError:  # of the weights, on this batch; a worker will tell where
                gradients = None
        found = tuple(_compared(spec, gradients) for spec in self._specs[:-1])
        return GradientCheck(step, step / self._stream.steps_per_epoch, wall_seconds, batch.index, found)


def _compared(spec: StageSpec, found: Gradients | None) -> StageGradients:
    """What there is to say of a stage's gradients; `found`: None where there are none."""
    k, nothing = spec.index, Comparison()
    if found is None:
        back = nothing if spec.method.gradients else None
        return StageGradients(k, None, nothing, back, back)
    true, synthetic, bootstrapped = found.true[k], found.synthetic[k], found.bootstrapped[k]
    own = StageGradients(k, norm_of(true), compare(synthetic, true, spec.dims))
    if not spec.method.gradients:
        return own
    back, regression = compare(bootstrapped, true, spec.dims), compare(synthetic, bootstrapped, spec.dims)
    return replace(own, bootstrapped=back, regression=regression)


def stage_in(spec: StageSpec, state: Mapping[str, Any]) -> Stage:
    """A stage of its own, on the CPU, with the layers and the method as `state` has them; its weights stay as they are."""
    given = {field.name: getattr(spec, field.name) for field in fields(spec)}
    models: dict[str, Any] = {name: copy_of(value) for name, value in given.items() if isinstance(value, nn.Module)}
    spec = replace(spec, **models, habits=replace(spec.habits, autocast=None, output_dtypes=None))
    method = spec.make_method(CPU, spec.habits.make_optimizer(spec.optimizer, spec.module))
    spec.module.load_state_dict(state["model"])
    method.load_state_dict(copy.deepcopy(state["method"]))  # it may keep what it is given
    return Stage(
        spec.module,
        None,
        method,
        is_first=spec.index == 0,
        is_last=spec.index == spec.num_stages - 1,
        precision=spec.matmul_precision,
        input_layout=spec.input_layout,
    )


def find_gradients(stages: Sequence[Stage], batch: Batch) -> Gradients:
    """Of a batch, by one forward pass. Raises `DivergenceError` where an output or the loss is not finite."""
    x, pending, answers = batch.x, [], []
    for stage in stages:
        x = stage.forward(Batch(batch.index, x, batch.target))
        pending.append(stage.pending.pop(batch.index))
        answers.append(stage.method.now(one_or_all([part.detach() for part in pending[-1].h]), batch.target))
    true, bootstrapped = [answers[-1]], list[Gradient]()
    for k in reversed(range(1, len(stages))):
        true.insert(0, backward(stages[k], pending[k], true[0]))
        is_last = k == len(stages) - 1
        bootstrapped.insert(0, true[0] if is_last else backward(stages[k], pending[k], answers[k]))
    return Gradients(true[:-1], answers[:-1], bootstrapped)


def backward(stage: Stage, pending: Pending, grad_output: Gradient) -> Gradient:
    """∂/∂x of a batch whose gradient is `grad_output`; no parameter gets any."""
    x = [part for part in pending.x or () if part.requires_grad]
    roots = [(part, one) for part, one in zip(pending.h, all_of(grad_output), strict=True) if part.requires_grad]
    if not roots:
        return one_or_all([torch.zeros_like(part) for part in x])
    outputs, gradients = zip(*roots, strict=True)
    with matmul_precision(stage.precision, CPU):
        found = torch.autograd.grad(outputs, x, gradients, retain_graph=True, allow_unused=True)
    return one_or_all([torch.zeros_like(part) if one is None else one for part, one in zip(x, found, strict=True)])
