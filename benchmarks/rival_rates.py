"""DDP and pipelines in a race: reckoned, not run, from the samples a second that `throughput.py --json FILE` measured.

Step by step they learn what the locked process learns, but for batch norm, which sees a part of each batch there. So they need as
many steps to a target, and as much longer as their rate is lower.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path

LOCKED, PARALLEL = "locked, ", ("GPipe", "1F1B", "zero-bubble", "DDP")

Slowness = Mapping[
    str, Mapping[str, float]
]  # of each locked process, by its name in a race: of each rival, how many times as long


def slowness(path: Path, workload: str) -> dict[str, dict[str, float]]:
    """By the medians of the ratios, round by round. Raises `ValueError` where the file has no such figures."""
    try:
        cases = json.loads(path.read_text())["cases"]
        case = next(c for c in cases if c["metric"] == "throughput" and c["settings"]["workload"] == workload)
        rates = {name: found["rounds"] for name, found in case["contenders"].items()}
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise ValueError(f"{path} has no throughput of {workload}") from error
    rivals = [name for name in rates if name.startswith(PARALLEL)]
    locked = [name for name in rates if name.startswith(LOCKED)]
    if not rivals or not locked:
        raise ValueError(f"{path} has no locked process, or no rival of several")
    return {
        f"locked ({one.removeprefix(LOCKED).replace(',', '')})": {
            rival: statistics.median(a / b for a, b in zip(rates[one], rates[rival], strict=True)) for rival in rivals
        }
        for one in locked
    }
