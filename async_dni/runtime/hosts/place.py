"""Which stages of a run are on which host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...foundation.error import ConfigError


@dataclass(frozen=True)
class Place:
    """This host among those of a run, each of which has stages that follow each other."""

    counts: tuple[int, ...]  # stages on each host
    rank: int = 0
    local_rank: int = 0  # among the hosts that are one machine
    local_size: int = 1

    @property
    def stages(self) -> range:
        """Those that are here."""
        first = sum(self.counts[: self.rank])
        return range(first, first + self.counts[self.rank])

    @property
    def workers_beside(self) -> int:
        """Workers that share this machine's cores: on each host of it, about as many as here."""
        return self.counts[self.rank] * self.local_size

    def host_of(self, stage: int) -> int:
        """The rank of the host that has a stage."""
        return next(rank for rank in range(len(self.counts)) if stage < sum(self.counts[: rank + 1]))


def shared_out(workers: int, speeds: Sequence[float]) -> tuple[int, ...]:
    """Stages for each host: at least one, and so that a host that is twice as fast has about twice as many."""
    counts = [1] * len(speeds)
    for _ in range(workers - len(speeds)):  # each goes where stages are the fewest for the speed
        counts[min(range(len(speeds)), key=lambda rank: ((counts[rank] + 0.5) / speeds[rank], rank))] += 1
    return tuple(counts)


def check_split(split: Sequence[int] | None, hosts: int, workers: int) -> None:
    """Raise `ConfigError` for a number of hosts that workers can't be shared out to. All hosts see the same."""
    if workers < hosts:
        raise ConfigError("workers", workers, f"there are {hosts} hosts; allowed: at least one worker for each")
    if split is not None and len(split) != hosts:
        raise ConfigError("hosts_split", tuple(split), f"there are {hosts} hosts; allowed: a number for each")
