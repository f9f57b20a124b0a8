"""Settings of a training: where the network is cut, and how its stages come by their gradients."""

from __future__ import annotations

from dataclasses import dataclass

from ..foundation.option import devices, increasing, option, whole
from ..learning.methods import METHODS

MOST_WORKERS = 1024


@dataclass(frozen=True)
class Stages:
    """Where the network is cut, and how its stages come by their gradients."""

    workers: int = option(
        3, "stages, one process each; at most one per block of the network", whole(1, MOST_WORKERS), metavar="N"
    )
    device_map: str = option(
        "auto",
        "auto (CUDA devices in turn, if any, else cpu), cpu, cuda, or one device a worker: cuda:0,cuda:1,cpu",
        devices,
        metavar="SPEC",
        nargs="?",
        const="auto",
    )
    method: str = option("cdni", "how a stage comes by its gradient", registry=METHODS)
    split: tuple[int, ...] | None = option(
        None,
        "blocks before which the network is cut, e.g. 1,2; default: balanced by measured cost",
        increasing,
        metavar="BLOCKS",
    )
    batch_size: int = option(250, "samples a batch", whole(1), metavar="N")
    seed: int = option(0, "seed of the initial weights and of the order of the data", whole(0, 2**32 - 1), metavar="N")
