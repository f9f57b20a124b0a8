"""`backprop`: the true gradient, waited for on each batch; locked."""

from __future__ import annotations

from .method import MethodParts, MethodSpec
from .true_gradient import TrueGradient


def make_backprop(parts: MethodParts) -> TrueGradient:
    """No batch is begun before the gradient of the one before has come."""
    return TrueGradient()


BACKPROP = MethodSpec(
    name="backprop",
    help="true, waited for on each batch: locked",
    make=make_backprop,
    waits=True,
    lag=1,
)
