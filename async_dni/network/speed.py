"""How fast this machine computes a network, to share stages out among machines."""

from __future__ import annotations

import time

import torch
from torch import nn

from ..learning.blocks import copy_of
from ..learning.structure import Structure

ROUNDS, SECONDS = 20, 0.5  # of measuring, at most


def forward_passes_a_second(model: nn.Sequential, x: Structure, cores: int) -> float:
    """Those of a batch, in a thread on each of so many cores, by the fastest of some. Nothing given is changed."""
    threads, fastest, began = torch.get_num_threads(), float("inf"), time.monotonic()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copied = copy_of(model)
            for _ in range(ROUNDS):
                before = time.perf_counter()
                copied(x)
                fastest = min(fastest, time.perf_counter() - before)
                if time.monotonic() - began > SECONDS:
                    break
    finally:
        torch.set_num_threads(threads)
    return cores / fastest
