"""What training came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .job import Job
from .plan import Plan
from .prepare import Prepared


@dataclass(frozen=True)
class Trained:
    """What the stages came to."""

    totals: list[dict[str, Any]]  # of each stage, as `Telemetry` counts
    deaths: list[list[str]]  # of each stage's workers that were replaced: a sentence each

    def summary(self, job: Job, prepared: Prepared, plan: Plan) -> dict[str, Any]:
        """For summary.json."""
        workers = [
            {
                "index": k,
                "host": job.place.host_of(k),
                "device": job.devices[k],
                "layers": plan.layers[k],
                **totals,
                "restarts": len(self.deaths[k]),
                "deaths": self.deaths[k],
            }
            for k, totals in enumerate(self.totals)
        ]
        start = prepared.schedule.start
        return {"method": job.config.method, "num_workers": len(workers), "workers": workers, "start": start}
