"""A program that is one host of a run, as torchrun starts it: `python on_host.py '{"workers": 3, …}'`.

Trains a small network on made-up data, and writes what `fit` returned to OUT/<rank>.pt. What else it is asked for: "weights",
a seed of the initial weights, by rank; "samples"; "steps"; "deadly", a stage whose first worker kills itself in batch 6, or
("whom": "host") its host's process, or ("whom": "raises") raises; "slow", seconds that a batch takes;
"wide", features between layers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from async_dni import ConfigError, HostError, Trainer, WorkerError

WIDTH, CLASSES, ROWS, AT = 6, 3, 8, 6


class Layer(nn.Module):
    """Linear, normalised, ReLU; and what it is to do in a batch."""

    def __init__(self, inputs: int, outputs: int, slow: float = 0.0, whom: str = "", mark: str = "") -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())
        self.slow, self.whom, self.mark, self.batches = slow, whom, mark, 0

    def forward(self, x: Tensor) -> Tensor:
        trains = parent_process() is not None  # in a worker
        if trains and self.slow:
            time.sleep(self.slow)
        self.batches += trains
        if trains and self.whom and self.batches == AT and not os.path.exists(self.mark):
            Path(self.mark).touch()
            if self.whom == "raises":
                raise ArithmeticError("of its own")
            parent = parent_process()
            assert parent is not None
            os.kill(os.getpid() if self.whom == "worker" else int(parent.pid or 0), signal.SIGKILL)
        y: Tensor = self.layers(x)
        return y


def network(asked: dict[str, Any], rank: int, mark: str) -> nn.Sequential:
    torch.manual_seed(asked.get("weights", [0] * 9)[rank])
    deadly, whom = asked.get("deadly"), asked.get("whom", "worker")
    wide = asked.get("wide", WIDTH)
    layers = [
        Layer(wide if stage else WIDTH, wide, asked.get("slow", 0.0), whom if stage == deadly else "", mark)
        for stage in range(asked["workers"] - 1)
    ]
    return nn.Sequential(*layers, nn.Linear(wide, CLASSES))


def data(samples: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(samples, WIDTH, generator=generator)
    return TensorDataset(x, x[:, :CLASSES].argmax(1))


OWN = ("weights", "samples", "steps", "deadly", "whom", "slow", "wide", "out", "differs")


def main() -> int:
    asked = json.loads(sys.argv[1])
    rank = int(os.environ.get("RANK", "0"))
    asked |= asked.get("differs", {}).get(str(rank), {})
    out = Path(asked["out"])
    settings = {name: value for name, value in asked.items() if name not in OWN}
    try:
        trainer = Trainer(network(asked, rank, str(out / "died")), progress="plain" if rank == 0 else None, **settings)
        dataset = data(asked.get("samples", 100))
        result = trainer.fit(dataset, steps=asked.get("steps", 12), eval_set=dataset)
    except ConfigError as error:
        print(f"refused: {error}")
        return 2
    except (HostError, WorkerError) as error:
        print(f"failed: {error}")
        return 1
    torch.save(
        {"model": result.model.state_dict(), "summary": json.dumps(result.summary, default=str)}, out / f"{rank}.pt"
    )
    print("trained", len(result.history), result.test_error is not None)
    return 0 if result.interrupted_by is None else 128 + result.interrupted_by


if __name__ == "__main__":
    sys.exit(main())
