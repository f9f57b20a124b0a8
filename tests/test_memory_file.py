"""Files in memory: whole in every process, small to send, and nothing is left of them."""

from __future__ import annotations

from multiprocessing import context, reduction
from typing import Any

import pytest
from test_snapshots import in_another_process, open_files

from async_dni import Trainer, fcn
from async_dni.runtime.supervisor import Supervisor
from async_dni.runtime.transport.memory_file import MemoryFile

CONTENT = bytes(range(256)) * 12_000


def check(shared: MemoryFile, times: int) -> None:
    """In another process."""
    for _ in range(times):
        assert shared.read() == CONTENT
    shared.close()


@pytest.mark.parametrize("content", [b"", b"a", CONTENT])
def test_they_are_read_as_often_as_wanted(content: bytes) -> None:
    shared = MemoryFile(content)
    assert [shared.read(), shared.read()] == [content, content]
    shared.close()


def test_they_are_whole_in_other_processes() -> None:
    shared = MemoryFile(CONTENT)
    assert in_another_process(check, shared, 2) == 0
    assert in_another_process(check, shared, 1) == 0
    assert shared.read() == CONTENT
    shared.close()


def test_nothing_is_left_when_they_are_closed() -> None:
    before = open_files()
    shared = MemoryFile(CONTENT)
    assert len(open_files() - before) == 1
    shared.close()
    assert open_files() <= before
    with pytest.raises(ValueError, match="closed"):
        shared.read()


class Popen:
    """Stands for a process that is being started."""

    DupFd = duplicate_for_child = staticmethod(int)


def test_what_a_worker_is_sent_fits_a_pipe(small_mnist: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that had to wait for a new worker to read would look after no other one meanwhile."""
    sizes = []

    def start(supervisor: Supervisor, spec: Any, receiver: Any) -> Any:
        context.set_spawning_popen(Popen())
        try:
            sizes.append(len(reduction.ForkingPickler.dumps(spec)))
        finally:
            context.set_spawning_popen(None)
        return original(supervisor, spec, receiver)

    original = Supervisor._start
    monkeypatch.setattr(Supervisor, "_start", start)
    Trainer(fcn(width=512), workers=3, batch_size=10).fit(small_mnist[0], steps=1)
    assert len(sizes) == 3
    assert max(sizes) < 1 << 15
