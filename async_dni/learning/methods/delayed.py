"""`delayed`: true gradients, some batches late (DDG, PipeDream)."""

from __future__ import annotations

from typing import Any

from ...foundation.error import ConfigError
from .method import MethodParts, MethodSpec
from .true_gradient import TrueGradient


def make_delayed(parts: MethodParts) -> TrueGradient:
    """With lag 1, no update comes between a batch's forward pass and its own."""
    return TrueGradient(late=parts.lag != 1)


def check_delayed(config: Any) -> None:
    """The slot of a batch is held until its gradient comes."""
    if config.lag is not None and config.lag > config.queue_capacity:
        allowed = f"delayed has at most --queue-capacity batches in flight; allowed: 1 to {config.queue_capacity}"
        raise ConfigError("lag", config.lag, allowed)


DELAYED = MethodSpec(
    name="delayed",
    help="true, when it comes back, some batches late",
    make=make_delayed,
    waits=True,
    check=check_delayed,
)
