"""torch.distributed's gloo as a transport: TCP connections between every two hosts."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import psutil
from torch import Tensor
from torch._C._distributed_c10d import Store
from torch.distributed import ProcessGroupGloo

from ..machine.environment import environment
from .transport import FOREVER, LostError, Pending, Transport

INTERFACE = "GLOO_SOCKET_IFNAME"


class GlooTransport(Transport):
    """A process group of its own, beside those that a program may have. Raises `RuntimeError` where there comes none."""

    def __init__(self, store: Store, rank: int, size: int, address: str, seconds: float) -> None:
        self.rank, self.size = rank, size
        variables = {} if os.environ.get(INTERFACE) else {INTERFACE: interface_of(address)}
        with environment(**variables):
            self._group: Any = ProcessGroupGloo(store, rank, size, timedelta(seconds=seconds))

    def send(self, data: Tensor, to: int, tag: int) -> Pending:
        return _begun(self._group.send, data, to, tag)

    def receive(self, into: Tensor, of: int, tag: int) -> Pending:
        return _begun(self._group.recv, into, of, tag)

    def close(self) -> None:
        self._group.abort()


class _Work(Pending):
    def __init__(self, work: Any, data: Tensor) -> None:
        self._work, self._data = work, data

    def wait(self, seconds: float = FOREVER) -> None:
        try:
            self._work.wait(timedelta(seconds=seconds))
        except RuntimeError as error:
            raise LostError(_reason(str(error), seconds)) from error


def _begun(begin: Any, data: Tensor, peer: int, tag: int) -> Pending:
    try:
        return _Work(begin([data], peer, tag), data)
    except RuntimeError as error:
        raise LostError(_reason(str(error), 0.0)) from error


def _reason(said: str, seconds: float) -> str:
    """What gloo says, for a person."""
    if "imed out" in said or "timeout" in said.lower():
        return f"has said nothing for {seconds:g} seconds"
    return "has gone: its connection was closed"


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
