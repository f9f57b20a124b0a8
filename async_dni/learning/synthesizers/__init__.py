"""Synthesizers, one file each; a new one is a file and a line here. `synthesizer.py` says what a synthesizer is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ...foundation.registry import Registry
from .choice import SynthesizerChoice, default_choice, parse_choices
from .convolutional import CONVOLUTIONAL, ConvSynthesizer
from .linear import LINEAR, LinearSynthesizer
from .low_rank import LOW_RANK, LowRankSynthesizer
from .mlp import MLP, MLPSynthesizer
from .positionwise import POSITIONWISE, PositionwiseSynthesizer
from .synthesizer import SynthesizerFactory, SynthesizerSpec

__all__ = [
    "DEFAULTS",
    "SYNTHESIZERS",
    "ConvSynthesizer",
    "LinearSynthesizer",
    "LowRankSynthesizer",
    "MLPSynthesizer",
    "PositionwiseSynthesizer",
    "SynthesizerChoice",
    "SynthesizerFactory",
    "SynthesizerSpec",
    "make_synthesizer",
    "synthesizer_choices",
]

# in this order, as the first that fits is the default
SYNTHESIZERS = Registry(
    SynthesizerSpec, "synthesizer", "async_dni.synthesizers", [CONVOLUTIONAL, POSITIONWISE, LOW_RANK, LINEAR, MLP]
)

DEFAULTS = "low-rank, or positionwise or convolutional, by an output's shape"
"""What stands in a checkpoint where no synthesizer was named, nor hidden widths: others can't take up its state."""


def synthesizer_choices(text: str) -> list[SynthesizerChoice]:
    """Those that a setting names, `NAME[:setting=value…]`, separated by commas. Raises `ConfigError`."""
    return parse_choices(text, SYNTHESIZERS)


def make_synthesizer(
    features: Sequence[int],
    hidden: Sequence[int],
    classes: int,
    name: str | None = None,
    channels_first: bool | None = None,
) -> nn.Module:
    """The synthesizer of a name, or else the default one, for outputs `[batch, *features]`.

    By default it goes by the shape: the same at each position for sequences, `[*positions, features]`; else of low rank, where
    `hidden` has widths an MLP, and convolutional for feature maps, `[channels, *positions]`. `channels_first`: which of the
    two an output with positions is; where that is not known, one of three dimensions or more is of feature maps.
    Raises `ConfigError` where the one that is named does not fit.
    """
    first = len(features) > 2 if channels_first is None else channels_first
    choice = default_choice(features, hidden, SYNTHESIZERS, first) if name is None else synthesizer_choices(name)[0]
    return choice.make(features, hidden, classes)
