"""Is what is promised to the last bit so? The largest difference of a run to its reference, on MNIST.

    method                    reference                                             what is compared
    backprop                  plain autograd: one nn.Sequential, loss.backward(),   parameters and buffers
                              optimizer.step(), in this process
    delayed, cdni, dni,       Serial: all stages in this process, in a defined      all that a checkpoint holds: also
    with a fixed lag          order; and a second run                               synthesizers, optimizers, what is
    (no lag: nothing is       (a second run, for comparison)                        under way, random states
    promised)

Exit status 1 where a difference that is promised to be 0 is another number.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import checkout  # noqa: F401  (it finds the package)
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from async_dni import ImageDataset, Trainer, fcn, load_dataset
from async_dni.data.stream import BatchStream
from async_dni.learning.stage import OptimizerFactory
from async_dni.record.checkpoint import load_checkpoint, newest_checkpoint
from async_dni.record.run_dir import environment, write_json

OPTIMIZERS: dict[str, OptimizerFactory] = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=1e-3),
}
BLOCKS, WIDTH, SEED = 6, 64, 0
SAMPLES, BATCH_SIZE = 10_000, 300  # 34 batches an epoch, the last of 100
HIDDEN = {"dni": (64,), "cdni": ()}  # hidden layers of the synthesizers
COLUMNS = ("method", "lag", "workers", "optimizer", "reference", "promised", "difference", "")


@dataclass(frozen=True)
class Case:
    """A run, and what it is held against."""

    method: str
    lag: int | None
    workers: int
    optimizer: str

    @property
    def is_promised(self) -> bool:
        """Whether it is to equal its references to the last bit."""
        return self.method == "backprop" or self.lag is not None


@dataclass(frozen=True)
class Row:
    """A comparison."""

    case: Case
    reference: str
    difference: float  # the largest absolute one; NaN where something is no number, or there is not the same to compare

    @property
    def is_broken(self) -> bool:
        """Whether a promise is."""
        return self.case.is_promised and self.difference != 0


def cases(quick: bool) -> Iterator[Case]:
    """What is compared; `quick`: a promise of each kind."""
    for optimizer in ["adam"] if quick else OPTIMIZERS:
        for workers in (3,) if quick else (1, 2, 3, 6):
            yield Case("backprop", None, workers, optimizer)
        for method in ("delayed", "cdni", "dni"):
            for lag in (4,) if quick else (1, 4):
                for workers in (3,) if quick else (1, 2, 3, 6):
                    yield Case(method, lag, workers, optimizer)
    if not quick:
        yield Case("cdni", None, 3, "adam")


def network() -> nn.Sequential:
    """The same initial weights every time."""
    torch.manual_seed(SEED)
    return fcn(BLOCKS, WIDTH)


def beginning(data: ImageDataset) -> ImageDataset:
    """The first images: so few that the smaller last batch of an epoch comes early."""
    data = copy.copy(data)
    data.images, data.labels = data.images[:SAMPLES].clone(), data.labels[:SAMPLES].clone()
    return data


def train(case: Case, data: ImageDataset, steps: int, *, serial: bool = False) -> dict[str, Any]:
    """A run as a user starts it; returns what its last checkpoint holds."""
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(
            network(),
            workers=case.workers,
            method=case.method,
            lag=case.lag,
            serial=serial,
            optimizer=OPTIMIZERS[case.optimizer],
            synthesizer_hidden=HIDDEN.get(case.method),
            batch_size=BATCH_SIZE,
            split=even_split(case.workers),
            device_map="cpu",
            threads_per_worker=1,
            seed=SEED,
            run_dir=Path(directory),
        )
        trainer.fit(data, steps=steps)
        checkpoint = load_checkpoint(newest_checkpoint(Path(directory)))
        return {"model": checkpoint.model, "stages": checkpoint.stages}


def even_split(workers: int) -> tuple[int, ...] | None:
    """Cuts that give every stage as many blocks; by default they depend on the time that blocks take."""
    return tuple(range(BLOCKS // workers, BLOCKS, BLOCKS // workers)) or None


def train_plainly(optimizer_name: str, data: ImageDataset, steps: int) -> dict[str, Tensor]:
    """The reference of locked training: nothing but PyTorch."""
    model, loss_fn = network(), nn.CrossEntropyLoss()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    for batch in BatchStream(data, BATCH_SIZE, steps, SEED):
        optimizer.zero_grad()
        loss = loss_fn(model(batch.x), batch.target)
        loss.backward()
        optimizer.step()
    return model.state_dict()


def compare(case: Case, data: ImageDataset, steps: int) -> Iterator[Row]:
    """Run a case and its references."""
    ours = train(case, data, steps)
    if case.method == "backprop":
        yield Row(case, "autograd", difference(ours["model"], train_plainly(case.optimizer, data, steps)))
        return
    if case.is_promised:
        yield Row(case, "serial", difference(ours, train(case, data, steps, serial=True)))
    yield Row(case, "second run", difference(ours, train(case, data, steps)))


def difference(a: object, b: object) -> float:
    """The largest absolute difference of two nests' numbers; NaN where there is not the same to compare."""
    ours, theirs = dict(numbers(a)), dict(numbers(b))
    if ours.keys() != theirs.keys() or any(ours[path].shape != theirs[path].shape for path in ours):
        return float("nan")
    gaps = [(ours[path] - theirs[path]).abs().max() for path in ours if ours[path].numel()]
    return float(torch.stack(gaps).max())


def numbers(tree: object, path: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], Tensor]]:
    """Every tensor and number of a nest, as float64, by where it is."""
    if isinstance(tree, Tensor | int | float):
        yield path, torch.as_tensor(tree).to(torch.float64)
    elif isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from numbers(value, (*path, key))


def as_cells(row: Row) -> list[str]:
    """A row of the table."""
    case = row.case
    lag = "" if case.method == "backprop" else "free" if case.lag is None else str(case.lag)
    promised = "0" if case.is_promised else "nothing"
    verdict = "[bold red]BROKEN" if row.is_broken else "[green]kept" if case.is_promised else ""
    cells = [case.method, lag, str(case.workers), case.optimizer, row.reference, promised]
    return [*cells, f"{row.difference:.3g}", verdict]


def write(path: Path, rows: Sequence[Row], steps: int) -> None:
    """The rows as JSON, with what they were measured on."""
    settings = {"steps": steps, "samples": SAMPLES, "batch_size": BATCH_SIZE}
    settings |= {"blocks": BLOCKS, "width": WIDTH, "seed": SEED}
    lines = [
        {
            **asdict(row.case),
            "reference": row.reference,
            "difference": None if math.isnan(row.difference) else row.difference,
            "is_promised": row.case.is_promised,
            "is_broken": row.is_broken,
        }
        for row in rows
    ]
    write_json(path, {"benchmark": "parity", "environment": environment(), "settings": settings, "rows": lines})


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="parity.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40, metavar="N", help="batches of a run (default: 40)")
    parser.add_argument("--quick", action="store_true", help="a promise of each kind only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file, too")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps: got {options.steps}; allowed: a whole number of at least 1")

    torch.set_num_threads(1)  # as each worker: BLAS results may depend on it
    console, data, rows = Console(), beginning(load_dataset("mnist")[0]), list[Row]()
    for case in with_status(list(cases(options.quick)), console):
        rows += compare(case, data, options.steps)

    console.print(f"largest absolute differences after {options.steps} steps of {BATCH_SIZE} MNIST images\n")
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*as_cells(row))
    console.print(table)
    broken = sum(row.is_broken for row in rows)
    promised = sum(row.case.is_promised for row in rows)
    console.print(f"\n{broken} of {promised} promises broken" if broken else f"\nall {promised} promises kept")
    if options.json is not None:
        write(options.json, rows, options.steps)
    return 1 if broken else 0


def with_status(given: Sequence[Case], console: Console) -> Iterator[Case]:
    """The cases, with a line on a terminal that says which is under way."""
    with console.status("") as status:
        for i, case in enumerate(given, 1):
            status.update(f"{i} of {len(given)}: {case.method}, lag {case.lag}, {case.workers} workers")
            yield case


if __name__ == "__main__":
    sys.exit(main())
