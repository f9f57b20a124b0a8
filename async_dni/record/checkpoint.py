"""Checkpoints: consistent snapshots of a run, in files that are whole or not there.

A checkpoint is a cut after one batch index in all stages: parameters, buffers, optimizers, synthesizers and their
optimizers, random states, the position in the data, and what was under way: the outputs whose gradients had not been
learnt from, and those gradients. Where updates wait for gradients (`delayed`), the pipeline is drained for the cut
instead, since an autograd graph can't be kept.

    {"format", "version", "step", "wall_seconds", "identity", "blocks", "split",
     "model": the network's state dict, "stages": [what else each stage needs]}

Tensors and plain values only, read with `weights_only=True`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..foundation.atomic_file import write_atomically
from ..foundation.error import ConfigError
from ..learning.blocks import named_blocks
from ..learning.updates.updater import recut

FORMAT, VERSION = "async_dni checkpoint", 1
_NAME = re.compile(r"step-(\d+)\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """A run's state after `step` batches. `split`: index of each stage's first block, but for the first stage."""

    step: int
    wall_seconds: float
    identity: dict[str, Any]  # settings that a run that goes on from it must share: seed, batch size, method, …
    blocks: list[str]
    split: list[int]
    model: dict[str, Tensor]
    stages: list[dict[str, Any]]

    @classmethod
    def of(cls, states: Sequence[dict[str, Any]], **about: Any) -> Checkpoint:
        """From the stages' full states."""
        model = {name: value for state in states for name, value in state["model"].items()}
        stages = [{key: value for key, value in state.items() if key != "model"} for state in states]
        return cls(model=model, stages=stages, **about)

    def stage_states(self, split: Sequence[int]) -> list[dict[str, Any]]:
        """The stages' full states, cut at `split`.

        Where it is another split than the checkpoint's, parameters and optimizer states follow their blocks; a
        synthesizer, with what was under way to it, is kept where both splits cut after the same block.
        """
        bounds, old_bounds = [0, *split, len(self.blocks)], [0, *self.split, len(self.blocks)]
        optimizer = {name: state for stage in self.stages for name, state in (stage["optimizer"] or {}).items()}
        states = []
        for first, last in zip(bounds, bounds[1:], strict=False):
            names = tuple(f"{block}." for block in self.blocks[first:last])
            old = self.stages[old_bounds.index(last) - 1] if last in old_bounds else None
            same = old is not None and old_bounds[old_bounds.index(last) - 1] == first
            averages = {name: value for stage in self.stages for name, value in stage.get("average", {}).items()}
            states.append(
                {
                    "average": {name: value for name, value in averages.items() if name.startswith(names)},
                    "updates": recut([stage.get("updates", {}) for stage in self.stages], names),
                    "model": {name: value for name, value in self.model.items() if name.startswith(names)},
                    "optimizer": {name: state for name, state in optimizer.items() if name.startswith(names)},
                    "method": old and old["method"],
                    "weight_version": old["weight_version"] if old else self.step,
                    "pending": _under_way(old, same) if old else [],
                    "gradients": old["gradients"] if old else {},
                    "rng": old["rng"] if old and same else None,
                }
            )
        return without_orphans(states)

    def new_cuts(self, split: Sequence[int]) -> list[str]:
        """Names of the blocks after which `split` cuts and the checkpoint doesn't: their synthesizers start afresh."""
        return [self.blocks[cut - 1] for cut in split if cut not in self.split]

    def check(self, path: Path, model: nn.Sequential, identity: dict[str, Any]) -> None:
        """Raise `ConfigError` unless the checkpoint is of this network and of a run with these settings."""
        for name, value in identity.items():
            if self.identity.get(name) != value:
                was = self.identity.get(name)
                raise ConfigError(
                    "resume", path, f"its run had {name} {was}, this one has {value}; they must be the same"
                )
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in self.model.items()}
        blocks = [name for name, _ in named_blocks(model)]
        differing = sorted(set(shapes.items()) ^ set(found.items()))
        if differing:
            name = differing[0][0]
            given, wanted = found.get(name, "nothing"), shapes.get(name, "nothing")
            raise ConfigError("resume", path, f"it is of another network: {name} is {given} there and {wanted} here")
        if blocks != self.blocks:
            there, here = ", ".join(self.blocks), ", ".join(blocks)
            raise ConfigError("resume", path, f"it is of another network: its blocks are {there} there and {here} here")


def _under_way(stage: dict[str, Any], same: bool) -> list[dict[str, Any]]:
    """A stage's batches whose gradients are to come; with other layers, it has nothing to send upstream of them."""
    if same:
        return list(stage["pending"])
    return [_undeferred(pending) for pending in stage["pending"]]


def _undeferred(pending: dict[str, Any]) -> dict[str, Any]:
    """A batch of which nothing is to go upstream."""
    return {key: value for key, value in pending.items() if key != "deferred"}


def without_orphans(states: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The stages' states without the batches whose gradients are neither there nor to come from the next stage, and without
    what the stage before does not wait for, as it has it already: which of the two it would learn from would be chance."""
    kept: list[dict[str, Any]] = []
    coming: set[int] = set()
    for k in reversed(range(len(states))):
        state, before = states[k], states[k - 1] if k else {"pending": [], "gradients": {}}
        awaited = {p["index"] for p in before["pending"]} - before["gradients"].keys()
        pending = [
            p if p["index"] in awaited else _undeferred(p)
            for p in state["pending"]
            if p["index"] in state["gradients"] or p["index"] in coming
        ]
        kept.append({**state, "pending": pending})
        coming = {p["index"] for p in pending if "deferred" in p}
    return kept[::-1]


def save_checkpoint(directory: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint into `directory`, atomically, and remove all but the newest `keep`."""
    directory.mkdir(exist_ok=True)
    path = directory / f"step-{checkpoint.step:09d}.pt"
    content = {"format": FORMAT, "version": VERSION, **checkpoint.__dict__}
    for left in directory.glob(".step-*"):
        left.unlink(missing_ok=True)  # half written by a run that was killed
    write_atomically(path, lambda file: torch.save(content, file))
    earlier = [other for other in list_checkpoints(directory) if other.name <= path.name]
    for other in set(list_checkpoints(directory)) - set(earlier[-keep:]):
        other.unlink(missing_ok=True)  # too old, or of what came after the checkpoint that this run went back to
    return path


def list_checkpoints(directory: Path) -> list[Path]:
    """A directory's checkpoints, oldest first."""
    return sorted(path for path in directory.glob("step-*.pt") if _NAME.fullmatch(path.name))


def newest_checkpoint(path: Path) -> Path:
    """The newest checkpoint of a run directory, or the checkpoint file itself. Raises `ConfigError` where there is none."""
    if path.is_file():
        return path
    found = list_checkpoints(path / "checkpoints")
    if not found:
        raise ConfigError("resume", path, "allowed: a run directory with a checkpoint in checkpoints/; there is none")
    return found[-1]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises `ConfigError` for a file that is not one, or not whole; the file is left alone."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError("resume", path, f"it can't be read ({error.strerror})") from None
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # the unpickler raises whatever the bytes lead it to
            reason = " ".join(str(error).split())[:200]
            raise ConfigError("resume", path, f"the file is damaged, or is no checkpoint ({reason})") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT or "version" not in content:
        raise ConfigError("resume", path, "the file is no checkpoint of async_dni")
    if (version := content.pop("version")) != VERSION:
        raise ConfigError("resume", path, f"its format is version {version}; this program reads {VERSION}")
    kinds = {"step": int, "wall_seconds": float, "identity": dict, "blocks": list, "split": list, "stages": list}
    if set(content) != {*kinds, "model"} or not all(isinstance(content[name], kind) for name, kind in kinds.items()):
        raise ConfigError("resume", path, "the file is damaged, or is no checkpoint (fields are missing)")
    if not isinstance(content["model"], dict) or not all(isinstance(v, Tensor) for v in content["model"].values()):
        raise ConfigError("resume", path, "the file is damaged, or is no checkpoint (its network is none)")
    return Checkpoint(**content)
