"""A stage's cuts: made when they are due, sent when they are whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...learning.random_state import RandomState
from ...learning.stage import Stage
from ...learning.structure import Gradient
from ...record.schedule import CutKind
from ...record.telemetry import Telemetry
from ..events import Cut, to_bytes
from ..guard import Guard
from ..worker_spec import WorkerSpec
from .open_cut import OpenCut


class Cuts:
    """Those that were made and not sent yet, and which ones are due."""

    def __init__(
        self, spec: WorkerSpec, stage: Stage, telemetry: Telemetry, guard: Guard, send_event: Callable[[object], None]
    ) -> None:
        self.spec, self.stage, self.telemetry, self.guard = spec, stage, telemetry, guard
        self.send_event = send_event
        self.open: list[OpenCut] = []
        self.last = max(spec.schedule.start, spec.last_cut)  # batches up to which cuts were made

    def due(self, step: int) -> Iterator[tuple[int, CutKind]]:
        """The cuts that are due up to `step` batches: after how many, and of which kind."""
        for cut in range(self.last + 1, step + 1):
            if (kind := self.spec.schedule.cut_after(cut)) is not None:
                yield cut, kind
        self.last = max(self.last, step)

    def make(self, step: int, kind: CutKind, is_final: bool, arrived: Mapping[int, Gradient | None]) -> None:
        """Copy the stage's state after `step` batches; `arrived`: the gradients that it has, and has not learnt from."""
        self.telemetry.enter("snapshot")
        self.guard.check_weights()
        # with a fixed lag, no earlier than its own next batch needs them, the next stage makes those that it sends later
        # again when a run goes on from the cut
        again = self.spec.lag is not None and self.stage.next_defers
        cut = OpenCut(step, kind, is_final, self._state(kind), waits=not again)
        for index, gradient in arrived.items():
            cut.add(index, gradient)
        self.open.append(cut)
        self.send_whole()

    def _state(self, kind: CutKind) -> dict[str, Any]:
        if kind is CutKind.FULL:
            return {**self.stage.state_dict(), "rng": RandomState.capture().as_dict(), "gradients": {}}
        return state_of(self.stage, kind)

    def add(self, index: int, gradient: Gradient | None) -> None:
        """A gradient came, which may be missing in some of them."""
        for cut in self.open:
            cut.add(index, gradient)

    def send_whole(self) -> None:
        """Send those that miss nothing any more, in their order."""
        while self.open and not self.open[0].missing:
            self.telemetry.enter("snapshot")
            cut = self.open.pop(0)
            self.send_event(Cut(cut.step, cut.kind, cut.is_final, to_bytes(cut.state)))


def state_of(stage: Stage, kind: CutKind) -> dict[str, Any]:
    """What a cut that is not full holds of a stage."""
    return {**stage.layers(), "method": stage.method.state_dict()} if kind is CutKind.MODELS else stage.layers()
