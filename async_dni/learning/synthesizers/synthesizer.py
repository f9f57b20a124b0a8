"""Synthesizers: models of the gradient that a stage's output will receive.

A synthesizer is any `nn.Module` called as `synthesizer(h, labels)`: h `[batch, *features]`, the stage's output; labels,
what it sees of the target (cDNI), or None (DNI). For a class a sample these are `[batch]` int64, and -1 where there is none;
`learning/condition.py` has what they are for other targets. It returns `[batch, *features]`: for each sample, the gradient
of *that sample's* loss with respect to h. A batch-mean loss divides gradients by the batch size; predicting the undivided
ones keeps the targets of one scale for every batch size.

One that knows its own gradients may have `set_gradients(h, labels, grad_output)`, which is called in place of autograd;
what it returns is then changed in place, so it must be a new tensor.

The last layer starts at zero, so that the first synthetic gradients are zero and do no harm (section 4 of
Jaderberg et al., *Decoupled Neural Interfaces using Synthetic Gradients*, arXiv 1608.05343).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)

SynthesizerFactory = Callable[..., nn.Module]
"""Called with the shape of one sample of the stage's output, hidden widths, classes of the labels that it sees (or numbers
in a row; 0: it sees none), and its settings by name."""

VECTOR, CHANNELS_FIRST, CHANNELS_LAST = "vector", "channels first", "channels last"


@dataclass(frozen=True)
class SynthesizerSpec:
    """A synthesizer, as it says of itself."""

    name: str
    help: str  # a few words
    make: SynthesizerFactory
    has_hidden: bool = True  # whether it takes hidden widths
    takes: str = "[features]"  # the shapes of outputs that it is for, for a person
    fits: Callable[[Sequence[int]], bool] = lambda features: True  # whether it is for outputs of this shape
    # what it takes an output for: a vector, all numbers of a sample in a row; or positions with channels, first or last
    layout: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # that `make` takes, with their defaults


def zeroed(layer: M) -> M:
    """A layer that puts out zero at first."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
