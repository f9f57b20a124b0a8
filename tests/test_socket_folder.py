"""The fork server's socket, wherever TMPDIR leads; and nothing is left of it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_descriptors import HERE, TRAINS

from async_dni import ConfigError
from async_dni.runtime.machine import socket_folder
from async_dni.runtime.machine.socket_folder import make_socket_folder


def train(temporary: Path, **settings: Any) -> tuple[subprocess.CompletedProcess[str], Path, int]:
    """A run with this TMPDIR: how it ended, where the fork server's socket was, and the server's process id."""
    command = [sys.executable, str(TRAINS), json.dumps({**settings, "tells": True})]
    ended = subprocess.run(command, capture_output=True, text=True, env={**HERE, "TMPDIR": str(temporary)})
    assert ended.stdout.startswith("trained\n"), ended
    address, pid = json.loads(ended.stdout.splitlines()[1])
    return ended, Path(address), pid


def wait_for_end(pid: int) -> None:
    try:
        psutil.Process(pid).wait(60)
    except psutil.NoSuchProcess:
        pass


@pytest.mark.parametrize("length", [75, 76])
def test_the_longest_path_that_a_socket_can_have_is_used_and_a_longer_one_no_obstacle(length: int) -> None:
    around = Path(tempfile.mkdtemp(dir="/tmp"))
    folder = around / ("x" * (length - len(str(around)) - 1))
    folder.mkdir(parents=True)
    try:
        ended, socket, _ = train(folder)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert (folder in socket.parents) == (length == 75)
        assert not socket.parent.exists(), "nothing is left"
        assert not list(folder.glob("pymp-*"))
    finally:
        shutil.rmtree(around)  # PyTorch leaves a folder there


def test_a_folder_that_is_not_there_is_no_obstacle_and_nothing_is_left_of_a_program_that_was_killed() -> None:
    ended, socket, server = train(Path("/nonexistent"), dies=True)
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, "")
    wait_for_end(server)
    assert not socket.parent.exists()


def test_nowhere_to_go_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config: Any = current_process()._config  # type: ignore[attr-defined]
    monkeypatch.setitem(config, "tempdir", None)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr(socket_folder, "_SHORT", ("/nonexistent/short",))
    monkeypatch.setattr(socket_folder, "_usual", list)
    with pytest.raises(
        ConfigError, match="TMPDIR: got /nowhere; a socket needs a folder that can be written, of at most 75"
    ):
        make_socket_folder()
    assert config["tempdir"] is None
