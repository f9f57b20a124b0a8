"""`dni`: synthetic gradients, from a synthesizer that does not see the labels."""

from __future__ import annotations

from .method import MethodSpec
from .synthetic_gradient import make_synthetic_gradient

DNI = MethodSpec(
    name="dni",
    help="synthetic, from one that does not see them",
    make=make_synthetic_gradient,
    synthesizer=True,
    synthesizer_hidden=(1024, 1024),
)
