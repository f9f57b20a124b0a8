"""One host of a measurement by `several_hosts.py`, started on an emulated one with torchrun's variables.

    host_process.py '{"contender": "cdni", "workload": "20x256", "steps": 200, …}'

The first host prints what was measured, as a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

import rivals
from emulated import BATCH_SIZE, Emulated, emulated_data
from rivals import GPIPE, ONE_F_ONE_B, Plain
from torch import nn
from training import Ours, Setting, Training
from weight_history import replay
from workloads import WORKLOADS, whole_batches

from async_dni import Trainer
from async_dni.record.progress import Progress

EVERY = 60  # batches between copies of the weights


@dataclass(frozen=True)
class Asked:
    """What is to be measured."""

    contender: str
    workload: str
    steps: int
    split: list[int]
    settings: dict[str, Any]  # of ours
    microbatches: int = 0
    milliseconds: float = 0.0  # that an emulated stage sleeps, each way
    race: list[Any] | None = None  # a learning rate, its schedule, the synthesizers' in times of it, a seed
    threads: int = 1


class Spent(Progress):
    """Counts what the host's own process computes, links included, from when the workers begin."""

    began = 0.0

    def on_begin(self) -> None:
        self.began = time.process_time()

    def seconds(self) -> float:
        """So far."""
        return time.process_time() - self.began


class Printed:
    """Where rivals put what they measure."""

    def send(self, value: float) -> None:
        """Samples a second."""
        print(json.dumps({"samples_per_second": value}), flush=True)


def emulate(asked: Asked) -> None:
    """Stages that sleep: the pace of the slowest, in batches a second."""
    model = nn.Sequential(*(Emulated(asked.milliseconds / 1e3) for _ in range(len(asked.split) + 1)))
    settings: dict[str, Any] = {
        "workers": len(model),
        "batch_size": BATCH_SIZE,
        "threads_per_worker": 1,
        **asked.settings,
    }
    workers = Trainer(model, **settings).fit(emulated_data(), steps=asked.steps).summary["workers"]
    if os.environ.get("RANK", "0") == "0":
        pace = min(worker["steps"] / sum(worker["seconds"].values()) for worker in workers)
        waited = [worker["wait_fraction"] for worker in workers]
        print(json.dumps({"samples_per_second": pace * BATCH_SIZE, "waited": waited}))


def race(asked: Asked) -> None:
    """The course of a whole training: steps, seconds, errors."""
    workload = WORKLOADS[asked.workload]
    assert asked.race is not None
    lr, schedule, times, seed = asked.race
    training = Training(workload, workload.load(), EVERY)
    ours = Ours(len(asked.split) + 1, {"method": asked.contender, "split": tuple(asked.split), **asked.settings})
    trainer = ours.trainer(training, Setting(lr, schedule, asked.steps, times), seed)
    model = trainer.fit(training.data.train_set, steps=asked.steps + 1).model
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({"course": [(step, at, training.evaluate(model)) for step, at in replay(model)]}))


def train(asked: Asked) -> None:
    """Samples a second of a contender."""
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    workload = WORKLOADS[asked.workload]
    data = workload.load()
    train_set, model = whole_batches(data.train_set, workload.batch_size), workload.make(data, seed=0)
    job = rivals.Job(model, train_set, workload.batch_size, asked.steps, asked.threads)
    if asked.contender == "DDP":
        rivals.data_parallel(rank, Printed(), job, "env://", ranks)
    elif asked.contender in (GPIPE, ONE_F_ONE_B):
        rivals.pipeline(rank, Printed(), job, "env://", ranks, asked.contender, asked.split, asked.microbatches)
    elif asked.contender == "locked":
        rivals.locked(rank, Printed(), job, Plain(asked.threads))
    else:
        ours: dict[str, Any] = {
            "workers": len(asked.split) + 1,
            "split": tuple(asked.split),
            "batch_size": workload.batch_size,
        }
        ours |= {"threads_per_worker": asked.threads, "device_map": "cpu", **asked.settings}
        spent = Spent()
        result = Trainer(model, optimizer=rivals.adam, progress=spent, **ours).fit(train_set, steps=asked.steps)
        if rank == 0:
            lags = [worker["mean_lag"] for worker in result.summary["workers"]]
            found = {"samples_per_second": result.summary["samples_per_second"], "lags": lags}
            print(json.dumps({**found, "ms_of_the_host": 1e3 * spent.seconds() / asked.steps}))


if __name__ == "__main__":
    what = Asked(**json.loads(sys.argv[1]))
    (emulate if what.milliseconds else race if what.race else train)(what)
