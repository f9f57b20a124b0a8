"""A file of JSON lines that may still grow, and may be damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .schema import fault

TAIL = 16_384  # bytes of the last lines


class JsonLines:
    """Reads on where it stopped. `kind_of` says which schema a line is of; a line that has another form is left out.

    With `tail`, of a long file the last lines only. `notes` say what was left out. A last line without its end may still be
    written, and is no fault until the run has ended.
    """

    def __init__(self, path: Path, kind_of: Callable[[dict[str, Any]], str], tail: bool = False) -> None:
        self.path, self._kind_of, self._tail = path, kind_of, tail
        self._unreadable: str | None = None
        self._from_the_beginning()

    def _from_the_beginning(self) -> None:
        self._rest, self._offset, self._line = b"", 0, 0
        self._faults: list[tuple[int, str]] = []

    def more(self) -> list[dict[str, Any]]:
        """The lines that have come since the last call."""
        try:
            if self.path.stat().st_size < self._offset:  # another file, in its place
                self._from_the_beginning()
            with self.path.open("rb") as file:
                if self._tail and not self._offset:
                    file.seek(max(0, self.path.stat().st_size - TAIL))
                    self._offset = file.tell() and file.tell() + len(file.readline())
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            self._unreadable = error.strerror or str(error)
            return []
        self._offset += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [value for line in lines if (value := self._parsed(line)) is not None]

    def _parsed(self, line: bytes) -> dict[str, Any] | None:
        self._line += 1
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("it is no object")
            wrong = fault(self._kind_of(value), value)
        except ValueError as error:  # of JSON, and of bytes that are no text
            wrong = str(error)
        if wrong is None:
            return value
        self._faults.append((self._line, wrong))
        return None

    def notes(self, has_ended: bool) -> list[str]:
        """A sentence for each kind of damage."""
        found = [] if self._unreadable is None else [f"{self.path.name} can't be read ({self._unreadable})"]
        if self._faults:
            number, wrong = self._faults[0]
            many = "one line is" if len(self._faults) == 1 else f"{len(self._faults)} lines are"
            found.append(f"{self.path.name}: {many} left out; line {number}: {wrong}")
        if has_ended and self._rest:
            found.append(f"{self.path.name}: its last line is cut off, and left out")
        return found
