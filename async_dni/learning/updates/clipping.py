"""The norm of a stage's gradients: finite, and no larger than it may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from ..divergence import check_gradients


def check_and_clip(
    module: nn.Module, parameters: Sequence[nn.Parameter], most: float | None, *, clips: bool = True
) -> float:
    """Check the layers' gradients, and scale them down to the norm `most`; returns what they were scaled by.

    Without `clips`, they are left as they are, and what they would be scaled by is returned. Raises `DivergenceError` where
    the norm, all taken as one vector, is not finite.
    """
    norm = norm_of(parameters)
    check_gradients(module, norm)
    if most is None:
        return 1.0
    if clips:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return min(1.0, most / (float(norm) + 1e-6))  # PyTorch's


def norm_of(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Of all gradients, taken as one vector."""
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
