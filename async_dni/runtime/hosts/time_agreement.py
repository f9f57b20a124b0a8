"""How far clocks of machines are apart, asked as NTP asks."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...foundation.clock import Clock
from .wire.conversation import Message

QUESTIONS = 8


def agree_on_time(is_first: bool, size: int, send: Callable[..., None], answer: Callable[[str, int], Message]) -> Clock:
    """This host's, from the first one, which asks each of the others; of several answers, the fastest says the most.

    `answer(kind, peer)` waits for a message.
    """
    if not is_first:
        for _ in range(QUESTIONS):
            answer("what time is it", 0)
            send(0, "time", monotonic_ns=time.monotonic_ns(), seconds=time.time())
        told = answer("clock", 0).values
        return Clock(told["monotonic_ns"], told["seconds"])
    for peer in range(1, size):
        found = []
        for _ in range(QUESTIONS):
            asked, asked_at = time.monotonic_ns(), time.time()
            send(peer, "what time is it")
            told = answer("time", peer).values
            half = (time.monotonic_ns() - asked) // 2
            found.append((half, asked + half - told["monotonic_ns"], asked_at + half / 1e9 - told["seconds"]))
        _, monotonic_ns, seconds = min(found)
        send(peer, "clock", monotonic_ns=monotonic_ns, seconds=seconds)
    return Clock()
