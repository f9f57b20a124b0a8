import json
import os
import threading

import pytest
import torch

from async_dni import ConfigError, Trainer, TrainerConfig, fcn
from async_dni.foundation.cores import available_cores
from async_dni.runtime import fork_server
from async_dni.runtime.fork_server import worker_context
from async_dni.runtime.machine import device
from async_dni.runtime.machine.device import assign_cores, assign_devices, omp_num_threads, threads_per_worker


@pytest.fixture
def cuda(monkeypatch):
    """Set how many CUDA devices there seem to be."""
    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("device_map", "devices", "workers", "expected"),
    [
        ("auto", 0, 3, ["cpu"] * 3),
        ("cpu", 0, 2, ["cpu"] * 2),
        ("cpu", 0, 1, ["cpu"]),
        ("cpu,cpu", 0, 2, ["cpu"] * 2),
        ("auto", 1, 2, ["cuda:0"] * 2),
        ("auto", 2, 3, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", 2, 3, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cpu", 2, 2, ["cpu"] * 2),
        ("cuda:1,cpu,cuda:1", 2, 3, ["cuda:1", "cpu", "cuda:1"]),
        ("cuda:0", 1, 1, ["cuda:0"]),
    ],
)
def test_every_worker_gets_a_device(device_map, devices, workers, expected, cuda):
    cuda(devices)
    assert assign_devices(device_map, workers) == expected


def test_processes_of_one_machine_share_its_devices(cuda):
    cuda(4)
    assert assign_devices("cuda", 2, others=2) == ["cuda:2", "cuda:3"]
    assert assign_devices("auto", 3, others=3) == ["cuda:3", "cuda:0", "cuda:1"]
    assert assign_devices("cpu", 2, others=2) == ["cpu"] * 2


@pytest.mark.parametrize(
    ("device_map", "devices", "workers"),
    [
        ("cuda", 0, 2),
        ("cuda:0", 0, 1),
        ("cuda:2,cpu", 2, 2),
        ("tpu", 0, 1),
        ("", 0, 1),
        ("cpu,,cpu", 0, 3),
        ("auto,cpu", 1, 2),
    ],
)
def test_a_device_that_is_not_here_is_refused_with_those_that_are(device_map, devices, workers, cuda):
    cuda(devices)
    with pytest.raises(ConfigError) as caught:
        assign_devices(device_map, workers)
    assert caught.value.setting == "device_map"
    here = ["auto", "cpu", *(f"cuda:{i}" for i in range(devices))]
    assert caught.value.allowed.endswith("available: " + ", ".join(here))


@pytest.mark.parametrize(("device_map", "workers"), [("cpu,cpu", 3), ("cpu,cpu,cpu", 2), ("cuda:0", 2)])
def test_a_list_must_have_a_device_for_each_worker(device_map, workers, cuda):
    cuda(1)
    with pytest.raises(ConfigError, match=f"{device_map.count(',') + 1} devices for {workers} workers"):
        assign_devices(device_map, workers)


def test_workers_have_cores_of_their_own_where_there_are_enough():
    assert assign_cores(3, 2, [0, 1, 2, 4, 5, 7]) == [(0, 1), (2, 4), (5, 7)]


@pytest.mark.parametrize(
    ("workers", "threads", "cores", "expected"),
    [
        (3, 1, [4, 6], [(4,), (6,), (4,)]),
        (2, 2, [1, 2, 3], [(1, 2), (1, 3)]),
        (2, 4, [5], [(5,), (5,)]),
    ],
)
def test_too_few_cores_are_shared_in_turn(workers, threads, cores, expected):
    assert assign_cores(workers, threads, cores) == expected


def test_available_cores_are_those_of_the_process():
    assert set(available_cores()) == os.sched_getaffinity(0)
    assert available_cores() == sorted(available_cores())


@pytest.mark.parametrize(
    ("text", "threads"),
    [
        ("3", 3),
        (" 2 ", 2),
        ("4,2", 4),
        ("4 , 2", 4),
        ("007", 7),
        ("99999", 1024),
        ("", None),
        ("0", None),
        ("-1", None),
        ("two", None),
        ("2.5", None),
        ("2 4", None),
        (",2", None),
        ("9" * 5000, None),
    ],
)
def test_openmps_threads_are_understood_as_openmp_does(text, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert omp_num_threads() == threads


@pytest.mark.parametrize(
    ("given", "omp", "expected"), [(None, None, 2), (None, "3", 3), (None, "nonsense", 2), (1, "3", 1), (5, None, 5)]
)
def test_threads_are_as_set_else_openmps_else_the_cores_shared_out(given, omp, expected, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if omp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    monkeypatch.setattr(device, "usable_cores", lambda: 7)
    assert threads_per_worker(TrainerConfig(workers=3, threads_per_worker=given), 3) == expected


@pytest.mark.parametrize(
    ("omp", "settings", "told"),
    [
        (None, {"workers": 3}, None),
        ("1", {"workers": 3}, None),
        ("2", {"workers": 1}, None),
        ("2", {"workers": 3, "threads_per_worker": 2}, None),
        ("2", {"workers": 3}, "3 workers of 2 threads (OMP_NUM_THREADS) share 2 cores, which can be many times slower"),
    ],
)
def test_more_threads_than_cores_by_the_environment_are_warned_of(omp, settings, told, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if omp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    monkeypatch.setattr(device, "usable_cores", lambda: 2)
    said = device.crowded(config := TrainerConfig(**settings), config.workers)
    assert said == told or said.startswith(told)


def test_what_the_fork_server_is_told_is_not_taken_for_the_users(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "usable_cores", lambda: 3)
    config, found = TrainerConfig(workers=3), []
    asking = threading.Thread(target=lambda: found.append(threads_per_worker(config, config.workers)))

    def started():
        asking.start()
        assert os.environ["OMP_NUM_THREADS"] == "2"

    monkeypatch.setattr(fork_server.forkserver, "ensure_running", started)
    worker_context(2)
    asking.join()
    assert found == [1]


def test_workers_have_openmps_threads(small_mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    Trainer(fcn(layers=2, width=8), workers=2, batch_size=10, run_dir=tmp_path / "run").fit(small_mnist[0], steps=2)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["used"]["threads_per_worker"] == 2
    assert " 2 threads" in (tmp_path / "run" / "workers" / "1.log").read_text()
