"""Perplexity: among how many labels, all as likely, the network would be as unsure."""

from __future__ import annotations

import math

from .likelihood import Surprise
from .metric import MetricSpec


class Perplexity(Surprise):
    """exp of the mean of −log p(label)."""

    def compute(self) -> float:
        """A number of at least 1; infinite where it is too large for one."""
        nats = super().compute()
        return math.inf if nats > 700 else math.exp(nats)


PERPLEXITY = MetricSpec("perplexity", "exp of the mean of -log p(label)", Perplexity, higher_is_better=False)
