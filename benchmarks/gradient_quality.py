"""How good are the gradients that stages update with, stage by stage, while a network learns?

    fcn           20 layers of 256 units on MNIST
    cnn           two convolutions of 32 channels, and a linear layer, on Fashion-MNIST (--fashion DIR; without it, on MNIST)
    transformer   three blocks of 48 on the characters of a file of Python's library (--text FILE)

Each run is `launch.py` with the flags that are printed, in this process, with `--gradient-check-every`: on a batch that it has
not been trained on yet, the gradient that each stage but the last would update with (synthetic), and the one that the stage after
would send back (bootstrapped), are held against the true one, by backpropagation through the whole network. `--synthesizer NAME`,
as often as is liked, compares synthesizers; one that is not for a network's outputs is passed over there, and that is said.

    cos      the cosine of the two, taken as one vector: what the update of a stage's layers has of the true one's direction
    per s.   the mean of the samples' own cosines
    err      ‖a − δ‖ / ‖δ‖: 1 for a prediction of zero, 0 for the true gradient
    regr.    the error of the synthetic against the bootstrapped gradient, which is what the synthesizer learns
    ‖δ‖      of the true gradient of the loss, a mean over the batch

Medians over the seeds; the least and the most are in the JSON file. Runs are free: no lag is fixed, but by --flags="--lag 4".
"""

from __future__ import annotations

import argparse
import io
import shlex
import statistics
import sys
import tempfile
import typing
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import checkout  # noqa: F401  (it finds the package)
from harness import WIDTH, chosen_from, positive
from rich.console import Console
from rich.table import Table

from async_dni import METHODS
from async_dni.record.run_dir import environment, read_json_lines, write_json
from async_dni.train import main as train

FASHION, TEXT = Path("/usr/share/datasets/fashion-mnist"), Path(typing.__file__)
DEFAULT = "default"  # the synthesizer that nobody named
# those that answer at once: what waits for true gradients has nothing to check
CHECKED = [name for name in METHODS if not METHODS[name].waits]
NUMBERS = {  # of the table's columns: where each is in a stage of a check
    "cos": ("synthetic", "cosine"),
    "per s.": ("synthetic", "sample_cosine"),
    "err": ("synthetic", "error"),
    "bootstrapped cos": ("bootstrapped", "cosine"),
    "bootstr. err": ("bootstrapped", "error"),
    "regr.": ("regression", "error"),
}
REFUSED = 2  # the exit status for settings that can't be used


@dataclass(frozen=True)
class Network:
    """A network with its data: flags of launch.py."""

    name: str
    flags: str
    steps: int


def networks(fashion: Path, text: Path, quick: bool) -> list[Network]:
    """Those that are trained."""
    fcn = f"--dataset mnist --model fcn --layers {4 if quick else 20} --width {32 if quick else 256}"
    images = f"--dataset fashion-mnist --data-dir {fashion}" if fashion.is_dir() else "--dataset mnist"
    characters = f"--dataset text --data-dir {text} --sequence-length 32 --metrics bits"
    transformer = "--model transformer --model-arg width=48,depth=3,heads=4"
    return [
        Network("fcn", f"{fcn} --batch-size 256 --lr 5e-4", 1000),
        Network("cnn", f"{images} --model cnn --layers 3 --width {8 if quick else 32} --batch-size 128 --lr 5e-4", 600),
        Network("transformer", f"{characters} {transformer} --batch-size 32", 600),
    ]


@dataclass(frozen=True)
class Row:
    """What came of a method with a synthesizer: of each seed, the lines of metrics.jsonl."""

    network: str
    method: str
    synthesizer: str | None  # None: the method has none
    workers: int
    checks: list[list[dict[str, Any]]]
    evaluations: list[dict[str, Any]]  # at the end

    @property
    def name(self) -> str:
        """For a person."""
        return self.method if self.synthesizer is None else f"{self.method}, {self.synthesizer}"


def measure(flags: Sequence[str]) -> list[dict[str, Any]] | str:
    """The lines of a run's metrics.jsonl; a sentence where the settings can't be used."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory, "run")
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            status = train([*flags, "--run-dir", str(run_dir)], "gradient_quality.py")
        if status == REFUSED:
            return said.getvalue().strip()
        if status:
            raise SystemExit(f"{' '.join(flags)}: exit status {status}\n{said.getvalue()}")
        return read_json_lines(run_dir / "metrics.jsonl")


def contenders(options: argparse.Namespace) -> Iterator[tuple[str, str | None]]:
    """Methods, each that has synthesizers with all of them."""
    for method in options.methods:
        if not METHODS[method].synthesizer:
            yield method, None
        else:
            yield from ((method, synthesizer) for synthesizer in options.synthesizer or [DEFAULT])


def rows(network: Network, options: argparse.Namespace, console: Console) -> Iterator[Row]:
    """A network by every method with every synthesizer: a row each, when its seeds are done."""
    steps = options.steps or network.steps
    every = max(1, steps // options.checks)
    flags = [*shlex.split(network.flags), "--workers", str(options.workers), "--steps", str(steps)]
    flags += ["--gradient-check-every", str(every), "--eval-every", "0", "--device-map", "cpu", "--quiet"]
    flags += shlex.split(options.flags)
    console.print(f"{network.name}: launch.py {' '.join(flags)}", highlight=False)
    for method, synthesizer in contenders(options):
        own = ["--method", method] + (["--synthesizer", synthesizer] if synthesizer not in (None, DEFAULT) else [])
        found = []
        for seed in range(options.seeds):
            lines = measure([*flags, *own, "--seed", str(seed)])
            if isinstance(lines, str):
                console.print(f"{network.name}, {method}: {lines}", markup=False, highlight=False)
                break
            found.append(lines)
        else:
            checks = [[line for line in lines if "kind" in line] for lines in found]
            evaluations = [next(line for line in lines if "kind" not in line) for lines in found]
            yield Row(network.name, method, synthesizer, options.workers, checks, evaluations)


def median(values: Sequence[float | None], form: str = ".2f") -> str:
    """For a person; nothing where there is no number."""
    there = [value for value in values if value is not None]
    return format(statistics.median(there), form) if there else ""


def show(network: Network, found: Sequence[Row], console: Console) -> None:
    """A network's table: contender by contender, stage by stage, over the steps."""
    table = Table("contender", "stage", "step", title=network.name)
    for name in (*NUMBERS, "‖δ‖"):
        table.add_column(name, justify="right")
    for row in found:
        for stage in range(row.workers - 1):
            for checks in zip(*row.checks, strict=True):
                stages = [check["stages"][stage] for check in checks]
                cells = [median([(one[of] or {}).get(name) for one in stages]) for of, name in NUMBERS.values()]
                norm = median([one["norm"] for one in stages], ".1e")
                table.add_row(row.name, str(stage), str(checks[0]["step"]), *cells, norm)
        table.add_section()
    console.print(table)
    for row in found:
        figures = {"test loss": [one["test_loss"] for one in row.evaluations]}
        figures |= {"test error, %": [one["test_error"] for one in row.evaluations]}
        figures |= {name: [one["metrics"][name] for one in row.evaluations] for name in row.evaluations[0]["metrics"]}
        told = "  ".join(f"{name} {median(values)}" for name, values in figures.items())
        console.print(f"{row.name}, at the end: {told}", highlight=False)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with what --quick makes of them."""
    parser = argparse.ArgumentParser(
        prog="gradient_quality.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [network.name for network in networks(FASHION, TEXT, False)]
    count = positive(int)
    parser.add_argument("--only", choices=names, action="append", help="these networks only")
    parser.add_argument("--methods", type=chosen_from(CHECKED), default=CHECKED, metavar="NAMES", help="default: all")
    synthesizer_help = f"NAME[:setting=value…] as launch.py takes it, or `{DEFAULT}`; repeatable; default: {DEFAULT}"
    parser.add_argument("--synthesizer", action="append", metavar="NAME", help=synthesizer_help)
    parser.add_argument("--workers", type=count, default=3, metavar="N", help="2 or more (default: 3)")
    parser.add_argument("--seeds", type=count, default=1, metavar="N", help="seeds 0 to N - 1 (default: 1)")
    parser.add_argument("--steps", type=count, metavar="N", help="batches of a run; default: 1000 (fcn), 600, 600")
    parser.add_argument("--checks", type=count, default=5, metavar="N", help="in a run, evenly spread (default: 5)")
    parser.add_argument("--flags", default="", metavar="FLAGS", help='more of launch.py\'s, such as "--lr 1e-3"')
    parser.add_argument("--quick", action="store_true", help="10 batches of small networks, all in one process")
    parser.add_argument("--fashion", type=Path, default=FASHION, metavar="DIR", help=f"default: {FASHION}")
    parser.add_argument("--text", type=Path, default=TEXT, metavar="FILE", help=f"default: {TEXT}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file, too")
    options = parser.parse_args(arguments)
    if options.workers < 2:
        parser.error(f"--workers: got {options.workers}; allowed: at least 2, as the last has the loss's own gradient")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"--json: got {options.json}; allowed: a file in a directory that exists")
    if options.quick:
        options.steps, options.checks, options.flags = 10, 2, f"--serial {options.flags}"
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print; returns the exit status: that of what is refused where nothing was measured."""
    options = parsed(arguments)
    console, measured = Console(), list[Row]()
    if not console.is_terminal:
        console.width = WIDTH
    for network in networks(options.fashion, options.text, options.quick):
        if options.only is None or network.name in options.only:
            found = list(rows(network, options, console))
            if found:
                show(network, found, console)
            measured += found
    if options.json is not None:
        content = {
            "benchmark": "gradient_quality",
            "environment": environment(),
            "rows": [asdict(row) for row in measured],
        }
        write_json(options.json, content)
    return 0 if measured else REFUSED


if __name__ == "__main__":
    sys.exit(main())
