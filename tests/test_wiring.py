"""What workers share: made whole, or closed and refused."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from async_dni import ConfigError, Trainer


@pytest.mark.parametrize("number", range(12))
def test_where_there_is_no_room_all_that_was_made_is_closed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if others had taken it since it was looked for: file after file, queues', snapshots', stages'."""
    real, made = os.memfd_create, []

    def memfd_create(*arguments: str) -> int:
        if len(made) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        made.append(real(*arguments))
        return made[-1]

    model = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 2))
    data = torch.randn(1000, 4), torch.randint(2, (1000,))
    Trainer(model, workers=3, batch_size=500).fit(data, steps=1)  # the server that workers are forked from is there
    gc.collect()  # what other tests have left to be collected
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "memfd_create", memfd_create)
    with pytest.raises(
        ConfigError, match=r"queue_capacity: got 4; there is no room for what workers share \(No space left"
    ):
        Trainer(model, workers=3, batch_size=500).fit(data, steps=1)
    assert len(made) == number
    gc.collect()  # shared memory is closed with the last array in it
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_run_makes_more_files_than_are_refused_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real, made = os.memfd_create, []
    monkeypatch.setattr(os, "memfd_create", lambda *arguments: made.append(1) or real(*arguments))
    model = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 2))
    data = torch.randn(1000, 4), torch.randint(2, (1000,))
    Trainer(model, workers=3, batch_size=500).fit(data, steps=1)
    assert len(made) > 12
