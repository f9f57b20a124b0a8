"""Hosts on one Linux machine: network namespaces, joined by links of a chosen delay and bandwidth.

    with EmulatedNetwork(2, delay_ms=20, rate_mbit=1000) as network:
        subprocess.run(network.command(0, ["hostname", "-I"], core=0))

Without delay and rate, each has a veth pair onto a bridge. With them, each has a TUN device, and a process passes the packets on
(`packet_forwarder.py`). Needs root, `ip`, and a kernel that allows both.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

PREFIX, _numbers = "async-dni", itertools.count()
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 65000  # large packets, as Python passes them on
BUFFERS = {"tcp_rmem": "4096 1048576 67108864", "tcp_wmem": "4096 1048576 67108864"}


def unavailable(delayed: bool = True) -> str | None:
    """Why it can't be made on this machine, or None; `delayed`: with a delay, or a bandwidth."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no `ip`"
    name = f"{PREFIX}-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces can't be made ({made.stderr.strip()})"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return "there is no /dev/net/tun" if delayed and not os.path.exists("/dev/net/tun") else None


class EmulatedNetwork:
    """So many hosts. `delay_ms`: of a round trip; `rate_mbit`: of each host's interface, each way; None: as it comes."""

    def __init__(
        self, hosts: int, *, delay_ms: float = 0.0, rate_mbit: float | None = None, net: str = "10.77.0"
    ) -> None:
        self.hosts, self.delay_ms, self.rate_mbit, self._net = hosts, delay_ms, rate_mbit, net
        self._number = next(_numbers)  # of this process's networks
        self._forwarder: subprocess.Popen[bytes] | None = None

    @property
    def _is_delayed(self) -> bool:
        return bool(self.delay_ms) or self.rate_mbit is not None

    def _namespace(self, host: int | str) -> str:
        return f"{PREFIX}-{os.getpid()}-{self._number}-{host}"

    def address(self, host: int) -> str:
        """A host's, in the network."""
        return f"{self._net}.{host + 1}"

    def interface(self, host: int) -> str:
        """The name of a host's interface."""
        return "net0"

    def command(self, host: int, command: Sequence[str], core: int | None = None) -> list[str]:
        """What runs a command on a host, on one core of the machine where that is given."""
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        return ["ip", "netns", "exec", self._namespace(host), *pinned, *command]

    def down(self, host: int) -> None:
        """Cut a host off: nothing comes, nothing goes, and nobody is told."""
        _ip("-n", self._namespace(host), "link", "set", "net0", "down")

    def up(self, host: int) -> None:
        """It is there again."""
        _ip("-n", self._namespace(host), "link", "set", "net0", "up")

    def __enter__(self) -> EmulatedNetwork:
        _remove_left()
        try:
            for host in range(self.hosts):
                _ip("netns", "add", self._namespace(host))
                _ip("-n", self._namespace(host), "link", "set", "lo", "up")
            if self._is_delayed:
                self._connect_by_forwarder()
            else:
                self._connect_by_bridge()
            for host in range(self.hosts):
                namespace = self._namespace(host)
                _ip("-n", namespace, "address", "add", f"{self.address(host)}/24", "dev", "net0")
                _ip("-n", namespace, "link", "set", "net0", "up")
                for name, value in BUFFERS.items():
                    setting = ["sysctl", "-q", "-w", f"net.ipv4.{name}={value}"]
                    subprocess.run(self.command(host, setting), check=True)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect_by_bridge(self) -> None:
        bridge = self._namespace("bridge")
        _ip("netns", "add", bridge)
        _ip("-n", bridge, "link", "add", "joins", "type", "bridge")
        _ip("-n", bridge, "link", "set", "joins", "up")
        for host in range(self.hosts):
            ends = ["type", "veth", "peer", "name", "net0", "netns", self._namespace(host)]
            _ip("-n", bridge, "link", "add", f"to{host}", *ends)
            _ip("-n", bridge, "link", "set", f"to{host}", "master", "joins", "up")

    def _connect_by_forwarder(self) -> None:
        devices = []
        for host in range(self.hosts):
            name = f"ad{os.getpid()}n{self._number}h{host}"[-15:]
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            devices.append(device)
            fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
            _ip("link", "set", name, "netns", self._namespace(host), "name", "net0")
            _ip("-n", self._namespace(host), "link", "set", "net0", "mtu", str(MTU))
        rate = "0" if self.rate_mbit is None else str(self.rate_mbit)
        arguments = [str(os.getpid()), self._net, str(self.delay_ms), rate, *map(str, devices)]
        code = "import sys; from packet_forwarder import forward; forward(*sys.argv[1:])"
        self._forwarder = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            pass_fds=devices,
            cwd=Path(__file__).parent,
            stdout=subprocess.DEVNULL,  # whose reader would wait for its end, too
        )
        for device in devices:
            os.close(device)

    def close(self) -> None:
        """Remove all. Processes on the hosts are whose started them."""
        if self._forwarder is not None:
            self._forwarder.kill()
            self._forwarder.wait()
            self._forwarder = None
        for host in (*range(self.hosts), "bridge"):
            subprocess.run(["ip", "netns", "del", self._namespace(host)], capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _remove_left() -> None:
    """Namespaces of processes that were killed."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for name, pid in re.findall(rf"^({PREFIX}-(\d+)-\S+)", listed, re.MULTILINE):
        if not os.path.exists(f"/proc/{pid}"):
            with suppress(subprocess.CalledProcessError):
                subprocess.run(["ip", "netns", "del", name], check=True, capture_output=True)
