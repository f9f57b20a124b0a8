"""What each block, and a synthesizer after it, costs: to balance stages by.

Measured on this machine, or counted, which is coarser but the same everywhere and every time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .data import Batch
from .stage import StageSpec

ROUNDS = 7  # the fastest counts: whatever else the machine does only adds time


def measure_costs(
    spec: StageSpec, blocks: Sequence[nn.Module], synthesizers: Sequence[nn.Module | None], batch: Batch, threads: int
) -> tuple[list[float], list[float]]:
    """Seconds that each block takes for a batch (forward, backward, step), and a synthesizer after it (predict, learn).

    `spec` gives the optimizer and loss; its module is not used. Nothing given is changed.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    costs, cut_costs, x = [], [], batch.x
    try:
        with torch.random.fork_rng(devices=[]):
            for index, block in enumerate(blocks):
                given = Batch(0, x, batch.target)
                seconds, h = _measure_block(replace(spec, synthesizer=None), index, len(blocks), block, given)
                costs.append(seconds)
                cut_costs.append(_measure_synthesizer(spec, synthesizers[index], h, batch.target))
                x = h
    finally:
        torch.set_num_threads(before)
    return costs, cut_costs


def count_costs(
    blocks: Sequence[nn.Module],
    synthesizers: Sequence[nn.Module | None],
    outputs: Sequence[Tensor],
    x: Tensor,
    classes: int,
) -> tuple[list[float], list[float]]:
    """Multiplications that each block takes for x `[batch, ...]` (forward and backward), and a synthesizer after it.

    Those in bfloat16 count like those in float32: what is faster depends on the machine, and this must not.
    """
    costs, cut_costs = [], []
    for index, (block, synthesizer, h) in enumerate(zip(blocks, synthesizers, outputs, strict=True)):
        backward = 1 if index == 0 else 2  # the first block needs no gradient with respect to its input
        costs.append((1.0 + backward) * _count(block, x) + h.numel())
        # a prediction to update with, another to learn from, and that one's gradient with respect to the weights
        labels = h.new_zeros(len(h), dtype=torch.int64) if classes else None
        cut_costs.append(0.0 if synthesizer is None else 3.0 * _count(synthesizer, h, labels))
        x = h
    return costs, cut_costs


def _count(module: nn.Module, *inputs: Tensor | None) -> int:
    module = copy.deepcopy(module).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


def _measure_block(
    spec: StageSpec, index: int, num_blocks: int, block: nn.Module, batch: Batch
) -> tuple[float, Tensor]:
    module = nn.Sequential(copy.deepcopy(block))
    stage = replace(spec, index=index, num_stages=num_blocks, module=module).build(torch.device("cpu"))

    def run() -> Tensor:
        h = stage.forward(batch)
        stage.update(batch.index)
        if batch.index in stage.pending:
            stage.learn(batch.index, torch.ones_like(h))
        return h

    return _fastest(run)


def _measure_synthesizer(spec: StageSpec, synthesizer: nn.Module | None, h: Tensor, target: Tensor) -> float:
    if synthesizer is None:
        return 0.0
    module = nn.Sequential(nn.Linear(1, 1))
    copied = copy.deepcopy(synthesizer)
    stage = replace(spec, index=0, num_stages=2, module=module, synthesizer=copied).build(torch.device("cpu"))

    def run() -> Tensor:
        stage.method.now(h, target)
        stage.method.learn(h, target, h)
        return h

    return _fastest(run)[0]


def _fastest(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    h = run()  # a warm-up: optimizers allocate their state
    fastest = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        h = run()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest, h
