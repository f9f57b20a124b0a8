"""torchvision, also where its compiled operators can't be loaded.

The registry's torchvision is built against a CUDA build of torch; beside a CPU build its operators don't load, and its
import then fails on registering shape functions for two of them. Data sets and transforms need no operator: declared, not
defined, the two names are enough.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import torch


def torchvision_datasets() -> Any:
    """torchvision.datasets."""
    return _imported("torchvision.datasets")


def torchvision_transforms() -> Any:
    """torchvision.transforms.v2."""
    return _imported("torchvision.transforms.v2")


def _imported(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            module: Any = importlib.import_module(name)
            module._operators = library  # declared for as long as the module lives
            return module
