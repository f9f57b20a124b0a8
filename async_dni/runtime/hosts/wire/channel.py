"""One way of messages to a peer: a ring of buffers, each of which the receiver has posted before it is filled."""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue

from torch import Tensor

from .transport import LostError, Pending, Transport


class Receiving:
    """The receiving end. Message n comes into buffer n modulo their number; whoever frees a buffer posts it again.

    One thread posts, one waits.
    """

    def __init__(self, transport: Transport, peer: int, tag: int, buffers: Sequence[Tensor]) -> None:
        self.buffers, self._transport, self._peer, self._tag = buffers, transport, peer, tag
        self._posted: SimpleQueue[Pending | None] = SimpleQueue()
        self.posted = self.received = 0  # so far

    def post(self) -> None:
        """The next buffer is free."""
        place = self.posted % len(self.buffers)
        self._posted.put(self._transport.receive(self.buffers[place], self._peer, self._tag + place))
        self.posted += 1

    def wait(self) -> Tensor:
        """Sleep until the next message is there; its buffer. Raises `LostError`, also where the channel is closed."""
        if (next_one := self._posted.get()) is None:
            raise LostError("is not listened to any more")
        next_one.wait()
        self.received += 1
        return self.buffers[(self.received - 1) % len(self.buffers)]

    def close(self) -> None:
        """Wake whoever waits for a buffer to be posted."""
        self._posted.put(None)


class Sending:
    """The sending end, with as many places as the receiving one has buffers."""

    def __init__(self, transport: Transport, peer: int, tag: int, places: int) -> None:
        self._transport, self._peer, self._tag = transport, peer, tag
        self._begun: list[Pending | None] = [None] * places
        self.sent = 0

    @property
    def place(self) -> int:
        """Which of the places the next message has."""
        return self.sent % len(self._begun)

    def wait_for_place(self) -> None:
        """Sleep until what was sent a ring before is on its way, so that its memory can be written."""
        if (before := self._begun[self.place]) is not None:
            before.wait()
            self._begun[self.place] = None

    def flush(self) -> None:
        """Sleep until all that was sent is on its way."""
        for begun in filter(None, self._begun):
            begun.wait()
        self._begun = [None] * len(self._begun)

    def send(self, data: Tensor) -> None:
        """Begin to send; `data` must stay as it is for a ring."""
        self.wait_for_place()
        self._begun[self.place] = self._transport.send(data, self._peer, self._tag + self.place)
        self.sent += 1
