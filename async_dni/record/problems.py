"""What a run survives: a file that can't be written, an evaluation that fails. Told once each, and kept for its end."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..foundation.error import reason


class Problems:
    """What could not be done, by what it was. What is done later after all (`left` says) is no problem any more."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._told = tell, set[str]()
        self._left: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def left(self) -> list[str]:
        """A sentence for each that has not been done since."""
        with self._lock:
            return list(self._left.values())

    @contextmanager
    def of_writing(self, path: Path) -> Iterator[None]:
        """Go on where `path` can't be written inside: the disk is full, say, or the directory has gone."""
        try:
            yield
        except OSError as error:
            self.add(str(path), f"{path} can't be written ({error.strerror or error})")
        else:
            self.solved(str(path))

    @contextmanager
    def of_evaluation(self, step: int, what: str = "evaluation") -> Iterator[None]:
        """Go on where the evaluation inside, or `what` else it is, fails."""
        try:
            yield
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}, line {frame.lineno}"
            self.add(what, f"the {what} after step {step} failed ({reason(error)}, in {where})")
        else:
            self.solved(what)

    def add(self, what: str, sentence: str) -> None:
        """Something could not be done; `what` it was is told at its first time."""
        with self._lock:
            self._left[what] = sentence
            is_new = what not in self._told
            self._told.add(what)
        if is_new:
            self._tell(sentence)

    def solved(self, what: str) -> None:
        """It could be done after all."""
        with self._lock:
            self._left.pop(what, None)
