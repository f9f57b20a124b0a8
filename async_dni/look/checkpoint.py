"""`checkpoint RUN_DIR`: a run's checkpoints, and what one holds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from rich.console import Console

from ..record.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint
from .command import Command, add_run_dir

MODELS = ("synthesizer", "auxiliary_head")  # that methods keep in their states


def show(options: argparse.Namespace, console: Console) -> None:
    """List a run's checkpoints, and what the newest (or the one named) holds."""
    newest = newest_checkpoint(options.path)
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


CHECKPOINT = Command(
    "checkpoint", "what a checkpoint holds", partial(add_run_dir, what="a run directory, or a checkpoint in one"), show
)
