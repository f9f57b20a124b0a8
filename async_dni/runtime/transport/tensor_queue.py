"""Bounded queues of tensors in shared memory, one producer and one consumer each.

A queue is a ring of `capacity` slots, allocated once, before any worker starts; of two, where the capacity is one, so
that the slot that is being filled is never that of the last message. Message number n lives in slot n mod slots. Two
counters say whose a slot is; each is written by one side only, so there is no lock to leave behind when a worker is
killed:

         released            taken (the consumer's own)     written
             │                       │                        │
    ─────────┼───────────────────────┼────────────────────────┼─────────────
      free   │  in the consumer's    │  waiting to be taken   │  free, up to released + capacity
             │  hands, in place      │                        │

The producer fills a slot, then raises `written`, then rings the consumer; the consumer works on the slot in place,
raises `released` when it is done with it, and rings the producer. Slots and the tensors in them start on 64-byte
boundaries (BLAS results may depend on alignment). Nothing is pickled or allocated for a message.

The counters are plain 8-byte stores, and the order "fill, then raise" is kept by x86-64 (total store order). A machine
with weaker ordering would need a barrier between the two.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .doorbell import Doorbell
from .shared_memory import SharedMemory, has_own_file

_LINE = 64  # bytes: a cache line, and the alignment of tensors
_WRITTEN, _RELEASED = 0, _LINE // 8  # positions of the counters, in words of 8 bytes, each in a cache line of its own
_CLOSED = _RELEASED + 1  # whether the consumer takes no more; written by it, too
_RING = 2 * _LINE  # where the slots begin
SLOT_HEAD = _LINE  # bytes of a slot before its tensors


@dataclass(frozen=True)
class TensorSpec:
    """Shape and type of the tensors in a queue, for at most `rows` samples."""

    rows: int
    shape: tuple[int, ...]  # of one sample
    dtype: torch.dtype
    dim: int | None = 0  # which dimension counts the samples; None: the tensor is the same for every batch

    @classmethod
    def like(cls, tensor: Tensor, rows: int, dim: int | None = 0) -> TensorSpec:
        """Of batches of up to `rows` samples like those of `tensor`, which is `[batch, ...]`, or counts them in `dim`."""
        shape = tuple(size for place, size in enumerate(tensor.shape) if place != dim)
        return cls(rows, shape, tensor.dtype, dim)

    def shape_of(self, rows: int) -> tuple[int, ...]:
        """That of a batch of so many samples."""
        return self.shape if self.dim is None else (*self.shape[: self.dim], rows, *self.shape[self.dim :])

    @property
    def numbers(self) -> int:
        """How many there are in a full batch."""
        return math.prod(self.shape_of(self.rows))

    @property
    def nbytes(self) -> int:
        """Bytes of a full batch, rounded up to whole cache lines."""
        return -(-self.numbers * self.dtype.itemsize // _LINE) * _LINE


@dataclass(frozen=True)
class Message:
    """A slot's content, in place: the tensors are views that hold until the slot is released."""

    index: int  # of the batch
    weight_version: int  # updates that the sender had made
    sent_at: float  # time.monotonic() of the process that put it, on its machine
    tensors: tuple[Tensor, ...]  # [rows, ...]; none at the end of a stream, or for a gradient that won't come


def queue_bytes(capacity: int, specs: Sequence[TensorSpec]) -> int:
    """Bytes of a queue."""
    # one line to spare: memory of threads, in tests, starts on 8-byte boundaries
    return _RING + _slots(capacity) * _bytes_of_a_slot(specs) + _LINE


def _slots(capacity: int) -> int:
    return max(2, capacity)


def _bytes_of_a_slot(specs: Sequence[TensorSpec]) -> int:
    return _LINE + sum(spec.nbytes for spec in specs)


class TensorQueue:
    """A ring of slots, each with one tensor for every spec; see the module's text for who owns which slot.

    `consumer` is rung when a message is written, `producer` when a slot is released. The object is passed to worker
    processes when they are started, and used by one of them as producer and by one as consumer.
    """

    def __init__(
        self, memory: SharedMemory, capacity: int, specs: Sequence[TensorSpec], producer: Doorbell, consumer: Doorbell
    ) -> None:
        self.capacity, self.specs, self._num_slots = capacity, tuple(specs), _slots(capacity)
        self._producer, self._consumer = producer, consumer
        self._slot_bytes = _bytes_of_a_slot(specs)
        self._memory = memory.RawArray(ctypes.c_byte, queue_bytes(capacity, specs))
        self._map()

    def _map(self) -> None:
        address = ctypes.addressof(self._memory)
        view = memoryview(self._memory).cast("B")[-address % _LINE :]
        self._view, self._words = view, view[: len(view) // 8 * 8].cast("q")
        self._taken = self._words[_RELEASED]
        self._slots = []
        for slot in range(self._num_slots):
            offset, tensors = _RING + slot * self._slot_bytes + _LINE, []
            for spec in self.specs:
                tensors.append(torch.frombuffer(view, dtype=spec.dtype, count=spec.numbers, offset=offset))
                offset += spec.nbytes
            self._slots.append(tensors)

    def _header(self, number: int) -> int:
        return (_RING + number % self._num_slots * self._slot_bytes) // 8

    # The producer's side.

    def has_room(self) -> bool:
        """Whether a message can be put, or would go nowhere."""
        return self.in_flight < self.capacity or self.is_closed

    @property
    def is_closed(self) -> bool:
        """Whether the consumer takes no more."""
        return bool(self._words[_CLOSED])

    @property
    def in_flight(self) -> int:
        """Messages put and not released."""
        return self._words[_WRITTEN] - self._words[_RELEASED]

    def put(self, index: int, weight_version: int, *tensors: Tensor) -> None:
        """Copy a batch of tensors into the next slot; without any, the message says that none come. Nothing, where the
        queue is closed.

        Raises `ValueError` where a tensor is not of its spec, and `BufferError` where there is no room.
        """
        if self.is_closed:
            return
        if not self.has_room():
            raise BufferError(f"a queue of {self.capacity} is full")
        written = self._words[_WRITTEN]
        rows = self._rows(tensors)
        for spec, slot, tensor in zip(
            self.specs, self._slots[written % self._num_slots], tensors, strict=bool(tensors)
        ):
            if tuple(tensor.shape) != spec.shape_of(rows) or tensor.dtype != spec.dtype or rows > spec.rows:
                expected = f"up to {spec.rows} rows of {list(spec.shape)} {spec.dtype}"
                raise ValueError(f"batch {index}: expected {expected}, got {list(tensor.shape)} {tensor.dtype}")
            slot[: tensor.numel()].view(tensor.shape).copy_(tensor)
        header = self._header(written)
        self._words[header] = index
        self._words[header + 1] = rows if tensors else -1
        self._words[header + 2] = weight_version
        self._words[header + 3] = time.monotonic_ns()
        self._words[_WRITTEN] = written + 1
        self._consumer.ring()

    def _rows(self, tensors: Sequence[Tensor]) -> int:
        """How many samples there are in a batch."""
        for spec, tensor in zip(self.specs, tensors, strict=False):
            if spec.dim is not None:
                return tensor.shape[spec.dim] if tensor.dim() > spec.dim else 0
        return 0

    @property
    def last_index(self) -> int | None:
        """The index of the last message put, by whichever producer; None where there was none."""
        written = self._words[_WRITTEN]
        return self._words[self._header(written - 1)] if written else None

    # Of links between hosts, which move whole slots: such a queue is the sending, or the receiving, half of a long one.

    @property
    def slots(self) -> list[Tensor]:
        """The slots as bytes, in place; message n is, or will be, in number n modulo their number."""
        starts = [_RING + slot * self._slot_bytes for slot in range(self._num_slots)]
        return [torch.frombuffer(self._view, dtype=torch.uint8, count=self._slot_bytes, offset=at) for at in starts]

    @property
    def released(self) -> int:
        """Slots given back so far."""
        return self._words[_RELEASED]

    def commit(self) -> None:
        """The next slot was filled from outside: the message is there."""
        self._words[_WRITTEN] += 1
        self._consumer.ring()

    def take_slot(self) -> tuple[int, int] | None:
        """The oldest message that was not taken yet: its number, and how many bytes of its slot say something."""
        number = self._taken
        if self._words[_WRITTEN] == number:
            return None
        self._taken += 1
        return number, self._slot_bytes if self._words[self._header(number) + 1] >= 0 else _LINE

    # The consumer's side.

    def __len__(self) -> int:
        """Messages that wait to be taken (the consumer's count; the producer sees those not released)."""
        return self._words[_WRITTEN] - max(self._taken, self._words[_RELEASED])

    def take(self) -> Message | None:
        """The oldest message that was not taken yet, in place, or None."""
        number = self._taken
        if self._words[_WRITTEN] == number:
            return None
        index, rows, weight_version, sent_ns = self._words[(header := self._header(number)) : header + 4]
        self._taken += 1
        slot = self._slots[number % self._num_slots] if rows >= 0 else ()
        tensors = (
            flat[: math.prod(shape := spec.shape_of(rows))].view(shape)
            for spec, flat in zip(self.specs, slot, strict=bool(slot))
        )
        return Message(index, weight_version, sent_ns / 1e9, tuple(tensors))

    def release(self) -> None:
        """Give the oldest taken slot back to the producer."""
        released = self._words[_RELEASED]
        if released == self._taken:
            raise BufferError("no message is taken")
        self._words[_RELEASED] = released + 1
        self._producer.ring()

    def close(self) -> None:
        """Take no more: what is put goes nowhere, so that its producer, which may have more to put, waits for no room."""
        self._words[_CLOSED] = 1
        self._producer.ring()

    def pin_memory(self) -> None:
        """Page-lock the queue's memory for copies to and from a CUDA device, in this process.

        Pages are locked once, so a small queue, which shares them with others, is left as it is.
        """
        size = ctypes.sizeof(self._memory)
        if has_own_file(size):
            torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(ctypes.addressof(self._memory), size, 0))

    def __getstate__(self) -> dict[str, Any]:
        kept = ("capacity", "specs", "_num_slots", "_producer", "_consumer", "_slot_bytes", "_memory")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()
