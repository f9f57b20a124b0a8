"""What each block, and a synthesizer or an auxiliary head after it, costs: to balance stages by.

Measured on this machine, or counted, which is coarser but the same everywhere and every time.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from ..learning.batch import Batch
from ..learning.blocks import copy_of
from ..learning.condition import Condition
from ..learning.methods.backprop import BACKPROP
from ..learning.methods.several import Several
from ..learning.stage import StageSpec
from ..learning.structure import Gradient, Output, Structure, carries, one_or_all, parts_of

T = TypeVar("T")

ROUNDS = 7  # the fastest counts: whatever else the machine does only adds time
LONG = 1.0  # seconds after which no further round is begun
CACHE = 8 * 2**20  # bytes, more than a core's own cache


@dataclass(frozen=True)
class Boundary:
    """What comes with the synthesizer after a block, in the stage that it would end; or its auxiliary head."""

    precision: str
    conditions: Sequence[Condition | None] = (None,)  # for each carrying part of the output
    dims: Sequence[int] = (0,)
    auxiliary_head: nn.Module | None = None

    def applied(self, spec: StageSpec) -> StageSpec:
        """A stage with it."""
        return replace(
            spec,
            synthesizer_matmul_precision=self.precision,
            conditions=self.conditions,
            dims=self.dims,
            auxiliary_head=self.auxiliary_head,
        )


def measure_costs(
    spec: StageSpec,
    blocks: Sequence[nn.Module],
    synthesizers: Sequence[nn.Module | None],
    load: Callable[[], Batch],
    threads: int,
    boundaries: Sequence[Boundary] | None = None,
) -> tuple[list[float], list[float]]:
    """Seconds that each block takes for a batch (forward, backward, step), and a synthesizer after it (predict, learn).

    Loading the batch counts with the first block. What every stage takes whatever its blocks (an optimizer's call, say) is in
    no block's cost. `spec` gives the optimizer and loss; its module is not used. Nothing given is changed, but that the batch
    is loaded some times. For a moment this takes the memory of training the whole network in one process. `boundaries`: what
    comes with the synthesizers; without, the spec's.
    """
    boundaries = boundaries or [Boundary(spec.synthesizer_matmul_precision, spec.conditions, spec.dims)] * len(blocks)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    spec, locked, costs, cut_costs = (
        replace(spec, synthesizer=None),
        replace(spec, method=BACKPROP, synthesizer=None),
        [],
        [],
    )
    memory = torch.zeros(threads * CACHE // 4)

    def leave_cache() -> None:
        """As the blocks do in a worker: with all it needs in the cache, a small synthesizer takes half as long."""
        memory.add_(1)

    try:
        with torch.random.fork_rng(devices=[]):
            loading, batch = _fastest(load, leave_cache)
            whole, x = _fastest(_training(locked, 0, 1, blocks, batch))[0], batch.x
            for index, (block, synthesizer) in enumerate(zip(blocks, synthesizers, strict=True)):
                place = int(_passes_gradients(blocks, index))
                num_stages = place + 1 if index == len(blocks) - 1 else place + 2
                train = _training(locked, place, num_stages, [block], Batch(0, x, batch.target))
                seconds, x = _fastest(train)
                costs.append(seconds)
                there = boundaries[index].applied(spec)
                cut_costs.append(_measure_method(there, synthesizer, x, batch.target, leave_cache))
    finally:
        torch.set_num_threads(before)
    costs = _without_overhead(costs, whole, [_learns(block) for block in blocks])
    return [costs[0] + loading, *costs[1:]], cut_costs


def _learns(block: nn.Module) -> bool:
    """Whether a block has something to train."""
    return any(parameter.requires_grad for parameter in block.parameters())


def _passes_gradients(blocks: Sequence[nn.Module], index: int) -> bool:
    """Whether a block computes a gradient with respect to its input: something before it learns."""
    return any(map(_learns, blocks[:index]))


def _without_overhead(costs: Sequence[float], whole: float, learns: Sequence[bool]) -> list[float]:
    """Costs of blocks that take `costs` as a stage each and `whole` as one: less what a stage takes whatever its blocks.

    That is mostly its optimizer's, so it is taken from blocks that learn. Where the whole takes longer than its parts, as
    these find more in the cache, all grow by as much.
    """
    surplus, stages = sum(costs) - whole, sum(learns)
    if surplus <= 0:
        return [cost * whole / (sum(costs) or 1.0) for cost in costs]
    overhead = surplus / (stages - 1) if stages > 1 else 0.0
    return [max(0.0, cost - overhead) if block else cost for cost, block in zip(costs, learns, strict=True)]


def count_costs(
    blocks: Sequence[nn.Module],
    synthesizers: Sequence[nn.Module | None],
    outputs: Sequence[Output],
    first: Batch,
    conditions: Sequence[Sequence[Condition | None]],
    synthesizer_every: int = 1,
    heads: Sequence[nn.Module | None] = (),
) -> tuple[list[float], list[float]]:
    """Multiplications that each block takes for a batch (forward and backward), and a synthesizer or a head after it.

    `conditions`: what each synthesizer sees of the target, for each carrying part of the output before it.

    Those in bfloat16 count like those in float32: what is faster depends on the machine, and this must not.
    """
    costs, cut_costs, x = [], [], first.x
    for index, (block, h) in enumerate(zip(blocks, outputs, strict=True)):
        backward = 1 + _passes_gradients(blocks, index)
        costs.append((1.0 + backward) * _count(block, x) + sum(part.numel() for part in h.parts))
        # a prediction to update with; to learn, another, and its gradient with respect to the weights
        products, whole = 1 + 2 / synthesizer_every, synthesizers[index]
        each = list(whole) if isinstance(whole, nn.ModuleList) else [] if whole is None else [whole]
        counts = [
            _count(synthesizer, part.movedim(dim or 0, 0), condition and condition(first.target))
            for synthesizer, condition, (part, dim) in zip(each, conditions[index], h.carrying, strict=False)
        ]
        head = heads[index] if heads else None
        # forward; the gradients with respect to its weights and its input
        of_head = 0 if head is None else 3 * _count(head, one_or_all([part for part, _ in h.carrying]))
        cut_costs.append(products * sum(counts) + of_head)
        x = h.structure
    return costs, cut_costs


def _count(module: nn.Module, *inputs: Structure) -> int:
    module = copy_of(module).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


def _training(
    spec: StageSpec, index: int, num_stages: int, blocks: Sequence[nn.Module], batch: Batch
) -> Callable[[], Structure]:
    """Trains a stage of these blocks on a batch at each call, at a learning rate of 0; returns its output."""
    module = nn.Sequential(*map(copy_of, blocks))
    stage = replace(spec, index=index, num_stages=num_stages, module=module).build(torch.device("cpu"))
    _stand_still(stage.optimizer)
    gradient: Gradient | None = None

    def run() -> Structure:
        nonlocal gradient
        h = stage.forward(batch)
        stage.update(batch.index)
        if batch.index in stage.pending:
            if gradient is None:
                gradient = one_or_all([torch.ones_like(part) for part in parts_of(h) if carries(part)])
            stage.learn(batch.index, gradient)
        return h

    return run


def _measure_method(
    spec: StageSpec, synthesizer: nn.Module | None, h: Structure, target: Tensor, before: Callable[[], object]
) -> float:
    if synthesizer is None and spec.auxiliary_head is None:
        return 0.0
    module, models = nn.Sequential(nn.Linear(1, 1)), copy.deepcopy((synthesizer, spec.auxiliary_head))
    spec = replace(spec, index=0, num_stages=2, module=module, synthesizer=models[0], auxiliary_head=models[1])
    stage = spec.build(torch.device("cpu"))
    method, carrying = stage.method, one_or_all([part for part in parts_of(h) if carries(part)])
    for each in method.methods if isinstance(method, Several) else [method]:
        _stand_still(each.optimizer)
    predicting, _ = _fastest(lambda: method.now(carrying, target), before)
    if not stage.gradients:
        return predicting
    learning, _ = _fastest(lambda: method.learn(carrying, target, carrying), before)
    return predicting + learning / spec.synthesizer_every


def _stand_still(optimizer: Optimizer | None) -> None:
    """Steps that take as long as any, and change no weight: what is measured must not run away."""
    for group in [] if optimizer is None else optimizer.param_groups:
        group["lr"] = 0.0


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
