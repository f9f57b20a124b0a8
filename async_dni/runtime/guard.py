"""What a worker does about numbers that are not finite; and the snapshots that it may go back to."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from ..learning.batch import Batch
from ..learning.divergence import DivergenceError
from ..learning.random_state import RandomState
from ..learning.stage import Stage, to_device
from ..learning.structure import Gradient, Structure
from ..learning.updates.loss_scale import Float16OverflowError
from ..record.telemetry import Telemetry
from .worker_spec import WorkerSpec

log = logging.getLogger(__name__)


class Guard:
    """Makes a stage's steps, and does what `on_divergence` says where a number is not finite."""

    def __init__(self, spec: WorkerSpec, stage: Stage, telemetry: Telemetry) -> None:
        self.spec, self.stage, self.telemetry = spec, stage, telemetry
        self.last_snapshot = self.restored_at = -1

    def forward(self, batch: Batch) -> Structure:
        """The stage's output. One that is not finite goes on to the stages after, where an update is to be passed over:
        none of them makes one from it, and each has its message of every batch."""
        while True:
            try:
                return self.stage.forward(batch)
            except DivergenceError as error:
                if self.spec.on_divergence == "skip":
                    self.stage.check_weights()  # with those, every update would be passed over
                    log.warning("batch %d: %s", batch.index, error)
                    return self.stage.output
                self._restore(error)

    def update(self, learn: Callable[[], Gradient | None], index: int, updates: bool = True) -> Gradient | None:
        """Make an update, or learn from a gradient (`updates`: whether that is an update). Returns ∂/∂x, if there is one."""
        try:
            grad_input = learn()
        except DivergenceError as error:
            if self.spec.on_divergence == "skip" or isinstance(error, Float16OverflowError):
                log.warning("batch %d: %s: passed over", index, error)
            else:
                self._restore(error)
            self.telemetry.skipped()
            if not self.stage.gets_gradient(index) or self.stage.holds_input(index):
                self.stage.forget(index)
            return None
        if updates:
            self.telemetry.updated(self.stage.updater.made)
        return grad_input

    def _restore(self, error: DivergenceError) -> None:
        """Take up the last snapshot, where that is wanted; once, or it would be tried for ever."""
        if self.spec.on_divergence != "restore":
            raise error
        state, count = self.spec.snapshots.load(), self.spec.snapshots.count
        if state is None or count == self.restored_at:
            raise DivergenceError(f"{error}, again, after the last snapshot was restored") from error
        self.stage.load_trained_state(to_device(state, torch.device(self.spec.device)))
        self.restored_at = count
        log.warning("%s: restored from the snapshot after batch %d", error, self.spec.snapshots.step)

    def check_weights(self) -> None:
        """Before weights are kept: they are finite."""
        try:
            self.stage.check_weights()
        except DivergenceError as error:
            self._restore(error)

    def keep_snapshot(self, step: int) -> None:
        """Keep the stage's state in memory, for a worker that is started in this one's place."""
        if not self.spec.snapshot_every or step == self.last_snapshot:
            return
        if self.last_snapshot < 0 or step % self.spec.snapshot_every == 0:
            self.telemetry.enter("snapshot")
            self.check_weights()
            self.spec.snapshots.save(step, {**self.stage.trained_state(), "rng": RandomState.capture().as_dict()})
            self.last_snapshot = step
