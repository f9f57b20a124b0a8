"""What torchrun tells the processes that it starts: who they are, and where they meet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ...foundation.error import ConfigError

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class HostEnvironment:
    """This process among those that torchrun has started: each is a host."""

    rank: int
    size: int
    address: str  # where the first host's store is
    port: int
    local_rank: int = 0  # among those on this machine
    local_size: int = 1
    restarts: int = 0  # of this group by torchrun's agent
    has_agent_store: bool = False  # whether torchrun's agent keeps the store, or the first host has to

    @classmethod
    def read(cls, variables: Mapping[str, str] = os.environ) -> HostEnvironment | None:
        """None where torchrun has not started this process. Raises `ConfigError` for a variable that says no number."""
        if not all(variables.get(name) for name in NEEDED):
            return None

        def whole(name: str, default: int, least: int = 0) -> int:
            text = variables.get(name) or str(default)
            if not text.isdigit() or int(text) < least:
                raise ConfigError(name, text, f"allowed: a whole number of at least {least}")
            return int(text)

        size = whole("WORLD_SIZE", 1, 1)
        rank = whole("RANK", 0)
        if rank >= size:
            raise ConfigError("RANK", rank, f"WORLD_SIZE is {size}; allowed: 0 to {size - 1}")
        return cls(
            rank=rank,
            size=size,
            address=variables["MASTER_ADDR"],
            port=whole("MASTER_PORT", 0),
            local_rank=whole("LOCAL_RANK", 0),
            local_size=whole("LOCAL_WORLD_SIZE", 1, 1),
            restarts=whole("TORCHELASTIC_RESTART_COUNT", 0),
            has_agent_store=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )


def has_others() -> bool:
    """Whether torchrun has started other hosts, too."""
    environment = HostEnvironment.read()
    return environment is not None and environment.size > 1
