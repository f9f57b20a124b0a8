"""The share of labels that are the largest output."""

from __future__ import annotations

from functools import partial

from .metric import MetricSpec
from .top_k import TopK

TOP1 = MetricSpec("top1", "labels that are the largest output, in per cent", partial(TopK, 1), higher_is_better=True)
