"""When a run's state is cut, and how much of it: for an evaluation, a gradient check, or a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class CutKind(Enum):
    """What a cut holds of each stage."""

    LAYERS = "layers"  # for an evaluation
    MODELS = "models"  # the layers and the method's state, such as a synthesizer's, for a gradient check
    FULL = "full"  # all that a run needs to go on from it: a checkpoint


@dataclass(frozen=True)
class Schedule:
    """From which batch to which is trained, and after which ones the network is cut: the same in every stage."""

    start: int  # batches that were trained on before
    steps: int  # of the whole stream
    eval_every: int  # steps between cuts of the layers, 0: at the end only
    checkpoint_every: int  # steps between full cuts, 0: at the end only
    check_every: int = 0  # steps between gradient checks, 0: none

    def cut_after(self, step: int) -> CutKind | None:
        """The cut that is due after `step` batches: one that does for all that is. The final cut is not asked for here."""
        if not self.start < step < self.steps:
            return None
        if _is_multiple(step, self.checkpoint_every):
            return CutKind.FULL
        if self.checks_after(step):
            return CutKind.MODELS
        return CutKind.LAYERS if _is_multiple(step, self.eval_every) else None

    def checks_after(self, step: int) -> bool:
        """Whether gradients are checked after `step` batches, on the next one; also where these are all."""
        return _is_multiple(step, self.check_every)


def _is_multiple(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
