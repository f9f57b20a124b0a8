"""What each block, and a synthesizer after it, costs: to balance stages by.

Measured on this machine, or counted, which is coarser but the same everywhere and every time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .data import Batch
from .stage import StageSpec

T = TypeVar("T")

ROUNDS = 7  # the fastest counts: whatever else the machine does only adds time
LONG = 1.0  # seconds after which no further round is begun
CACHE = 8 * 2**20  # bytes, more than a core's own cache


def measure_costs(
    spec: StageSpec,
    blocks: Sequence[nn.Module],
    synthesizers: Sequence[nn.Module | None],
    load: Callable[[], Batch],
    threads: int,
) -> tuple[list[float], list[float]]:
    """Seconds that each block takes for a batch (forward, backward, step), and a synthesizer after it (predict, learn).

    Loading the batch counts with the first block. What every stage takes whatever its blocks (an optimizer's call, say) is in
    no block's cost. `spec` gives the optimizer and loss; its module is not used. Nothing given is changed.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    spec, costs, cut_costs = replace(spec, synthesizer=None), [], []
    try:
        with torch.random.fork_rng(devices=[]):
            loading, batch = _fastest(load)
            whole, x = _fastest(_training(spec, 0, 1, blocks, batch))[0], batch.x
            for index, (block, synthesizer) in enumerate(zip(blocks, synthesizers, strict=True)):
                train = _training(spec, index, len(blocks), [block], Batch(0, x, batch.target))
                seconds, x = _fastest(train)
                costs.append(seconds)
                cut_costs.append(_measure_synthesizer(spec, synthesizer, x, batch.target, train))
    finally:
        torch.set_num_threads(before)
    costs = _without_overhead(costs, whole)
    return [costs[0] + loading, *costs[1:]], cut_costs


def _without_overhead(costs: Sequence[float], whole: float) -> list[float]:
    """Costs of blocks that take `costs` as a stage each and `whole` as one: less what a stage takes whatever its blocks."""
    overhead = max(0.0, sum(costs) - whole) / max(1, len(costs) - 1)
    return [max(0.0, cost - overhead) for cost in costs]


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


def _training(
    spec: StageSpec, index: int, num_stages: int, blocks: Sequence[nn.Module], batch: Batch
) -> Callable[[], Tensor]:
    """Trains a stage of these blocks on a batch at each call; returns its output."""
    module = nn.Sequential(*copy.deepcopy(list(blocks)))
    stage = replace(spec, index=index, num_stages=num_stages, module=module).build(torch.device("cpu"))

    def run() -> Tensor:
        h = stage.forward(batch)
        stage.update(batch.index)
        if batch.index in stage.pending:
            stage.learn(batch.index, torch.ones_like(h))
        return h

    return run


def _measure_synthesizer(
    spec: StageSpec, synthesizer: nn.Module | None, h: Tensor, target: Tensor, train: Callable[[], Tensor]
) -> float:
    if synthesizer is None:
        return 0.0
    module = nn.Sequential(nn.Linear(1, 1))
    copied = copy.deepcopy(synthesizer)
    stage = replace(spec, index=0, num_stages=2, module=module, synthesizer=copied).build(torch.device("cpu"))
    memory = torch.zeros(CACHE // 4)

    def leave_cache() -> None:
        """As in a worker, where the blocks were at it last. With all it needs in the cache, a small one takes half as long."""
        train()
        memory.add_(1)

    predicting, _ = _fastest(lambda: stage.method.now(h, target), leave_cache)
    learning, _ = _fastest(lambda: stage.method.learn(h, target, h), leave_cache)
    return predicting + learning


def _fastest(run: Callable[[], T], before: Callable[[], object] = lambda: None) -> tuple[float, T]:
    """The least of some rounds' seconds, `before` not counted, and what `run` returned last."""
    result = run()  # a warm-up: optimizers allocate their state
    fastest, start = float("inf"), time.perf_counter()
    for _ in range(ROUNDS):
        before()
        began = time.perf_counter()
        result = run()
        ended = time.perf_counter()
        fastest = min(fastest, ended - began)
        if ended - start >= LONG:
            break
    return fastest, result
