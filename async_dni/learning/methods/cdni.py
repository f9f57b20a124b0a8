"""`cdni`: synthetic gradients, from a synthesizer that sees the labels."""

from __future__ import annotations

from .method import MethodSpec
from .synthetic_gradient import make_synthetic_gradient

CDNI = MethodSpec(
    name="cdni",
    help="synthetic, from a synthesizer that sees the labels",
    make=make_synthetic_gradient,
    synthesizer=True,
    conditioned=True,
)
