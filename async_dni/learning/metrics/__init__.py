"""Metrics, one file each; a new one is a file and a line here. `metric.py` says what a metric is."""

from ...foundation.registry import Registry
from .bits import BITS
from .metric import Metric, MetricFunction, MetricSpec
from .perplexity import PERPLEXITY
from .r2 import R2
from .top1 import TOP1
from .top5 import TOP5

__all__ = ["METRICS", "Metric", "MetricFunction", "MetricSpec"]

METRICS = Registry(MetricSpec, "metrics", "async_dni.metrics", [TOP1, TOP5, PERPLEXITY, BITS, R2])
