import os

import pytest
import torch

from async_dni import ConfigError
from async_dni.runtime.machine.device import assign_cores, assign_devices, available_cores


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
