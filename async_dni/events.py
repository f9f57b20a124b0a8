"""What a worker tells its supervisor, through its event pipe: frozen dataclasses, pickled; a few a second at most."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import torch


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
    """The stage's state after `step` batches: `torch.save`'s bytes of a dict.

    A full one is all that the stage needs to go on; another holds the layers only, under "model".
    """

    step: int
    is_full: bool
    is_final: bool
    state: bytes


@dataclass(frozen=True)
class Finished:
    """The worker came to the end of the stream; its totals."""

    totals: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The worker raised."""

    error: str  # the last line of the traceback
    traceback: str


def to_bytes(state: dict[str, Any]) -> bytes:
    """`torch.save`'s bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_bytes(state: bytes) -> dict[str, Any]:
    """What `to_bytes` made bytes of, on the CPU."""
    return torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
