"""R²: how much of the variance of numbers is explained, 1 − Σ(y − ŷ)² / Σ(y − ȳ)², the mean over a target's numbers.

The sums are kept as batches come (Chan, Golub and LeVeque, *Updating formulae and a pairwise algorithm for computing
sample variances*, 1979), in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .metric import MetricSpec


class RSquared:
    """Targets `[batch, ...]`, outputs shaped like them.

    A number that is the same in all samples counts as 1 where it is hit, else as 0.
    """

    def __init__(self, ignored: int | None = None) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.samples, self.mean, self.variance, self.error = 0, torch.zeros(1), torch.zeros(1), torch.zeros(1)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take in a batch. Raises `ValueError` where outputs are not shaped like targets."""
        if outputs.shape != targets.shape:
            found = f"outputs {list(outputs.shape)}, targets {list(targets.shape)}"
            raise ValueError(f"allowed: outputs shaped like targets, not {found}")
        rows = len(targets)
        if not rows:
            return
        y, found_y = targets.double().reshape(rows, -1), outputs.double().reshape(rows, -1)
        total, mean = self.samples + rows, y.mean(0)
        shift = mean - self.mean
        self.variance = self.variance + (y - mean).square().sum(0) + shift.square() * (self.samples * rows / total)
        self.mean = self.mean + shift * (rows / total)
        self.error = self.error + (y - found_y).square().sum(0)
        self.samples = total

    def compute(self) -> float:
        """At most 1."""
        if not self.samples:
            return math.nan
        is_constant = self.variance == 0
        explained = 1 - self.error / torch.where(is_constant, 1.0, self.variance)
        return float(torch.where(is_constant, (self.error == 0).double(), explained).mean())


R2 = MetricSpec("r2", "the share of the targets' variance that is explained", RSquared, higher_is_better=True)
