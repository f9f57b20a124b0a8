"""Settings of a training: how samples are loaded, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass

from ..foundation.option import option, whole

AUGMENTATIONS = ("crop", "flip")
MOST_LOADERS = 64


def word(value: object) -> str | None:
    """Check that a value is a word."""
    return None if isinstance(value, str) and value else "allowed: a name"


def augmentations(value: object) -> str | None:
    """Check that a value is a sequence of augmentations (it may be empty)."""
    fits = isinstance(value, tuple | list) and all(name in AUGMENTATIONS for name in value)
    return None if fits else f"allowed: {', '.join(AUGMENTATIONS)}, separated by commas"


@dataclass(frozen=True)
class Data:
    """How samples are loaded, and what is made of them."""

    loader_workers: int = option(
        0,
        "processes that load the training set's batches ahead, in worker 0's stead; the batches are the same for any number; "
        "0, and with --serial: worker 0 loads them itself",
        whole(0, MOST_LOADERS),
        metavar="N",
    )
    augment: tuple[str, ...] = option(
        (),
        "what becomes of the images of the training set, anew in each epoch: crop (of the image's size, at a place up to 4 "
        "pixels off), flip (left to right, every other one), or both: crop,flip",
        augmentations,
        metavar="NAMES",
    )
    target: str | None = option(
        None,
        "which entry of samples that are dictionaries is the target; default: labels, label, target, targets or y",
        word,
    )
