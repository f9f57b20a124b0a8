"""What is looked at more closely of one stage, for some steps: spans, a profile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ...foundation.steps import Steps, read_profile
from ..run_dir import RunDir
from .profile import Profile
from .spans import Spans

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Traced:
    """What is asked for of a stage; picklable."""

    spans: Steps | None
    profile: Steps | None

    @classmethod
    def read(cls, trace_steps: str | None, profile: str | None, worker: int) -> Traced:
        """What the settings say of a stage."""
        stage, steps = (None, None) if profile is None else read_profile(profile)
        spans = None if trace_steps is None else Steps.read(trace_steps)
        return cls(spans, steps if stage == worker else None)

    def of(self, run_dir: RunDir | None, worker: int, queues: Callable[[], Mapping[str, int]]) -> Tracing | None:
        """For the worker itself; None where nothing is asked for, or there is no place to write it."""
        if run_dir is None or (self.spans is None and self.profile is None):
            return None
        spans = None if self.spans is None else Spans(self.spans, queues, run_dir.spans(worker))
        return Tracing(spans, None if self.profile is None else Profile(self.profile, run_dir.profile(worker)))


class Tracing:
    """Spans and profile of a stage, which end by themselves."""

    def __init__(self, spans: Spans | None, profile: Profile | None) -> None:
        self.spans, self._profile = spans, profile

    def before(self, step: int, pending: Iterable[int]) -> None:
        """Before each batch. `pending`: those whose gradients have not come yet, oldest first."""
        if self._profile is not None:
            with _told():
                self._profile.before(step)
        spans = self.spans
        if spans is not None and spans.is_on and step >= spans.steps.last:
            oldest = next(iter(pending), step)
            if oldest >= spans.steps.last:
                with _told():
                    spans.end()

    def end(self) -> None:
        """The stream has ended."""
        with _told():
            if self.spans is not None:
                self.spans.end()
        with _told():
            if self._profile is not None:
                self._profile.end()


@contextmanager
def _told() -> Iterator[None]:
    """A file that can't be written is told in the log, and ends nothing."""
    try:
        yield
    except OSError as error:
        log.warning("what was traced can't be written (%s)", error.strerror or error)
