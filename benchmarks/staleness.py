"""What do late gradients cost: the test error after the same number of steps, over the lag at which they are learnt from?

With `lag=N` the gradient of batch b is learnt from exactly before batch b + N is begun. With cdni it teaches a
synthesizer, and the layers' updates do not wait; with delayed it is the layers' update. The network (fully connected, 3
layers of 256 units, a layer a worker), batches, initial weights and seeds are the same for both, on MNIST; a seed a round.
The result is a function of the seed, and the same on any number of cores and with --serial, in one process.

delayed holds as many batches as its gradients are late, so the queues' capacity is the lag, and at least 4.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from case import Case, Metric, cases
from harness import chosen_from, fit, listed, parse_arguments, positive, report, take_turns

from async_dni import Trainer, fcn, load_dataset

METHODS = ("cdni", "delayed")
LAGS = (1, 2, 4, 8, 16, 32, 64)
LAYERS, WIDTH, BATCH_SIZE, LR = 3, 256, 250, 1e-3
ERROR = Metric("test error", "%")


def error_at(method: str, lag: int, steps: int, serial: bool, data: Sequence[Any], seed: int) -> float:
    """Test error in per cent after so many steps; `data`: the training and the test set."""
    torch.manual_seed(seed)
    train_set, test_set = data
    trainer = Trainer(
        fcn(LAYERS, WIDTH),
        workers=LAYERS,
        method=method,
        lag=lag,
        queue_capacity=max(lag, 4),
        batch_size=BATCH_SIZE,
        seed=seed,
        serial=serial,
        optimizer=partial(torch.optim.Adam, lr=LR, fused=True),
        threads_per_worker=1,  # sums may depend on how many there are
        device_map="cpu",
        eval_every=0,
    )
    error = fit(trainer, train_set, steps, test_set).test_error
    assert error is not None
    return error


def measure(options: argparse.Namespace) -> list[Case]:
    """A case a lag."""
    data = load_dataset("mnist")
    turns = {
        (method, lag): partial(error_at, method, lag, options.steps, options.serial, data)
        for lag in options.lags
        for method in options.methods
    }
    rounds = take_turns("staleness", turns, options.rounds)
    settings = {
        "network": f"fcn({LAYERS}, {WIDTH})",
        "workers": LAYERS,
        "batch_size": BATCH_SIZE,
        "steps": options.steps,
        "optimizer": f"fused Adam, lr {LR:g}",
        "seeds": list(range(options.rounds)),
        "serial": options.serial,
    }
    title = f"{LAYERS}x{WIDTH} in {LAYERS} stages, {options.steps} steps"
    measured = []
    for lag in options.lags:
        results = {method: [{ERROR: error} for error in rounds[method, lag]] for method in options.methods}
        measured += cases(f"lag {lag}: {title}", {**settings, "lag": lag}, results, panel=title)
    return measured


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument("--methods", type=chosen_from(METHODS), default=METHODS, metavar="NAMES", help="default: both")
    lags = ",".join(map(str, LAGS))
    count = positive(int)
    parser.add_argument("--lags", type=listed(count), metavar="N,N,…", help=f"default: {lags}; with --quick 1,16")
    parser.add_argument("--steps", type=count, metavar="N", help="batches to train on; default: 2000, with --quick 60")
    parser.add_argument("--serial", action="store_true", help="all stages in one process: the same bits")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options, rounds=3)
    options.lags = options.lags or ((1, 16) if options.quick else LAGS)
    options.steps = options.steps or (60 if options.quick else 2000)
    report("staleness", options, measure(options), x="lag", log2=True)


if __name__ == "__main__":
    main()
