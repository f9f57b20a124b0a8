"""Cuts of all stages, put together as they come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ...record.schedule import CutKind
from ..events import Cut, from_bytes


class Gathered(ABC):
    """Who takes the stages' parts of cuts. `newest`: of the full ones that came whole, or that the run goes on from."""

    stages: int
    newest: int

    @abstractmethod
    def add(self, stage: int, cut: Cut) -> None:
        """A stage has sent its part of one."""


class WholeCuts(Gathered):
    """Hands a cut on when every stage has sent its own: `on_cut(step, the stages' states, how much they hold, whether it is the
    final one)`."""

    def __init__(
        self, stages: int, start: int, on_cut: Callable[[int, list[dict[str, Any]], CutKind, bool], None]
    ) -> None:
        self.stages, self.newest = stages, start
        self._on_cut = on_cut
        self._open: dict[tuple[int, CutKind, bool], dict[int, bytes]] = {}

    def add(self, stage: int, cut: Cut) -> None:
        key = cut.step, cut.kind, cut.is_final
        states = self._open.setdefault(key, {})
        states[stage] = cut.state
        if len(states) < self.stages:
            return
        del self._open[key]
        self.newest = cut.step if cut.kind is CutKind.FULL else self.newest
        self._on_cut(cut.step, [from_bytes(states[k]) for k in range(self.stages)], cut.kind, cut.is_final)
