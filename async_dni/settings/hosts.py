"""Settings of a training on several machines."""

from __future__ import annotations

from dataclasses import dataclass

from ..foundation.option import number, option, widths


@dataclass(frozen=True)
class Hosts:
    """Hosts under torchrun: what each gets, how long it is waited for."""

    hosts_split: tuple[int, ...] | None = option(
        None,
        "under torchrun: workers on each host, separated by commas; default: by how fast each host is",
        lambda value: (
            None if value is None or (value and widths(value) is None) else "allowed: whole numbers of at least 1"
        ),
        metavar="N,N,…",
    )
    link_timeout: float = option(
        30.0,
        "seconds after which another host that says nothing is taken for dead",
        number(least=1, below=1e6),
        metavar="SECONDS",
    )
