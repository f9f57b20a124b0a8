"""A program that trains a little, for tests of machines that lack something: `python trains.py '{"workers": 2, …}' …`.

For each argument in turn, it prints "trained", or the sentence that a setting is refused with, and then has exit status 2.
With "tells" it prints too where its fork server's socket lies and the server's process id, and with "dies" it is killed then.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from multiprocessing import forkserver
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from async_dni import ConfigError, Trainer
from async_dni.fit import in_workers


class Made(Dataset):
    """Makes its samples."""

    def __init__(self, samples: int, features: int) -> None:
        self.samples, self.features = samples, features

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((self.features,), float(index)), index % 2


def data(kind: str, samples: int, features: int) -> Any:
    if kind == "made":
        return Made(samples, features)
    if kind == "pairs":
        return [(torch.randn(features), index % 2) for index in range(samples)]
    return torch.randn(samples, features), torch.randint(2, (samples,))


def train(settings: dict[str, Any]) -> int:
    kind, samples, features = settings.pop("data", "tensors"), settings.pop("samples", 64), settings.pop("features", 8)
    width, workers = settings.pop("width", 8), settings.setdefault("workers", 2)
    if settings.pop("seems_free", False):
        assert in_workers.check_room
        in_workers.check_room = lambda storages, setting: None  # as if others filled it afterwards
    blocks = [nn.Linear(features, width), *(nn.Linear(width, width) for _ in range(workers - 1)), nn.Linear(width, 2)]
    split = list(range(1, workers)) or None
    tells, dies = settings.pop("tells", False), settings.pop("dies", False)
    settings = {"batch_size": 16, "threads_per_worker": 1, "split": split, **settings}
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        Trainer(nn.Sequential(*blocks), **settings).fit(data(kind, samples, features), steps=3)
    except ConfigError as error:
        print(error)
        return 2
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limit, "it is as it was"
    print("trained", flush=True)
    if tells:
        server = forkserver._forkserver
        print(json.dumps([server._forkserver_address, server._forkserver_pid]), flush=True)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(max(train(json.loads(argument)) for argument in sys.argv[1:]))
