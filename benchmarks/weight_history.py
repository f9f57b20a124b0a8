"""A network's weights in the course of a training, kept by the network itself, in the memory of whoever trains it.

Each block copies its weights just before it begins batch n, for some n, and notes the time. So a stage in a worker and
a plain loop do the same, which costs one copy of the weights in memory: no message, no file, no evaluation, no thread
beside the training. What was kept comes back with the trained network's state, and is evaluated when all is over.

The network at n is made of all blocks as each of them began batch n. In locked training, and with synthetic gradients,
these are the weights after n updates of each block; with `delayed`, some gradients of earlier batches are still to come.
Its time is that of the last block to begin batch n.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Any, cast

from torch import Tensor, nn

Snapshot = tuple[int, float, dict[str, Tensor]]  # batches begun before, time.monotonic(), the block's state


class Keeping(nn.Module):
    """A block that keeps its weights as they are before each of some batches that it is trained on."""

    def __init__(self, block: nn.Module, steps: Collection[int]) -> None:
        super().__init__()
        self.block, self.steps = block, frozenset(steps)
        self.batches = 0  # begun
        self.snapshots: list[Snapshot] = []

    def forward(self, x: Tensor) -> Tensor:
        """The block's."""
        if self.training:
            if self.batches in self.steps:
                state = {name: value.detach().clone() for name, value in self.block.state_dict().items()}
                self.snapshots.append((self.batches, time.monotonic(), state))
            self.batches += 1
        h: Tensor = self.block(x)
        return h

    def __getstate__(self) -> dict[str, Any]:
        """A copy, as a worker's is, begins anew: it has been trained on nothing."""
        return {**self.__dict__, "batches": 0, "snapshots": []}

    def get_extra_state(self) -> list[Snapshot]:
        """All snapshots, when the last was taken; none in states that are sent or written before."""
        return self.snapshots if self.batches > max(self.steps) else []

    def set_extra_state(self, state: list[Snapshot]) -> None:
        """What a trained network's state brings back."""
        self.snapshots = state


def keeping(network: nn.Sequential, steps: Collection[int]) -> nn.Sequential:
    """The network, that keeps its weights as they are before these batches."""
    return nn.Sequential(*(Keeping(block, steps) for block in network))


def replay(network: nn.Sequential) -> Iterator[tuple[int, float]]:
    """Puts the network back to each of its snapshots; yields the batches before it, and the seconds of training."""
    blocks = [cast(Keeping, block) for block in network]
    began = blocks[0].snapshots[0][1]
    for snapshots in zip(*(block.snapshots for block in blocks), strict=True):
        for block, (_, _, state) in zip(blocks, snapshots, strict=True):
            block.block.load_state_dict(state)
        yield snapshots[0][0], max(moment for _, moment, _ in snapshots) - began
