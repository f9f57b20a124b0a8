"""Hosts in one process: a transport whose messages come over when a seed says so."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict, deque

from torch import Tensor

from async_dni.runtime.hosts.wire.transport import LostError, Pending, Transport

Key = tuple[int, int, int]  # from, to, tag


class Begun(Pending):
    """Done when it is set."""

    def __init__(self, data: Tensor, network: Network, ranks: tuple[int, int]) -> None:
        self.data, self.network, self.ranks = data, network, ranks
        self.is_done = threading.Event()
        self.is_lost = False

    def wait(self) -> None:
        self.is_done.wait()
        if self.is_lost:
            raise LostError("has gone")


class Network:
    """Takes a message over only where a receive was posted for it; which of those that could go goes next is chance."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.messages = size, 0
        self.most_unreceived = 0  # messages that were sent, and had no receive posted, at any time
        self._rng = random.Random(seed)
        self._sent: dict[Key, deque[Begun]] = defaultdict(deque)
        self._posted: dict[Key, deque[Begun]] = defaultdict(deque)
        self._gone: set[int] = set()
        self._lock, self._is_over = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._is_over = True
            self._lock.notify_all()
        self._thread.join()
        for rank in range(self.size):
            self.lose(rank)

    def begin(self, waiting: str, key: Key, data: Tensor) -> Begun:
        begun = Begun(data, self, (key[0], key[1]))
        with self._lock:
            if self._gone & {key[0], key[1]}:
                raise LostError("has gone")
            (self._sent if waiting == "sent" else self._posted)[key].append(begun)
            unreceived = sum(max(0, len(sent) - len(self._posted[key])) for key, sent in list(self._sent.items()))
            self.most_unreceived = max(self.most_unreceived, unreceived)
            self._lock.notify_all()
        return begun

    def lose(self, rank: int) -> None:
        """A host is gone."""
        with self._lock:
            self._gone.add(rank)
            for queues in (self._sent, self._posted):
                for key, queue in queues.items():
                    while rank in key[:2] and queue:
                        queue[0].is_lost = True
                        queue.popleft().is_done.set()

    def _run(self) -> None:
        while True:
            with self._lock:
                ready = [key for key in self._sent if self._sent[key] and self._posted[key]]
                if self._is_over:
                    return
                if not ready:
                    self._lock.wait()
                    continue
                key = self._rng.choice(sorted(ready))
                sent, posted = self._sent[key].popleft(), self._posted[key].popleft()
            if self._rng.random() < 0.2:
                time.sleep(self._rng.random() * 0.002)
            posted.data[: len(sent.data)].copy_(sent.data)  # raises where it is longer
            self.messages += 1
            posted.is_done.set()
            sent.is_done.set()


class LocalTransport(Transport):
    """A host's."""

    def __init__(self, network: Network, rank: int) -> None:
        self.network, self.rank, self.size = network, rank, network.size

    def send(self, data: Tensor, to: int, tag: int) -> Pending:
        return self.network.begin("sent", (self.rank, to, tag), data)

    def receive(self, into: Tensor, of: int, tag: int) -> Pending:
        return self.network.begin("posted", (of, self.rank, tag), into)

    def close(self) -> None:
        self.network.lose(self.rank)
