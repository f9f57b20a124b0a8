"""Settings of a training: where a network that is no `nn.Sequential` may be cut."""

from __future__ import annotations

from dataclasses import dataclass

from ..foundation.option import names, option


@dataclass(frozen=True)
class Splitting:
    """Where a network that is no `nn.Sequential` may be cut."""

    split_points: tuple[str, ...] | None = option(
        None,
        "submodules before which a network may be cut, e.g. layer1,layer2.0: blocks are what lies between them; default: "
        "the children of an nn.Sequential",
        names,
        metavar="SUBMODULES",
    )
