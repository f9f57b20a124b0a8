"""Messages between two hosts, of any size, each way, in order; and signs of life.

A message is a kind, values that JSON can say, and bytes. It goes in pieces, each of which shows that its sender is alive; those
of one message are together. Nothing is pickled: what comes can't do anything here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor

from .channel import Receiving, Sending
from .transport import SLACK, LostError, Transport

TAG = 1 << 22
PLACES = 4  # pieces under way
PIECE, HEAD = 1 << 18, 16  # bytes of one, and of what comes before it: its length, whether it is the last
BYE = "bye"  # the last message


@dataclass(frozen=True)
class Message:
    """Something that a host tells another."""

    kind: str
    values: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""

    def to_bytes(self) -> bytes:
        """For the way."""
        head = json.dumps([self.kind, self.values]).encode()
        return len(head).to_bytes(8, "little") + head + self.body

    @classmethod
    def of(cls, data: bytes) -> Message:
        """Of what `to_bytes` made."""
        end = 8 + int.from_bytes(data[:8], "little")
        kind, values = json.loads(data[8:end])
        return cls(kind, values, data[end:])


class Conversation:
    """With the host `peer`, which hears something every `beat` seconds. Threads call `on_message(peer, message)`, and, where it
    is gone, `on_lost(peer, why)`."""

    def __init__(
        self,
        transport: Transport,
        peer: int,
        beat: float,
        on_message: Callable[[int, Message], None],
        on_lost: Callable[[int, str], None],
    ) -> None:
        self._peer, self._beat, self._on_message, self._on_lost = peer, beat, on_message, on_lost
        self._to_send: SimpleQueue[Message | None] = SimpleQueue()  # None: a sign of life
        self._out = Sending(transport, peer, TAG, PLACES)
        self._out_buffers = torch.zeros(PLACES, HEAD + PIECE, dtype=torch.uint8)
        self._in = Receiving(transport, peer, TAG, list(torch.zeros(PLACES, HEAD + PIECE, dtype=torch.uint8)))
        self._said = self._understood = 0  # pieces, without signs of life
        self._is_over = False
        self._sender = threading.Thread(target=self._guarded, args=(self._send_all,), name=f"to-{peer}", daemon=True)
        self._receiver = threading.Thread(
            target=self._guarded, args=(self._receive_all,), name=f"of-{peer}", daemon=True
        )

    def open(self) -> None:
        """Begin."""
        for _ in range(PLACES):
            self._in.post()
        self._sender.start()
        self._receiver.start()

    @property
    def heard(self) -> int:
        """Pieces that came so far."""
        return self._in.received

    @property
    def passed(self) -> int:
        """Pieces of messages that went or came so far: grows while there is something to wait for."""
        return self._said + self._understood

    def set_beat(self, seconds: float) -> None:
        """From now on the peer hears something so often; and at once."""
        self._beat = seconds
        self._to_send.put(None)

    def send(self, kind: str, body: bytes = b"", **values: Any) -> None:
        """Tell something; returns at once. A handler of signals may call it, too."""
        self._to_send.put(Message(kind, values, body))

    def say_bye(self, seconds: float) -> None:
        """Nothing more will be sent; wait until all that was is on its way, or nothing passed for so many seconds."""
        self.send(BYE)
        self._wait_for(self._sender, seconds)

    def wait_for_bye(self, seconds: float) -> None:
        """Wait until the other has said so, or is lost, or nothing passed for so many seconds."""
        self._wait_for(self._receiver, seconds)

    def _wait_for(self, thread: threading.Thread, seconds: float) -> None:
        before = -1
        while thread.is_alive() and before != self.passed:
            before = self.passed
            thread.join(seconds)

    def end(self) -> None:
        """From now on, that the peer has gone is nothing to tell."""
        self._is_over = True

    def close(self) -> None:
        """When the transport is closed, too: wait for the threads, a while."""
        self.send(BYE)  # wakes the sender
        self._sender.join(SLACK)
        self._receiver.join(SLACK)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except LostError as error:
            if not self._is_over:
                self._on_lost(self._peer, str(error))

    def _send_all(self) -> None:
        while True:
            try:
                message = self._to_send.get(timeout=self._beat)
            except Empty:
                message = None
            if message is None:
                self._send_piece(memoryview(b""), False)
                continue
            left = memoryview(message.to_bytes())
            while left:
                self._send_piece(left[:PIECE], len(left) <= PIECE)
                self._said += 1
                left = left[PIECE:]
            if message.kind == BYE:
                return self._out.flush()

    def _send_piece(self, piece: memoryview, is_last: bool) -> None:
        self._out.wait_for_place()
        buffer: Tensor = self._out_buffers[self._out.place]
        buffer[:HEAD].view(torch.int64).copy_(torch.tensor([len(piece), int(is_last)]))
        if piece:
            buffer[HEAD : HEAD + len(piece)].numpy()[:] = piece
        self._out.send(buffer[: HEAD + len(piece)])

    def _receive_all(self) -> None:
        received = bytearray()
        while True:
            buffer = self._in.wait()
            size, is_last = buffer[:HEAD].view(torch.int64).tolist()
            received += buffer[HEAD : HEAD + size].numpy().tobytes()
            self._in.post()
            self._understood += size > 0
            if is_last:
                message, received = Message.of(bytes(received)), bytearray()
                self._on_message(self._peer, message)
                if message.kind == BYE:
                    return
