"""How good is what comes out on networks of other kinds, by each method and number of workers, beside locked training?

    cnn           the paper's convolutional network on Fashion-MNIST (--fashion DIR): test error
    transformer   a decoder on the characters of a file of Python's library (--text FILE): bits a character
    own           examples/own_network.py, by --model FILE.py:make and --data FILE.py:data: test error

Each run is `launch.py` with the flags that are printed, in this process, with `--method`, `--workers` and `--seed` added: the
same batches, rate and number of steps for all. Locked training gives the same bits with any number of workers, and is run with
each of them all the same. The rate is Adam's usual one, tuned for none of them. Runs are free: no lag is fixed.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

import checkout  # noqa: F401  (it finds the package)
from harness import WIDTH
from rich.console import Console
from rich.table import Table
from workloads import FASHION, TEXT

from async_dni import METHODS
from async_dni.record.run_dir import environment, read_json_lines, write_json
from async_dni.train import main as train

LOCKED = "backprop"
OWN = Path(__file__).resolve().parents[1] / "examples" / "own_network.py"


@dataclass(frozen=True)
class Network:
    """A network with its data: flags of launch.py, and what is looked at in an evaluation."""

    name: str
    flags: tuple[str, ...]
    steps: int
    figure: str  # in an evaluation
    unit: str


def networks(fashion: Path, text: Path) -> list[Network]:
    """Those that are trained."""
    images = f"--dataset fashion-mnist --data-dir {fashion} --batch-size 100"
    cnn = f"--model cnn --layers 4 --width 16 {images}"
    characters = f"--dataset text --data-dir {text} --sequence-length 32 --batch-size 32 --metrics bits"
    transformer = f"--model transformer --model-arg width=48,depth=3,heads=4 {characters}"
    own = f"--model {OWN}:make --data {OWN}:data --batch-size 100"
    return [
        Network("cnn", tuple(cnn.split()), 300, "test_error", "%"),
        Network("transformer", tuple(transformer.split()), 400, "bits", "bits a character"),
        Network("own", tuple(own.split()), 800, "test_error", "%"),
    ]


@dataclass(frozen=True)
class Row:
    """What came of a method in so many workers, a figure a seed."""

    network: str
    method: str
    workers: int
    figures: tuple[float, ...]
    seconds: tuple[float, ...]


def measure(network: Network, method: str, workers: int, seed: int, steps: int) -> tuple[float, float]:
    """The figure at the end, and the seconds of training."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory, "run")
        flags = [*network.flags, "--steps", str(steps), "--eval-every", "0", "--device-map", "cpu", "--quiet"]
        flags += ["--method", method, "--workers", str(workers), "--seed", str(seed), "--run-dir", str(run_dir)]
        said = io.StringIO()
        with redirect_stdout(said):
            status = train(flags, "kinds.py")
        if status:
            raise SystemExit(f"{' '.join(flags)}: exit status {status}\n{said.getvalue()}")
        evaluation = read_json_lines(run_dir / "metrics.jsonl")[-1]
        figure = {**evaluation, **evaluation["metrics"]}[network.figure]
        return float(figure), float(json.loads((run_dir / "summary.json").read_text())["wall_seconds"])


def rows(chosen: Sequence[Network], options: argparse.Namespace, console: Console) -> Iterator[Row]:
    """Every network by every method in every number of workers: a row each, when its seeds are done."""
    for network in chosen:
        steps = options.steps or network.steps
        console.print(f"{network.name}: launch.py {' '.join(network.flags)} --steps {steps}", highlight=False)
        for method in options.methods:
            for workers in options.workers:
                found = [measure(network, method, workers, seed, steps) for seed in range(options.seeds)]
                figures, seconds = zip(*found, strict=True)
                yield Row(network.name, method, workers, figures, seconds)


def spread(values: Sequence[float], digits: int) -> str:
    """Median, least and most."""
    least, most = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return f"{statistics.median(values):.{digits}f} ({least} to {most})"


def show(network: Network, found: Sequence[Row], console: Console) -> None:
    """A network's table."""
    table = Table("method", "workers", network.unit, "beside locked, seed by seed", "seconds", title=network.name)
    locked = next((row for row in found if row.method == LOCKED), None)
    for row in found:
        beside = "" if locked is None else spread([a - b for a, b in zip(row.figures, locked.figures, strict=True)], 2)
        table.add_row(
            row.method, str(row.workers), spread(row.figures, 2), beside, f"{statistics.median(row.seconds):.1f}"
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="kinds.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("cnn", "transformer", "own"), action="append", help="these networks only")
    parser.add_argument(
        "--methods", type=lambda text: text.split(","), default=[LOCKED, "delayed", "local", "cdni", "dni"]
    )
    parser.add_argument("--workers", type=lambda text: [int(n) for n in text.split(",")], default=[2, 3, 4])
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument("--steps", type=int, metavar="N", help="batches of a run; default: 300 (cnn), 400, 800 (own)")
    parser.add_argument("--quick", action="store_true", help="10 batches, 1 seed, 2 workers")
    parser.add_argument(
        "--fashion", type=Path, default=FASHION, metavar="DIR", help=f"of Fashion-MNIST; default: {FASHION}"
    )
    parser.add_argument("--text", type=Path, default=TEXT, metavar="FILE", help=f"default: {TEXT}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file, too")
    options = parser.parse_args(arguments)
    if unknown := [method for method in options.methods if method not in METHODS]:
        parser.error(f"--methods: got {unknown[0]}; allowed: {', '.join(METHODS)}")
    if options.quick:
        options.steps, options.seeds, options.workers = 10, 1, [2]
    console, measured = Console(), list[Row]()
    if not console.is_terminal:
        console.width = WIDTH
    for network in networks(options.fashion, options.text):
        if options.only is None or network.name in options.only:
            found = list(rows([network], options, console))
            show(network, found, console)
            measured += found
    if options.json is not None:
        content = {"benchmark": "kinds", "environment": environment(), "rows": [asdict(row) for row in measured]}
        write_json(options.json, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
