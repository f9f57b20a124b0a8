"""torch.profiler on some steps of one worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...foundation.steps import Steps


class Profile:
    """`before(step)` is called before each batch; what is found is in a file when the steps are over."""

    def __init__(self, steps: Steps, path: Path) -> None:
        self.steps, self._path = steps, path
        self._profiler: Any = None

    def before(self, step: int) -> None:
        """Begin, or end, where that is due."""
        if self._profiler is None and self.steps.first <= step < self.steps.last:
            kinds = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                kinds.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=kinds, record_shapes=True)
            self._profiler.start()
        elif self._profiler is not None and step >= self.steps.last:
            self.end()

    def end(self) -> None:
        """Write what was found so far, once."""
        if self._profiler is not None and self.steps.last >= 0:
            profiler, self._profiler, self.steps = self._profiler, None, Steps(-1, -1)
            profiler.stop()
            profiler.export_chrome_trace(str(self._path))
