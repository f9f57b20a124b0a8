"""The emulated network that tests and benchmarks of several hosts run on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.emulated_network import EmulatedNetwork, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"no emulated network: {unavailable()}")

SERVE = """
import socket, sys
server = socket.create_server((sys.argv[1], 5000))
print("ready", flush=True)
connection, _ = server.accept()
while True:
    got = connection.recv(1 << 16)
    if not got:
        break
    connection.sendall(got)
"""
ASK = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 5000))
sent, took = bytes(range(256)) * int(sys.argv[2]), []
for _ in range(3):
    began, got = time.monotonic(), b""
    connection.sendall(sent)
    while len(got) < len(sent):
        got += connection.recv(1 << 16)
    assert got == sent
    took.append(time.monotonic() - began)
print(min(took))
"""


def seconds_there_and_back(network: EmulatedNetwork, pages: int) -> float:
    """The least of some echoes of so many times 256 bytes."""
    command = network.command(1, [sys.executable, "-c", SERVE, network.address(1)])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        ask = network.command(0, [sys.executable, "-c", ASK, network.address(1), str(pages)])
        return float(subprocess.run(ask, capture_output=True, text=True, check=True, timeout=60).stdout)


def test_bytes_come_whole_and_not_before_the_delay() -> None:
    with EmulatedNetwork(2) as network:
        assert seconds_there_and_back(network, 2000) > 0
    with EmulatedNetwork(2, delay_ms=30.0) as network:
        assert seconds_there_and_back(network, 1) >= 0.03


def test_no_more_comes_than_the_bandwidth_lets_through() -> None:
    with EmulatedNetwork(2, rate_mbit=20.0) as network:
        assert seconds_there_and_back(network, 2000) >= 512_000 * 8 / 20e6


KILLED = """
import os
from emulated_network import EmulatedNetwork
network = EmulatedNetwork(2, delay_ms=1)
network.__enter__()
print(network._forwarder.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_has_left_is_removed() -> None:
    path = Path(__file__).resolve().parents[1] / "benchmarks"
    with subprocess.Popen([sys.executable, "-c", KILLED], cwd=path, stdout=subprocess.PIPE, text=True) as killed:
        said, _ = killed.communicate()
    with EmulatedNetwork(1):
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert f"-{killed.pid}-" not in listed
    deadline = time.monotonic() + 30
    while psutil.pid_exists(int(said)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
