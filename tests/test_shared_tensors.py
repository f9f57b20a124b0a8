"""A data set's tensors and /dev/shm: what does not fit is refused, what fits is trained on, and nothing gets SIGBUS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from async_dni import ConfigError
from async_dni.data.samples import check_picklable
from async_dni.runtime.transport import shared_tensors
from async_dni.runtime.transport.shared_tensors import check_room, share, storages_of

PAGE = 4096
TRAINS = Path(__file__).with_name("trains.py")


class Machine:
    """This one, with another /dev/shm, which only the programs that are run in it see."""

    def __init__(self, namespace: list[str]) -> None:
        self.namespace = namespace

    def run(self, size: int, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command where /dev/shm has so many bytes; prints last what is left there."""
        script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && "$@"; status=$?; ls -A /dev/shm; exit $status'
        here = {**os.environ, "PYTHONPATH": str(TRAINS.parents[1])}
        command = (*self.namespace, "sh", "-c", script, "sh", *command)
        return subprocess.run(command, capture_output=True, text=True, env=here)

    def train(self, size: int, *runs: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        return self.run(size, sys.executable, str(TRAINS), *map(json.dumps, runs))


@pytest.fixture(scope="session")
def machine() -> Machine:
    why = []
    for namespace in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        try:
            tried = Machine(namespace).run(PAGE, "true")
        except FileNotFoundError as error:
            pytest.skip(str(error))
        if tried.returncode == 0:
            return Machine(namespace)
        why.append(tried.stderr.strip())
    pytest.skip(f"no /dev/shm can be mounted here: {'; '.join(why)}")


# 1,000 samples of 1,024 numbers are 1,000 pages; their labels 2
DATA = {"samples": 1000, "features": 1024}


def test_data_that_just_fits_is_trained_on_and_more_refused_before_anything_is_made(
    machine: Machine, tmp_path: Path
) -> None:
    """The same program may go on with less."""
    ended = machine.train(1002 * PAGE, {**DATA, "samples": 1001, "run_dir": str(tmp_path / "run")}, DATA)
    sentence = (
        "train_set: got tensors of 4,108,288 bytes; PyTorch shares them with stage 0 through /dev/shm, where 4,104,192 are "
        "free; "
        "allowed: what fits; a container gets a larger one by --shm-size\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, f"{sentence}trained\n", "")
    assert not list(tmp_path.iterdir())


def test_a_shm_that_others_fill_meanwhile_is_an_error_and_no_sigbus(machine: Machine, tmp_path: Path) -> None:
    ended = machine.train(500 * PAGE, {**DATA, "seems_free": True, "run_dir": str(tmp_path / "run")})
    assert ended.returncode == 2, ended
    assert (tmp_path / "run" / "config.json").exists(), "it was seen late"
    assert ended.stdout.startswith(
        "train_set: got tensors of 4,104,192 bytes; PyTorch shares them with stage 0 through /dev/shm"
    )
    assert ended.stdout.count("\n") == 1, "nothing is left there, though PyTorch leaves its file"


def test_queues_and_data_without_tensors_take_none_of_it(machine: Machine) -> None:
    """Queues were files there too: those that did not fit came to lie on a disk, or ended the program with SIGBUS."""
    ended = machine.train(PAGE, {"data": "made", "width": 1024, "queue_capacity": 32})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "trained\n", "")


def test_storages_are_counted_once() -> None:
    rows = torch.randn(10, 3)
    found = storages_of([rows, rows[2:], rows.t(), torch.zeros(4), torch.zeros(0), torch.eye(2).to_sparse()])
    assert [storage.nbytes() for storage in found] == [120, 16]


def test_a_data_sets_tensors_are_found_wherever_they_are() -> None:
    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    found = check_picklable([(one, 0), {"two": two}, torch.utils.data.TensorDataset(three)], "train_set")
    assert {len(tensor) for tensor in found} == {1, 2, 3}


def test_what_is_shared_already_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, private = torch.ones(1000).share_memory_(), torch.ones(1000)
    monkeypatch.setattr(shared_tensors, "_free", lambda: PAGE)
    storages = storages_of([shared, private])
    check_room(storages, "train_set")
    with pytest.raises(ConfigError, match=r"got tensors of 8,192 bytes"):
        check_room([*storages, *storages_of([torch.ones(1)])], "train_set")
    share(storages, "train_set")
    assert private.is_shared()
    assert private.sum() == 1000
    monkeypatch.setattr(shared_tensors, "_free", lambda: 0)
    check_room(storages, "train_set")


def test_a_machine_without_dev_shm_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_tensors, "FOLDER", "/nonexistent")
    with pytest.raises(ConfigError, match=r"train_set: got tensors of 4,096 bytes; .* /nonexistent, where 0 are free"):
        check_room(storages_of([torch.ones(1)]), "train_set")
