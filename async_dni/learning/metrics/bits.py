"""Bits a label: per character, where labels are characters."""

from __future__ import annotations

import math

from .likelihood import Surprise
from .metric import MetricSpec


class Bits(Surprise):
    """The mean of −log₂ p(label)."""

    def compute(self) -> float:
        """In bits a label."""
        return super().compute() / math.log(2)


BITS = MetricSpec("bits", "bits a label, so per character of a text", Bits, higher_is_better=False)
