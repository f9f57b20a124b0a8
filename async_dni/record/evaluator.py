"""A run's evaluations: of the network as it was after so many batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data.batches import Batches
from ..learning.blocks import copy_of
from ..learning.methods import Loss
from .evaluate import Evaluation, score

MOST_SAMPLES = 1000  # a batch


class Evaluator:
    """Evaluates a network on a set, in batches no larger than those that it is trained on."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        dataset: Dataset,
        stream: Batches,
        metrics: Mapping[str, Any],
        check: Callable[[], None],  # raises where the run is to end at once
    ) -> None:
        self._model, self._loss_fn, self._dataset = copy_of(model), loss_fn, dataset
        self._metrics, self._check = metrics, check
        self._steps_per_epoch, self._batch_size = stream.steps_per_epoch, min(MOST_SAMPLES, stream.batch_size)
        self._seed = stream.seed

    def evaluate(self, step: int, wall_seconds: float, state: Mapping[str, Tensor]) -> Evaluation:
        """The network with this state, after `step` batches."""
        self._model.load_state_dict(state)
        found = score(
            self._model,
            self._dataset,
            self._loss_fn,
            self._metrics,
            batch_size=self._batch_size,
            seed=self._seed,
            before_batch=self._check,
        )
        epoch = step / self._steps_per_epoch
        return Evaluation(step, epoch, wall_seconds, found.error, found.loss, found.confusion, found.metrics)

    def is_of(self, state: Mapping[str, Tensor]) -> bool:
        """Whether the network that was evaluated last has this state."""
        last = self._model.state_dict()
        return last.keys() == state.keys() and all(torch.equal(last[name].cpu(), state[name].cpu()) for name in last)
