"""The share of labels that are among the five largest outputs."""

from __future__ import annotations

from functools import partial

from .metric import MetricSpec
from .top_k import TopK

TOP5 = MetricSpec("top5", "labels among the five largest outputs, in per cent", partial(TopK, 5), higher_is_better=True)
