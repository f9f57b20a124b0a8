"""Is what is promised to the last bit so for networks of other kinds? The largest difference of a run to its reference.

    cnn, resnet     on MNIST's images, with crops and flips, dropout, and a learning rate that changes with each batch
    transformer     on the characters of a file of Python's library, with dropout and the same
    lstm            on MNIST's rows, one after the other; its hidden states go from stage to stage, and carry gradients
    autocast        the cnn in bfloat16

    backprop        held against plain autograd: the same blocks in this process, loss.backward(), optimizer.step(), and the
                    scheduler's; random numbers of a stage's blocks are its own (`serial.stage_rng`)
    a fixed lag     held against serial, and, resumed at half its steps, against itself

Exit status 1 where a difference is another number than 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import checkout  # noqa: F401  (it finds the package)
import torch
from parity import beginning, difference
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from async_dni import MODELS, Trainer, load_dataset
from async_dni.fit.stream import make_stream
from async_dni.network.partition import partition
from async_dni.record.checkpoint import load_checkpoint, newest_checkpoint
from async_dni.record.run_dir import environment, write_json
from async_dni.runtime.serial import stage_rng

BATCH_SIZE, SEED, LAG, WORKERS = 50, 0, 3, 3
LAGGED = ("cdni", "dni", "delayed", "local")


class Rows(nn.Module):
    """Images `[batch, 1, height, width]` → their rows, `[batch, height, width]`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(1)


class Recurrent(nn.Module):
    """An LSTM that begins with the states of the one before: gives its outputs, and states `[1, batch, units]`."""

    def __init__(self, features: int, units: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, units, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.lstm(x) if isinstance(x, Tensor) else self.lstm(*x)


class Last(nn.Module):
    """Logits of the last output, and of the states, of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.linear = nn.Dropout(0.1), nn.Linear(32, 10)

    def forward(self, x: Any) -> Tensor:
        outputs, (hidden, _) = x
        return self.linear(self.dropout(outputs[:, -1] + hidden[0]))


def lstm() -> nn.Sequential:
    """Three, one after the other."""
    return nn.Sequential(nn.Sequential(Rows(), Recurrent(28)), Recurrent(32), Recurrent(32), Last())


@dataclass(frozen=True)
class Kind:
    """A network with its data."""

    name: str
    make: Callable[[], nn.Sequential]
    data: Any
    settings: dict[str, Any] = field(default_factory=dict)

    def network(self) -> nn.Sequential:
        """With the same initial weights every time."""
        torch.manual_seed(SEED)
        return self.make()


def kinds() -> list[Kind]:
    """All of them."""
    images, text = (
        beginning(load_dataset("mnist")[0]),
        load_dataset("text", Path(typing.__file__), sequence_length=24)[0],
    )
    images.images, images.labels = (
        images.images[:430],
        images.labels[:430],
    )  # so that the last batch of an epoch is smaller
    of_images = {"input_shape": (1, 28, 28), "num_classes": 10}
    cnn = partial(MODELS["cnn"].make, width=8, dropout=0.2, **of_images)
    resnet = partial(MODELS["resnet"].make, depth=8, width=8, **of_images)
    of_text = {"input_shape": (24,), "num_classes": text.num_classes}
    transformer = partial(MODELS["transformer"].make, depth=2, width=32, heads=4, dropout=0.1, **of_text)
    augmented = {"augment": ("crop", "flip")}
    return [
        Kind("cnn", cnn, images, augmented),
        Kind("resnet", lambda: nn.Sequential(*resnet(), nn.Dropout(0.1)), images, augmented),
        Kind("transformer", transformer, text),
        Kind("lstm", lstm, images),
        Kind("autocast", cnn, images, {**augmented, "autocast": "bfloat16"}),
    ]


def trainer_of(kind: Kind, method: str, steps: int, **settings: Any) -> Trainer:
    """As a user makes it."""
    network = kind.network()
    split = tuple(len(network) * k // WORKERS for k in range(1, WORKERS))
    return Trainer(
        network,
        workers=WORKERS,
        split=split,
        method=method,
        lag=None if method == "backprop" else LAG,
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        scheduler=partial(OneCycleLR, max_lr=2e-3, total_steps=steps + 1),
        batch_size=BATCH_SIZE,
        seed=SEED,
        device_map="cpu",
        threads_per_worker=1,
        synthesizer_hidden=(),
        **{**kind.settings, **settings},
    )


def train(kind: Kind, method: str, steps: int, resumed: bool = False, **settings: Any) -> dict[str, Any]:
    """All that the last checkpoint of a run holds; of one that was stopped at half its steps, and gone on with: `resumed`."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory, "run")
        trainer_of(kind, method, steps, run_dir=run_dir, **settings).fit(
            kind.data, steps=steps // 2 if resumed else steps
        )
        if resumed:
            trainer_of(kind, method, steps, resume=run_dir, **settings).fit(kind.data, steps=steps)
        checkpoint = load_checkpoint(newest_checkpoint(run_dir))
        return {"model": checkpoint.model, "stages": checkpoint.stages}


def train_plainly(kind: Kind, steps: int) -> dict[str, Tensor]:
    """The reference of locked training: nothing but PyTorch, and the batches."""
    trainer = trainer_of(kind, "backprop", steps)
    batches = make_stream(trainer.job, kind.data, None, steps)
    network, loss_fn = kind.network(), nn.CrossEntropyLoss()
    split = trainer.config.split
    assert split is not None
    stages, random = partition(network, split), [stage_rng(SEED, k).torch for k in range(WORKERS)]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    scheduler = OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps + 1)
    is_rounded = "autocast" in kind.settings
    for index in range(steps):
        batch = batches[index]
        with torch.autocast("cpu", torch.bfloat16, enabled=is_rounded):
            x = batch.x
            for k, stage in enumerate(stages):
                torch.set_rng_state(random[k])
                x = stage(x)
                random[k] = torch.get_rng_state()
            loss = loss_fn(x, batch.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return network.state_dict()


@dataclass(frozen=True)
class Row:
    """A comparison: the largest absolute difference, NaN where there is not the same to compare."""

    kind: str
    method: str
    reference: str
    difference: float


def compare(kind: Kind, methods: Sequence[str], steps: int) -> Iterator[Row]:
    """A kind's runs, each with its references."""
    if "backprop" in methods:
        locked = train(kind, "backprop", steps)["model"]
        yield Row(kind.name, "backprop", "autograd", difference(locked, train_plainly(kind, steps)))
    for method in [method for method in LAGGED if method in methods]:
        ours = train(kind, method, steps)
        name = f"{method}, lag {LAG}"
        yield Row(kind.name, name, "serial", difference(ours, train(kind, method, steps, serial=True)))
        if method != "delayed":  # which learns from all that is under way before a checkpoint
            yield Row(kind.name, name, "resumed", difference(ours, train(kind, method, steps, resumed=True)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="parity_kinds.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("cnn", "resnet", "transformer", "lstm", "autocast")
    parser.add_argument("--only", choices=names, action="append", help="these only")
    parser.add_argument("--steps", type=int, default=24, metavar="N", help="batches of a run (default: 24)")
    parser.add_argument("--quick", action="store_true", help="backprop and cdni only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file, too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as each worker: results may depend on it
    console, rows = Console(), list[Row]()
    table = Table("network", "method", "reference", "difference", "", box=None, pad_edge=False)
    methods = ("backprop", "cdni") if options.quick else ("backprop", *LAGGED)
    for kind in kinds():
        if options.only is None or kind.name in options.only:
            rows += compare(kind, methods, options.steps)
    for row in rows:
        verdict = "[green]kept" if row.difference == 0 else "[bold red]BROKEN"
        table.add_row(row.kind, row.method, row.reference, f"{row.difference:.3g}", verdict)
    console.print(f"largest absolute differences after {options.steps} steps, {WORKERS} workers\n")
    console.print(table)
    broken = sum(row.difference != 0 for row in rows)
    console.print(f"\n{broken} of {len(rows)} promises broken" if broken else f"\nall {len(rows)} promises kept")
    if options.json is not None:
        content = {"benchmark": "parity_kinds", "environment": environment(), "rows": [asdict(row) for row in rows]}
        write_json(options.json, content)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
