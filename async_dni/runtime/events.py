"""What a worker tells its supervisor, through its event pipe: frozen dataclasses, pickled; a few a second at most.

In the pipe, each is 8 bytes that say how long it is, and the pickle.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ..record.schedule import CutKind
from .transport.state_file import read_state, write_state

_LENGTH = 8  # bytes


@dataclass(frozen=True)
class Ready:
    """The worker has built its stage and waits for the start."""

    pid: int


@dataclass(frozen=True)
class Recorded:
    """A record of `Telemetry`."""

    record: dict[str, Any]


@dataclass(frozen=True)
class Cut:
    """The stage's state after `step` batches: the bytes (`to_bytes`) of a dict, which holds what its kind says."""

    step: int
    kind: CutKind
    is_final: bool
    state: bytes


@dataclass(frozen=True)
class Finished:
    """The worker came to the end of the stream; its totals."""

    totals: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The worker raised."""

    error: str  # what and where, to follow "stage 1"
    traceback: str  # empty where it would tell nothing


def send_event(connection: Connection, event: object) -> None:
    """Send an event to the supervisor; waits while the pipe is full. Raises `BrokenPipeError` when it has gone."""
    message = pickle.dumps(event)
    for part in (len(message).to_bytes(_LENGTH, "little"), message):
        left = memoryview(part)
        while left:
            left = left[os.write(connection.fileno(), left) :]


class EventReceiver:
    """The supervisor's end of an event pipe. It never waits: a worker may be stopped half way through an event."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._received = connection, bytearray()
        os.set_blocking(connection.fileno(), False)

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._connection.closed

    def fileno(self) -> int:
        """For `multiprocessing.connection.wait`."""
        return self._connection.fileno()

    def close(self) -> None:
        """Receive no more."""
        self._connection.close()

    def receive(self) -> Iterator[object]:
        """The events that have come whole. Closes when the worker's end is closed; what is left of an event is dropped."""
        while not self.closed:
            try:
                chunk = os.read(self.fileno(), 1 << 20)
            except BlockingIOError:
                break
            self._received += chunk
            if not chunk:
                self.close()
        while len(self._received) >= _LENGTH:
            end = _LENGTH + int.from_bytes(self._received[:_LENGTH], "little")
            if len(self._received) < end:
                break
            message = bytes(self._received[_LENGTH:end])
            del self._received[:end]
            yield pickle.loads(message)


def to_bytes(state: dict[str, Any]) -> bytes:
    """For a `Cut`."""
    buffer = io.BytesIO()
    write_state(state, buffer)
    return buffer.getvalue()


def from_bytes(state: bytes) -> dict[str, Any]:
    """What `to_bytes` made bytes of, on the CPU."""
    return read_state(io.BytesIO(state))
