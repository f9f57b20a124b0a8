"""One gradient held against another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...learning.structure import Gradient, all_of


@dataclass(frozen=True)
class Comparison:
    """How close a gradient is to another, over all parts of both together.

    None where there is no such number: one of the two is zero everywhere, or not finite.
    """

    cosine: float | None = None  # of the two, each taken as one vector
    sample_cosine: float | None = None  # the mean over the samples where neither is zero
    error: float | None = None  # ‖a − b‖ / ‖b‖


def compare(found: Gradient, wanted: Gradient, dims: Sequence[int]) -> Comparison:
    """`found` against `wanted`. `dims`: which dimension of each part counts the samples."""
    sums = []  # a part each: [samples] of a·b, ‖a‖², ‖b‖², ‖a − b‖²
    for a, b, dim in zip(all_of(found), all_of(wanted), dims, strict=True):
        x, y = in_rows(a, dim), in_rows(b, dim)
        sums.append(((x * y).sum(1), x.square().sum(1), y.square().sum(1), (x - y).square().sum(1)))
    product, found_square, wanted_square, difference = (sum(float(part[k].sum()) for part in sums) for k in range(4))
    return Comparison(
        cosine=_cosine(product, found_square, wanted_square),
        sample_cosine=_sample_cosine(sums),
        error=_quotient(math.sqrt(difference), math.sqrt(wanted_square)),
    )


def norm_of(gradient: Gradient) -> float | None:
    """‖δ‖ of all parts as one vector; None where it is not finite."""
    return _finite(math.sqrt(sum(float(part.double().square().sum()) for part in all_of(gradient))))


def in_rows(part: Tensor, dim: int) -> Tensor:
    """A part as `[samples, numbers]` float64: squares of gradients that vanish are too small for float32."""
    return part.detach().double().movedim(dim, 0).reshape(part.shape[dim], -1)


def _cosine(product: float, a_square: float, b_square: float) -> float | None:
    cosine = _quotient(product, math.sqrt(a_square) * math.sqrt(b_square))
    return None if cosine is None else max(-1.0, min(1.0, cosine))


def _sample_cosine(sums: Sequence[tuple[Tensor, ...]]) -> float | None:
    if len({len(part[0]) for part in sums}) != 1:
        return None  # a part that is the same for every batch has no samples
    product, a_square, b_square = (sum(part[k] for part in sums[1:]) + sums[0][k] for k in range(3))
    norms = a_square.sqrt() * b_square.sqrt()
    counted = norms > 0
    return _finite(float((product[counted] / norms[counted]).mean())) if counted.any() else None


def _quotient(a: float, b: float) -> float | None:
    return _finite(a / b) if b else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
