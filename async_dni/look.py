"""The commands that look at runs: `python -m async_dni summary RUN_DIR`, `python -m async_dni checkpoint RUN_DIR`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from .cli import Parser, cut, one_line
from .foundation.error import ConfigError
from .record.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint
from .record.run_dir import RunDir
from .view.output import lasting_output
from .view.summary import print_summary

COMMANDS = {
    "summary": ("what a run came to", "a run directory"),
    "checkpoint": ("what a checkpoint holds", "a run directory, or a checkpoint in one"),
}

MODELS = ("synthesizer", "auxiliary_head")  # that methods keep in their states


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, print; returns the exit status."""
    with lasting_output("async_dni") as output:
        status = show(arguments)
    return status or int(output.failed)


def show(arguments: Sequence[str] | None) -> int:
    """Parse, print; returns the exit status. Raises `SystemExit` where the parser does."""
    parser = Parser(prog="async_dni", description="Train, and look at runs and their checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    commands.add_parser("train", help="train a network (train --help)")
    for name, (help, of_what) in COMMANDS.items():
        command = commands.add_parser(name, help=help)
        command.add_argument("path", type=Path, metavar="RUN_DIR", help=of_what)
    options = parser.parse_args(arguments)
    console = Console()
    try:
        {"summary": show_summary, "checkpoint": show_checkpoint}[options.command](console, options.path)
    except ConfigError as error:
        text = f"{parser.prog} {options.command}: got {cut(error.shown)}; {error.allowed}"
        print(one_line(text), file=sys.stderr)
        return 2
    return 0


def show_summary(console: Console, path: Path) -> None:
    """Print summary.json for a person."""
    run_dir = RunDir(path)
    try:
        print_summary(console, json.loads(run_dir.summary.read_text()), path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            "path", path, f"allowed: the directory of an ended run; {run_dir.summary} can't be read"
        ) from None


def show_checkpoint(console: Console, path: Path) -> None:
    """List a run's checkpoints, and what the newest (or the one named) holds."""
    newest = newest_checkpoint(path)
    checkpoint = load_checkpoint(newest)
    lines = [f"{other}  {other.stat().st_size:,} bytes" for other in list_checkpoints(newest.parent)]
    lines += [f"{newest.name}: after {checkpoint.step} batches, {checkpoint.wall_seconds:.1f} s of training"]
    lines += [f"  {name}: {value}" for name, value in checkpoint.identity.items()]
    for states, blocks in zip(checkpoint.stages, _blocks(checkpoint.blocks, checkpoint.split), strict=True):
        method = states["method"] or {}
        name, model = next(((key, method[key]) for key in MODELS if key in method), (MODELS[0], {}))
        lines.append(
            f"  stage of blocks {', '.join(blocks)}: {states['weight_version']} updates, "
            f"{name.replace('_', ' ')} of {sum(value.numel() for value in model.values()):,} numbers, "
            f"{len(states['pending'])} batches under way"
        )
    lines += [f"  {name}  {list(value.shape)} {value.dtype}" for name, value in checkpoint.model.items()]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _blocks(blocks: Sequence[str], split: Sequence[int]) -> list[Sequence[str]]:
    bounds = [0, *split, len(blocks)]
    return [blocks[first:last] for first, last in zip(bounds, bounds[1:], strict=False)]
