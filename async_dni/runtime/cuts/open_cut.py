"""A cut of a stage that its worker has not sent yet."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from ...learning.structure import Gradient, mapped
from ...record.schedule import CutKind


class OpenCut:
    """A cut that was not sent yet.

    A full one waits for gradients: those of batches before the cut that were under way when it was made; but not (`waits`)
    for those that the next stage has still to make, by a cut of its own. Another only waits for the cuts before it: the
    supervisor knows by the newest that it received which ones a worker that died had still to send.
    """

    def __init__(self, step: int, kind: CutKind, is_final: bool, state: dict[str, Any], waits: bool = True) -> None:
        self.step, self.kind, self.is_final = step, kind, is_final
        self.state = copy.deepcopy(state)  # the stage goes on changing its weights while the cut waits
        self.missing = {pending["index"] for pending in state.get("pending", [])} if waits else set()

    def add(self, index: int, gradient: Gradient | None) -> None:
        """A gradient came; where it will not (None), its batch is nothing to go on with, unless there is one to send."""
        if index not in self.missing:
            return
        self.missing.discard(index)
        is_deferred = any(pending["index"] == index and "deferred" in pending for pending in self.state["pending"])
        if gradient is not None:
            self.state["gradients"][index] = mapped(Tensor.clone, gradient)
        elif is_deferred:
            self.state["gradients"][index] = None
        else:
            self.state["pending"] = [pending for pending in self.state["pending"] if pending["index"] != index]
