"""Synthesizers, one file each; a new one is a file and a line here. `synthesizer.py` says what a synthesizer is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ...foundation.error import ConfigError
from ...foundation.registry import Registry
from .convolutional import CONVOLUTIONAL, ConvSynthesizer
from .linear import LINEAR, LinearSynthesizer
from .mlp import MLP, MLPSynthesizer
from .synthesizer import SynthesizerFactory, SynthesizerSpec

__all__ = [
    "SYNTHESIZERS",
    "ConvSynthesizer",
    "LinearSynthesizer",
    "MLPSynthesizer",
    "SynthesizerFactory",
    "SynthesizerSpec",
    "make_synthesizer",
]

# in this order, as the first that fits is the default
SYNTHESIZERS = Registry(SynthesizerSpec, "synthesizer", "async_dni.synthesizers", [CONVOLUTIONAL, LINEAR, MLP])


def make_synthesizer(
    features: Sequence[int], hidden: Sequence[int], classes: int, name: str | None = None
) -> nn.Module:
    """The synthesizer of a name, or else the default one, for outputs `[batch, *features]`.

    By default it is the first that fits these, with hidden layers where `hidden` has widths: convolutional for feature
    maps, else linear or an MLP. Raises `ConfigError` where the one that is named does not fit.
    """
    if name is None:
        specs = (SYNTHESIZERS[other] for other in SYNTHESIZERS)
        spec = next(spec for spec in specs if spec.fits(features) and (spec.has_hidden or not hidden))
    else:
        spec = SYNTHESIZERS[name]
        if not spec.fits(features):
            allowed = f"it is for outputs {spec.takes}, and those of a stage are {list(features)}"
            raise ConfigError("synthesizer", name, allowed)
    return spec.make(features, hidden, classes)
