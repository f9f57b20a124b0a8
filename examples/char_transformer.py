"""A small transformer that reads Python's standard library character by character, each half in a process of its own.

    python examples/char_transformer.py

The text is a file that every Python has. Bits a character are those of the part that was held out. About a minute on 2 cores.
"""

from __future__ import annotations

import typing
from functools import partial
from pathlib import Path

import torch

from async_dni import MODELS, Trainer, load_dataset


def main() -> None:
    """Train it in two processes by two methods."""
    train_set, test_set = load_dataset("text", Path(typing.__file__), sequence_length=32)
    for method in (
        "delayed",
        "backprop",
    ):  # with "cdni" it learns from some starts, and from others no more than frequencies
        torch.manual_seed(0)
        model = MODELS["transformer"].make(
            depth=2, width=48, heads=4, input_shape=(32,), num_classes=train_set.num_classes
        )
        trainer = Trainer(
            model,
            workers=2,
            method=method,
            batch_size=32,
            optimizer=partial(torch.optim.Adam, lr=1e-3, fused=True),
            lr_schedule="cosine",
            warmup=20,
            metrics="bits",
        )
        result = trainer.fit(train_set, steps=400, eval_set=test_set)
        bits, rate = result.history[-1].metrics["bits"], result.summary["samples_per_second"]
        print(f"{method:8}  {bits:.2f} bits a character  {rate:,.0f} sequences/s")


if __name__ == "__main__":  # workers are processes that import this file again
    main()
