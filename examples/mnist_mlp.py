"""MNIST with synthetic gradients, and with the same stages locked: which is better after as many batches, and which is sooner?

    python examples/mnist_mlp.py

MNIST ships with the repository. About 10 seconds on 2 cores.
"""

from __future__ import annotations

from functools import partial

import torch

from async_dni import Trainer, fcn, load_dataset


def main() -> None:
    """Train the paper's network of three layers by two methods."""
    train_set, test_set = load_dataset("mnist")
    optimizer = partial(torch.optim.Adam, lr=1e-3, fused=True)
    for method in ("cdni", "backprop"):
        torch.manual_seed(0)  # of the initial weights
        trainer = Trainer(fcn(layers=3, width=256), workers=3, method=method, optimizer=optimizer)
        result = trainer.fit(train_set, epochs=1, eval_set=test_set)
        seconds = result.summary["wall_seconds"]
        print(f"{method:8}  test error {result.test_error:.2f} % after {len(train_set)} samples in {seconds:.1f} s")


if __name__ == "__main__":  # workers are processes that import this file again
    main()
