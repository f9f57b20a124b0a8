"""What moves bytes between hosts: one interface, so that another engine can take gloo's place."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

SLACK = 1.0  # seconds in which who waits for a transport that was closed wakes; a message cut off midway may hold one for ever


class LostError(Exception):
    """A peer can't be reached any more; its text follows the peer's name."""


class Pending(ABC):
    """Something that was begun, and is done at some time."""

    @abstractmethod
    def wait(self) -> None:
        """Sleep until it is done. Raises `LostError` where it will not be."""


class Transport(ABC):
    """Sends and receives tensors of bytes, in host memory. Any thread may call it.

    What is sent goes on its way when the peer has said where it is to be received: so nobody's memory fills with what is not
    expected, and messages with other tags pass by. Of one tag, the first sent is the first received. A message may be
    shorter than what it is received into.
    """

    rank: int
    size: int

    @abstractmethod
    def send(self, data: Tensor, to: int, tag: int) -> Pending:
        """Begin to send; `data` must stay as it is until that is done. Raises `LostError`."""

    @abstractmethod
    def receive(self, into: Tensor, of: int, tag: int) -> Pending:
        """Say where the next message with this tag is to be put. Raises `LostError`."""

    @abstractmethod
    def close(self) -> None:
        """Send and receive no more; whoever waits is woken by a `LostError`."""
