"""A link joins the neighbouring stages of two hosts: the two halves of a long queue, each way.

      worker k ═► TensorQueue ─► link ~~~~ process group ~~~~► link ─► TensorQueue ═► worker k+1     activations
      worker k ◄═ TensorQueue ◄─ link ◄~~~ process group ~~~~  link ◄─ TensorQueue ◄═ worker k+1     gradients
          host h                                                         host h+1

A worker does not know: it puts into a queue, and takes from one, as ever. A message goes from a slot of the one ring into
the same slot of the other, with nothing between and nothing pickled. Its slot in the sender's ring is given back when the
consumer has given back its own, and that was told (*credit*): so the two halves together hold no more than one queue would,
and capacity, overflow, lag and exactly-once hold across hosts as within. A receive is posted for every slot that is free,
before anything can be sent to it, so a message is on its way at once, and neither direction waits for the other.

What is told (how many slots were given back; whether the consumer takes no more) goes through a channel of its own, and again
every so many seconds, so that the peer is not taken for dead. All threads sleep: one on a doorbell, which workers
ring, two in the transport.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...transport.doorbell import Doorbell
from ...transport.tensor_queue import SLOT_HEAD, TensorQueue
from .channel import Receiving, Sending
from .transport import SLACK, LostError, Transport

TOLD_PLACES = 64  # messages that tell what happened, under way at once
DATA, TOLD = 1 << 20, 1 << 21  # tags


@dataclass(frozen=True)
class LinkEnd:
    """What a link joins on this host: the queue that it takes from, and the one that it puts into."""

    out: TensorQueue | None  # a worker is its producer
    into: TensorQueue | None  # a worker is its consumer
    doorbell: Doorbell  # which these workers ring


def _pairs() -> tuple[list[Tensor], memoryview]:
    """Messages that tell two numbers, slots given back and whether no more are taken: their bytes, and all numbers in place."""
    whole = torch.zeros(TOLD_PLACES * 2, dtype=torch.int64)
    return list(whole.view(torch.uint8).view(TOLD_PLACES, 16)), memoryview(whole.numpy())  # type: ignore[arg-type]


class Link:
    """This host's end, to the neighbour `peer`, which hears something every `beat` seconds; a thread calls `on_lost(peer, why)`
    where that one is gone."""

    def __init__(
        self, transport: Transport, peer: int, end: LinkEnd, beat: float, on_lost: Callable[[int, str], None]
    ) -> None:
        self._out, self._into, self._doorbell = end.out, end.into, end.doorbell
        self._peer, self._beat, self._on_lost = peer, beat, on_lost
        self._is_over = self._is_closed = False
        self._slots = [] if self._out is None else self._out.slots
        # what there is of a slot that says "none comes"
        self._heads = [slot[:SLOT_HEAD] for slot in self._slots]
        self._data_out = Sending(transport, peer, DATA, max(1, len(self._slots)))
        self._data_in = Receiving(transport, peer, DATA, [] if self._into is None else self._into.slots)
        self._to_tell, self._tell_words = _pairs()
        self._told_out = Sending(transport, peer, TOLD, TOLD_PLACES)
        told, self._told_words = _pairs()
        self._told_in = Receiving(transport, peer, TOLD, told)
        self._last_told, self._told_at = (-1, False), 0.0
        self._threads: list[threading.Thread] = []

    def open(self) -> None:
        """Post what can be received, and begin."""
        for _ in range(TOLD_PLACES):
            self._told_in.post()
        self._post_free_slots()
        for work in (self._pass_on, self._receive, self._hear):
            thread = threading.Thread(target=self._guarded, args=(work,), name=f"link-{self._peer}", daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def heard(self) -> int:
        """What was told so far."""
        return self._told_in.received

    def end(self) -> None:
        """All that there was to pass on was: from now on, that the peer has gone is nothing to tell. It still hears something."""
        self._is_over = True

    def close(self) -> None:
        """When the transport is closed, too: wait for the threads, a while."""
        self._is_closed = True
        self._doorbell.ring()
        self._data_in.close()
        for thread in self._threads:
            thread.join(SLACK)
        self._doorbell.close()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except LostError as error:
            if not self._is_over:
                self._on_lost(self._peer, str(error))

    # What goes out.

    def _pass_on(self) -> None:
        """Send what workers have put, and tell what they have given back."""
        while not self._is_closed:
            while self._out is not None and (taken := self._out.take_slot()) is not None:
                number, used = taken
                place = number % len(self._slots)
                self._data_out.send(self._heads[place] if used == SLOT_HEAD else self._slots[place])
            self._post_free_slots()
            self._tell()
            self._doorbell.wait(self._beat)

    def _post_free_slots(self) -> None:
        """Before they are told to be free."""
        while self._into is not None and self._data_in.posted < self._into.released + len(self._data_in.buffers):
            self._data_in.post()

    def _state(self) -> tuple[int, bool]:
        return (0, False) if self._into is None else (self._into.released, self._into.is_closed)

    def _tell(self) -> None:
        state, now = self._state(), time.monotonic()
        if state == self._last_told and now - self._told_at < self._beat:
            return
        self._told_out.wait_for_place()
        place = self._told_out.place
        self._tell_words[2 * place], self._tell_words[2 * place + 1] = state
        self._told_out.send(self._to_tell[place])
        self._last_told, self._told_at = state, now

    # What comes in.

    def _receive(self) -> None:
        """Messages, each into its slot."""
        while self._into is not None:
            self._data_in.wait()
            self._into.commit()

    def _hear(self) -> None:
        """What the peer tells: slots that its worker has given back are the producer's again."""
        while True:
            place = self._told_in.received % TOLD_PLACES
            self._told_in.wait()
            released, is_closed = self._told_words[2 * place : 2 * place + 2]
            self._told_in.post()
            if self._out is None:
                continue
            while self._out.released < released:
                self._out.release()
            if is_closed:
                self._out.close()
