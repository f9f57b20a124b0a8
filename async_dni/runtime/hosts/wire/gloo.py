"""torch.distributed's gloo as a transport: TCP connections between every two hosts."""

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psutil
import torch
from torch import Tensor
from torch._C._distributed_c10d import Store
from torch.distributed import ProcessGroupGloo

from ...machine.environment import variable
from .transport import LostError, Pending, Transport

INTERFACE = "GLOO_SOCKET_IFNAME"
FOREVER = timedelta(days=3650)
CLOSING = 1 << 23  # a tag that nothing is sent with
GONE = "has gone: its connection was closed"


class GlooTransport(Transport):
    """A process group of its own, beside those that a program may have. Raises `RuntimeError` where there comes none."""

    def __init__(self, store: Store, rank: int, size: int, address: str, seconds: float) -> None:
        self.rank, self.size = rank, size
        kind: Any = ProcessGroupGloo
        options = kind._Options()
        named = variable(INTERFACE) or interface_of(address)
        options._devices = [kind.create_device(interface=name) for name in named.split(",")]
        options._timeout = timedelta(seconds=seconds)
        self._contexts = len(options._devices)  # which have tags in turn
        self._group = kind(store, rank, size, options)

    def send(self, data: Tensor, to: int, tag: int) -> Pending:
        return self._begun("send", data, to, tag)

    def receive(self, into: Tensor, of: int, tag: int) -> Pending:
        return self._begun("recv", into, of, tag)

    def close(self) -> None:
        """gloo's `abort` leaves those asleep who wait; but where something was waited for in vain, it closes all connections of
        that context. For a host that has gone nothing can be waited. The store is given up, too."""
        for tag in range(CLOSING, CLOSING + self._contexts):
            for peer in set(range(self.size)) - {self.rank}:
                with suppress(LostError):
                    self._begun("recv", torch.zeros(1, dtype=torch.uint8), peer, tag).wait(timedelta(milliseconds=1))
        self._group = None

    def _begun(self, way: str, data: Tensor, peer: int, tag: int) -> _Work:
        if (group := self._group) is None:
            raise LostError(GONE)
        try:
            return _Work(getattr(group, way)([data], peer, tag), data)
        except RuntimeError as error:
            raise LostError(GONE) from error


class _Work(Pending):
    def __init__(self, work: Any, data: Tensor) -> None:
        self._work, self._data = work, data

    def wait(self, time: timedelta = FOREVER) -> None:
        try:
            self._work.wait(time)
        except RuntimeError as error:
            raise LostError(GONE) from error


def interface_of(address: str) -> str:
    """The network interface that leads to an address, which may be this machine's own."""
    local = local_address(address)
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.split("%")[0] == local for each in addresses):
            return name
    return next((name for name, each in psutil.net_if_stats().items() if "loopback" in each.flags), "lo")


def local_address(address: str) -> str:
    """This machine's address, as another at that address sees it. Raises `OSError` where there is no way to it."""
    family, kind, protocol, _, where = socket.getaddrinfo(address, 1, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(where)  # sends nothing
        return str(probe.getsockname()[0])
