"""Open files: a run that may have as many as it says it needs trains, one that may not is refused in a sentence."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing import get_sharing_strategy, set_sharing_strategy

from async_dni import ConfigError
from async_dni.runtime.fork_server import worker_context
from async_dni.runtime.machine.descriptors import A_WORKER, MOST_PASSED, check_descriptors, limit_raised

TRAINS = Path(__file__).with_name("trains.py")
HERE = {**os.environ, "PYTHONPATH": str(TRAINS.parents[1])}
NEED = re.compile(
    r"workers: got (\d+); they need (\d+) file descriptors, and (\d+) are all that this process may have; "
)


def train(limit: str, *runs: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Short runs, one after the other, under a limit on open files, as `ulimit` takes it."""
    settings = {"snapshot_every": 1, "checkpoint_every": 1, "width": 1024}  # queues have files of their own
    command = ["sh", "-c", f'ulimit {limit} && exec "$@"', "sh", sys.executable, str(TRAINS)]
    command += [json.dumps({**settings, **run}) for run in runs]
    return subprocess.run(command, capture_output=True, text=True, env=HERE)


@pytest.mark.parametrize("workers", [6])  # with more, what each needs counts
def test_what_a_run_says_it_needs_is_enough_and_one_less_is_refused(workers: int, tmp_path: Path) -> None:
    settings = {"workers": workers, "run_dir": str(tmp_path / "run")}
    refused = train("-n 36", settings)
    found = NEED.match(refused.stdout)
    assert found, refused
    assert (refused.returncode, refused.stderr, found[1], found[3]) == (2, "", str(workers), "36")
    assert not list(tmp_path.iterdir()), "nothing is made"
    needed = int(found[2])
    fewer = f"at most {workers - 1} workers, or " if workers > 1 else ""
    refused = train(f"-n {needed - 1}", settings)
    assert refused.stdout == f"{found[0].replace(' 36 ', f' {needed - 1} ')}allowed: {fewer}ulimit -n {needed}\n"
    trained = train(f"-Sn 36 && ulimit -Hn {needed}", settings)  # a soft limit is raised for the run
    assert (trained.returncode, trained.stdout, trained.stderr) == (0, "trained\n", "")


def test_the_tensors_of_a_data_set_are_counted() -> None:
    storages = [torch.zeros(1).untyped_storage() for _ in range(MOST_PASSED)]
    assert check_descriptors(2, storages) - check_descriptors(1, []) == A_WORKER + MOST_PASSED
    storages.append(torch.zeros(1).untyped_storage())
    with pytest.raises(
        ConfigError, match="train_set: got 201 tensors; stage 0 gets a file descriptor for each; allowed: "
    ):
        check_descriptors(2, storages)
    before = get_sharing_strategy()
    set_sharing_strategy("file_system")  # by name
    try:
        assert check_descriptors(2, storages) - check_descriptors(1, []) == A_WORKER
    finally:
        set_sharing_strategy(before)


def test_a_data_set_of_many_tensors_is_refused_and_one_of_fewer_trained_on() -> None:
    """More than a process can be given were multiprocessing's `ValueError: too many fds`."""
    ended = train("-n 1024", *({"data": "pairs", "samples": samples} for samples in (MOST_PASSED + 1, MOST_PASSED)))
    refused, trained = ended.stdout.splitlines()
    assert (refused[:25], trained) == ("train_set: got 201 tensor", "trained")
    assert (ended.returncode, ended.stderr) == (2, "")


def test_a_server_of_an_earlier_run_gets_the_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    worker_context()
    from multiprocessing import forkserver

    pid = forkserver._forkserver._forkserver_pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        with limit_raised(150):
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (150, before[1])
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_the_limit_is_left_where_another_run_has_raised_it_further() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        with limit_raised(300):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
            resource.setrlimit(resource.RLIMIT_NOFILE, (400, before[1]))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 400
        with limit_raised(300):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 400, "it suffices"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
