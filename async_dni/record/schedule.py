"""When a run's state is cut: for an evaluation, or for a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """From which batch to which is trained, and after which ones the network is cut: the same in every stage."""

    start: int  # batches that were trained on before
    steps: int  # of the whole stream
    eval_every: int  # steps between cuts of the layers, 0: at the end only
    checkpoint_every: int  # steps between full cuts, 0: at the end only

    def cut_after(self, step: int) -> bool | None:
        """None: no cut is due after `step` batches; else whether it is a full one. The final cut is not asked for here."""
        is_full = _is_multiple(step, self.checkpoint_every)
        is_due = self.start < step < self.steps and (is_full or _is_multiple(step, self.eval_every))
        return is_full if is_due else None


def _is_multiple(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
