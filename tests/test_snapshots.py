"""Snapshots: the newest whole one is always there, whoever dies when; and nothing is left of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from async_dni.runtime.fork_server import worker_context
from async_dni.runtime.snapshots import Snapshots
from async_dni.runtime.transport.shared_memory import SharedMemory


def state_of(number: int, size: int = 1000) -> dict[str, Any]:
    """A state that no other number has."""
    weights = torch.full((size,), float(number))
    return {"model": {"0.weight": weights}, "optimizer": None, "weight_version": number, "rng": torch.get_rng_state()}


def assert_holds(snapshots: Snapshots, number: int, size: int = 1000) -> None:
    """The newest is that of this number, whole."""
    state = snapshots.load()
    assert state is not None
    assert snapshots.step == state["weight_version"] == number
    assert torch.equal(state["model"]["0.weight"], torch.full((size,), float(number)))


@pytest.fixture
def snapshots() -> Iterator[Snapshots]:
    made = Snapshots(SharedMemory())
    yield made
    made.close()


def in_another_process(target: Callable[..., None], *args: Any) -> int | None:
    """Run to the end; returns the exit status."""
    process = worker_context().Process(target=target, args=args, daemon=True)
    process.start()
    process.join()
    status = process.exitcode
    process.close()
    return status


# What other processes do.


def save(snapshots: Snapshots, numbers: list[int]) -> None:
    for number in numbers:
        snapshots.save(number, state_of(number))


def save_and_die(snapshots: Snapshots, numbers: list[int]) -> None:
    save(snapshots, numbers)
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_saving(snapshots: Snapshots, numbers: list[int], half: bytes) -> None:
    """Die when the first half of the next one is written."""
    save(snapshots, numbers)

    def write_half(state: Any, file: Any) -> None:
        file.write(half)
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = write_half
    snapshots.save(-1, state_of(-1))


def go_on(snapshots: Snapshots, number: int) -> None:
    """As a worker does that is started in another's place."""
    assert_holds(snapshots, number)
    save(snapshots, [number + 1])


# Tests.


def test_there_is_none_at_first(snapshots: Snapshots) -> None:
    assert (snapshots.count, snapshots.step, snapshots.load()) == (0, None, None)


def test_the_newest_is_loaded(snapshots: Snapshots) -> None:
    for number in range(1, 6):
        snapshots.save(number, state_of(number))
        assert snapshots.count == number
        assert_holds(snapshots, number)
        assert_holds(snapshots, number)


def test_what_is_loaded_is_a_copy(snapshots: Snapshots) -> None:
    snapshots.save(1, state_of(1))
    state = snapshots.load()
    assert state is not None
    state["model"]["0.weight"].zero_()
    assert_holds(snapshots, 1)


@pytest.mark.parametrize("sizes", [(10_000, 10, 10), (10, 10_000, 10)])
def test_sizes_may_change(snapshots: Snapshots, sizes: tuple[int, ...]) -> None:
    """A smaller one is read whole, and no more than it, where a larger one was before."""
    for number, size in enumerate(sizes * 2):
        snapshots.save(number, state_of(number, size))
        assert_holds(snapshots, number, size)


def test_a_save_that_fails_leaves_the_former_whole(snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch) -> None:
    save(snapshots, [1, 2])

    def fail(state: Any, file: Any) -> None:
        file.write(b"the beginning of a state")
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(MemoryError):
            snapshots.save(3, state_of(3))
    assert snapshots.count == 2
    assert_holds(snapshots, 2)
    save(snapshots, [3])
    assert_holds(snapshots, 3)


def test_they_outlive_their_writer(snapshots: Snapshots) -> None:
    assert in_another_process(save_and_die, snapshots, [1, 2, 3]) == -signal.SIGKILL
    assert snapshots.count == 3
    assert_holds(snapshots, 3)


@pytest.mark.parametrize("numbers", [[7], [7, 8], [7, 8, 9]])
def test_a_writer_that_dies_in_the_middle_leaves_the_former_whole(snapshots: Snapshots, numbers: list[int]) -> None:
    half = b"the beginning of a state" * 1000
    assert in_another_process(die_while_saving, snapshots, numbers, half) == -signal.SIGKILL
    assert_holds(snapshots, numbers[-1])
    assert in_another_process(go_on, snapshots, numbers[-1]) == 0
    assert_holds(snapshots, numbers[-1] + 1)


def test_writers_follow_each_other(snapshots: Snapshots) -> None:
    save(snapshots, [1])
    for number in (1, 2, 3):
        assert in_another_process(go_on, snapshots, number) == 0
    assert snapshots.count == 4
    assert_holds(snapshots, 4)


def test_nothing_is_left_when_they_are_closed() -> None:
    memory = SharedMemory()
    before = open_files()
    snapshots = Snapshots(memory)
    save(snapshots, [1, 2])
    assert len(open_files() - before) == 2
    snapshots.close()
    assert open_files() <= before
    with pytest.raises(ValueError, match="closed"):
        snapshots.load()


def open_files() -> set[tuple[str, str]]:
    """This process's, in memory."""
    links = [(name, f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    return {(name, os.readlink(path)) for name, path in links if os.path.islink(path) and "memfd" in os.readlink(path)}
