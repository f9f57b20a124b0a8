"""A process that writes checkpoints as fast as it can, in a process group of its own: to be killed while it does."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import torch

from async_dni.record.checkpoint import Checkpoint, save_checkpoint


def checkpoint_of(step: int) -> Checkpoint:
    """A few megabytes, every number of which is `step`."""
    model = {f"{block}.weight": torch.full((300_000,), float(step)) for block in range(3)}
    stage = {"optimizer": {"0.weight": {"exp_avg": torch.full((300_000,), float(step))}}, "method": {}}
    return Checkpoint(step, 0.0, {"seed": 0}, ["0", "1", "2"], [], model, [stage])


def write_forever(directory: Path, first: int) -> None:
    """A process's entry: checkpoints of ever later steps."""
    os.setpgid(0, 0)
    for step in itertools.count(first):
        save_checkpoint(directory, checkpoint_of(step), keep=2)
