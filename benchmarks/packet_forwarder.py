"""Passes packets on between TUN devices, each after a delay, and no more of them than a bandwidth lets through."""

from __future__ import annotations

import ctypes
import heapq
import os
import select
import signal
import socket
import time
from contextlib import suppress

LARGEST = 1 << 16  # bytes of a packet
PR_SET_PDEATHSIG = 1


def forward(parent: str, net: str, delay_ms: str, rate_mbit: str, *devices: str) -> None:
    """For ever. Device number i is that of the host NET.i+1; `rate_mbit` "0": no limit. Ends with its parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return  # it has ended already
    Forwarder([int(device) for device in devices], net, float(delay_ms) / 2e3, float(rate_mbit) * 1e6 / 8).run()


class Forwarder:
    """One way takes `delay` seconds; `rate` in bytes a second, 0: no limit, is of each device, in and out."""

    def __init__(self, devices: list[int], net: str, delay: float, rate: float) -> None:
        self.devices, self.delay, self.rate = devices, delay, rate
        self._of = {socket.inet_aton(f"{net}.{host + 1}"): host for host in range(len(devices))}
        self._free_out, self._free_in = [0.0] * len(devices), [0.0] * len(devices)  # when each is free again
        self._most_waiting = max(0.2, 8 * delay)  # seconds of packets that wait to go out, or to come in; more are lost
        # when, in which order, to whom; whether it has come to the other's interface, and only has to go through that
        self._under_way: list[tuple[float, int, int, bool, bytes]] = []
        self._count = 0

    def run(self) -> None:
        """For ever."""
        while True:
            left = None if not self._under_way else max(0.0, self._under_way[0][0] - time.monotonic())
            ready = select.select(self.devices, [], [], left)[0]
            for device in ready:
                self._read(device)
            now = time.monotonic()
            while self._under_way and self._under_way[0][0] <= now:
                when, _, host, is_there, packet = heapq.heappop(self._under_way)
                if not is_there:
                    self._come(when, host, packet)
                    continue
                with suppress(OSError):  # its interface is down
                    os.write(self.devices[host], packet)

    def _read(self, device: int) -> None:
        source = self.devices.index(device)
        for _ in range(64):
            try:
                packet = os.read(device, LARGEST)
            except OSError:
                return
            target = self._of.get(packet[16:20]) if packet[0] >> 4 == 4 else None
            if target is not None:
                self._send(source, target, packet)

    def _send(self, source: int, target: int, packet: bytes) -> None:
        now = time.monotonic()
        takes = len(packet) / self.rate if self.rate else 0.0
        if self._free_out[source] - now > self._most_waiting:
            return
        self._free_out[source] = max(now, self._free_out[source]) + takes
        self._keep(self._free_out[source] + self.delay, target, self.rate == 0, packet)

    def _come(self, when: float, target: int, packet: bytes) -> None:
        """It is at the other's interface, which was busy with it while it went out, unless that was busy with another's."""
        if self._free_in[target] - when > self._most_waiting:
            return
        self._free_in[target] = max(when, self._free_in[target] + len(packet) / self.rate)
        self._keep(self._free_in[target], target, True, packet)

    def _keep(self, until: float, target: int, is_there: bool, packet: bytes) -> None:
        self._count += 1
        heapq.heappush(self._under_way, (until, self._count, target, is_there, packet))
