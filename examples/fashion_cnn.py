"""The paper's convolutional network on Fashion-MNIST, by the delayed true gradient, with augmentation and a schedule.

    python examples/fashion_cnn.py [DATA_DIR]

Fashion-MNIST is downloaded by torchvision, unless its files are in DATA_DIR: Debian's package dataset-fashion-mnist puts
them into /usr/share/datasets/fashion-mnist. About a minute on 2 cores.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

from async_dni import MODELS, Trainer, load_dataset

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def main() -> None:
    """Train it for 300 batches in three processes."""
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else DEBIAN if DEBIAN.is_dir() else None
    train_set, test_set = load_dataset("fashion-mnist", given)
    torch.manual_seed(0)
    model = MODELS["cnn"].make(width=16, input_shape=train_set[0][0].shape, num_classes=10)
    trainer = Trainer(
        model,
        workers=3,
        method="delayed",  # on feature maps, synthesizers cost more than they give
        batch_size=100,
        optimizer=partial(torch.optim.Adam, lr=2e-3, fused=True),
        lr_schedule="onecycle",
        augment=("flip",),
        loader_workers=1,  # so that augmentation does not hold up the first stage
    )
    result = trainer.fit(train_set, steps=300, eval_set=test_set)
    print(f"test error {result.test_error:.2f} % after {result.summary['samples']} samples")


if __name__ == "__main__":  # workers are processes that import this file again
    main()
