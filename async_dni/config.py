"""The settings of a run: frozen dataclasses, each checked when it is made.

Every setting is a field made by `option`, which carries its help text and its check, so that the command line can be
generated from the fields and neither can drift from the other. A setting that is refused raises `ConfigError`, one
sentence that names the setting, what was given and what is allowed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .learning.precision import PRECISIONS

METHODS = ("cdni", "dni", "delayed", "backprop")
TRUE_GRADIENT_METHODS = ("delayed", "backprop")  # each update waits for the gradient that comes back from the loss
OVERFLOWS = ("block", "drop")
DIVERGENCE_ACTIONS = ("stop", "skip", "restore")
MATMUL_PRECISIONS = tuple(PRECISIONS)
MODELS = ("fcn", "tanh")
DATASETS = ("mnist", "fashion-mnist", "cifar10")
OPTIMIZERS = ("adam", "sgd")
IMAGE_SIZES = (28, 32)
MOST_WORKERS = 1024
MOST_UNITS = 1_000_000  # a layer; what fits in memory is less


class ConfigError(ValueError):
    """A setting that can't be used: `setting` is its field name, `allowed` what would have been right."""

    def __init__(self, setting: str, given: object, allowed: str) -> None:
        super().__init__(setting, given, allowed)
        self.setting, self.given, self.allowed = setting, given, allowed

    def __str__(self) -> str:
        return f"{self.setting}: got {self.shown}; {self.allowed}"

    @property
    def shown(self) -> str:
        """What was given, as it is typed."""
        return ",".join(map(str, self.given)) if isinstance(self.given, tuple | list) else str(self.given)


Check = Callable[[Any], str | None]
"""Returns what is allowed when the value is not, else None."""


def option(default: Any, help: str, check: Check | None = None, **parser: Any) -> Any:
    """A dataclass field with its help text, its check, and what `argparse` needs to know of it."""
    return dataclasses.field(default=default, metadata={"help": help, "check": check, "parser": parser})


def one_of(choices: Sequence[object]) -> Check:
    """Check that a value is one of `choices`."""
    allowed = "allowed: " + ", ".join(str(choice) for choice in choices)
    return lambda value: None if value in choices else allowed


def whole(minimum: int, maximum: int | None = None) -> Check:
    """Check that a value is an int of at least `minimum` (and at most `maximum`)."""
    allowed = f"allowed: a whole number of at least {minimum}" + (
        f" and at most {maximum}" if maximum is not None else ""
    )
    limit = math.inf if maximum is None else maximum
    return lambda value: None if type(value) is int and minimum <= value <= limit else allowed


def number(*, above: float | None = None, least: float | None = None, below: float = math.inf) -> Check:
    """Check that a value is a finite number over `above` (or at least `least`) and under `below`."""
    bounds = [f"above {above:g}"] if above is not None else [f"of at least {least:g}"]
    bounds += [f"below {below:g}"] if below < math.inf else []
    allowed = "allowed: a finite number " + " and ".join(bounds)

    def check(value: Any) -> str | None:
        fits = isinstance(value, int | float) and math.isfinite(value) and value < below
        fits = fits and (value > above if above is not None else value >= (least or 0.0))
        return None if fits else allowed

    return check


def widths(value: Any) -> str | None:
    """Check that a value is a sequence of numbers of units (it may be empty)."""
    fits = isinstance(value, Sequence) and all(type(item) is int and 1 <= item <= MOST_UNITS for item in value)
    return None if fits else f"allowed: whole numbers of at least 1 and at most {MOST_UNITS}, separated by commas"


def increasing(value: Any) -> str | None:
    """Check that a value is a strictly increasing sequence of whole numbers of at least 1."""
    fits = widths(value) is None and all(a < b for a, b in zip(value, value[1:], strict=False))
    return None if fits and len(value) else "allowed: increasing whole numbers of at least 1, separated by commas"


def path(value: Any) -> str | None:
    """Check that a value is a path."""
    return None if isinstance(value, str | Path) else "allowed: a path"


def devices(value: Any) -> str | None:
    """Check that a value can name devices; `assign_devices` knows which there are."""
    return None if isinstance(value, str) else "allowed: auto, cpu, cuda, or one device a worker, separated by commas"


def zero_or_seconds(value: Any) -> str | None:
    """Check that a value is 0, or seconds of at least 1: a worker that waits shows itself every half second."""
    fits = isinstance(value, int | float) and (value == 0 or 1 <= value < 1e6)
    return None if fits else "allowed: 0, or a finite number of at least 1 and below 1e+06"


def steps_or_epoch(value: Any) -> str | None:
    """Check that a value is a whole number or `epoch`."""
    fits = value == "epoch" or (type(value) is int and value >= 0)
    return None if fits else "allowed: a whole number of at least 0, or epoch"


class _Checked:
    """Checks every field of a dataclass when it is made; None is allowed where it is the default."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, check = getattr(self, field.name), field.metadata.get("check")
            if check is None or (value is None and field.default is None):
                continue
            if allowed := check(value):
                raise ConfigError(field.name, value, allowed)


@dataclass(frozen=True)
class TrainerConfig(_Checked):
    """How a network is trained: what `Trainer` takes beside the model, the loss and the optimizer."""

    workers: int = option(
        3, "stages, one process each; at most one per block of the network", whole(1, MOST_WORKERS), metavar="N"
    )
    device_map: str = option(
        "auto",
        "auto (CUDA devices in turn, if any, else cpu), cpu, cuda, or one device a worker: cuda:0,cuda:1,cpu",
        devices,
        metavar="SPEC",
        nargs="?",
        const="auto",
    )
    method: str = option(
        "cdni",
        "how a stage comes by its gradient: synthetic, seeing the labels (cdni) or not (dni); true, when it comes back, "
        "some batches late (delayed); true, waited for on each batch (backprop: locked)",
        one_of(METHODS),
        choices=METHODS,
    )
    split: tuple[int, ...] | None = option(
        None,
        "blocks before which the network is cut, e.g. 1,2; default: balanced by measured cost",
        increasing,
        metavar="BLOCKS",
    )
    batch_size: int = option(250, "samples a batch", whole(1), metavar="N")
    synthesizer_lr: float | None = option(
        None,
        "learning rate of the synthesizers' Adam; default: that of the stages, if theirs is an Adam, else 0.001",
        number(above=0),
    )
    synthesizer_hidden: tuple[int, ...] | None = option(
        None,
        "hidden widths of the synthesizers, e.g. 1024,1024; default: 1024,1024 for dni, none (linear) for cdni",
        widths,
    )
    synthesizer_every: int = option(
        1,
        "learn from the gradient of every N-th batch only; the others are not computed or sent; saves time, but a deep "
        "network may come apart with it",
        whole(1),
        metavar="N",
    )
    synthesizer_matmul_precision: str | None = option(
        None,
        "precision of the synthesizers' products of matrices, as torch.set_float32_matmul_precision has it: float32 "
        "(highest), or, where the device has them, TF32 (high), bfloat16 (medium; on CUDA TF32); default: medium for "
        "predictions of at least 32,768 numbers a batch, else highest, which is faster for small ones",
        one_of(MATMUL_PRECISIONS),
        choices=MATMUL_PRECISIONS,
    )
    matmul_precision: str | None = option(
        None,
        "the same of the layers' products; default: as PyTorch is set in the process (highest, if by nobody)",
        one_of(MATMUL_PRECISIONS),
        choices=MATMUL_PRECISIONS,
    )
    seed: int = option(0, "seed of the initial weights and of the order of the data", whole(0, 2**32 - 1), metavar="N")
    queue_capacity: int = option(4, "batches a queue between two workers holds", whole(1), metavar="N")
    overflow: str = option(
        "block",
        "when the activation queue is full: wait for room (block) or train on without sending (drop)",
        one_of(OVERFLOWS),
        choices=OVERFLOWS,
    )
    lag: int | None = option(
        None,
        "learn from the gradient of batch b exactly before batch b+N is begun, so that the result depends on the seed "
        "alone; default: when it comes",
        whole(1),
        metavar="N",
    )
    threads_per_worker: int | None = option(
        None,
        "threads of each worker's arithmetic; default: the cores shared out, at least 1",
        whole(1, 1024),
        metavar="N",
    )
    pin_cores: bool = option(False, "pin each worker to cores of its own, in turn", action="store_true")
    serial: bool = option(
        False, "run all stages in this process, in a defined order (for a debugger)", action="store_true"
    )
    run_dir: Path | None = option(
        None, "directory of the run's files; default of launch.py: runs/<date-time>", path, metavar="DIR"
    )
    resume: Path | None = option(None, "run directory, or checkpoint in one, to go on from", path, metavar="RUN_DIR")
    checkpoint_every: int | str = option(
        0, "batches between checkpoints, or `epoch`; 0: at the end only", steps_or_epoch, metavar="STEPS|epoch"
    )
    keep_checkpoints: int = option(3, "newest checkpoints to keep", whole(1), metavar="N")
    eval_every: int = option(1, "epochs between evaluations; 0: at the end only", whole(0), metavar="EPOCHS")
    snapshot_every: int = option(
        200,
        "batches between a worker's snapshots in memory, which it is restarted from; 0: none",
        whole(0),
        metavar="N",
    )
    max_restarts: int = option(
        3, "workers that were killed or hang are started again so many times in a run", whole(0), metavar="N"
    )
    heartbeat_timeout: float = option(
        60.0,
        "seconds, at least 1, after which a worker that enters no phase is taken to hang, and killed; 0: never",
        zero_or_seconds,
        metavar="SECONDS",
    )
    on_divergence: str = option(
        "stop",
        "when a loss, gradient or output is not finite: end the run (stop), pass over the update (skip), or take up the "
        "stage's last snapshot and go on (restore)",
        one_of(DIVERGENCE_ACTIONS),
        choices=DIVERGENCE_ACTIONS,
    )
    clip_grad_norm: float | None = option(
        None,
        "scale the gradients of a stage's layers down to this norm, and what goes upstream with them where they came of a "
        "synthesizer; default: never",
        number(above=0),
        metavar="NORM",
    )
    start_timeout: float = option(
        120.0, "seconds that the workers may take to become ready", number(above=0, below=1e6), metavar="SECONDS"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("run_dir", "resume"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        if self.split is not None and len(self.split) != self.workers - 1:
            cuts = f"{len(self.split)} cuts ({','.join(map(str, self.split))})"
            raise ConfigError("split", cuts, f"{self.workers} workers need {self.workers - 1}")
        if self.overflow == "drop":
            for name, why in (
                ("method", f"{self.method} waits for the gradient of each batch" * (self.waits)),
                ("lag", "a fixed lag waits for the gradient of each batch" * (self.lag is not None)),
                ("serial", "one process has no queues" * self.serial),
            ):
                if why:
                    raise ConfigError("overflow", "drop", f"{why}; allowed with --{name} {getattr(self, name)}: block")
        if self.waits and self.synthesizer_every != 1:
            allowed = f"{self.method} has no synthesizers; allowed: 1"
            raise ConfigError("synthesizer_every", self.synthesizer_every, allowed)
        if self.method == "backprop" and self.lag not in (None, 1):
            raise ConfigError("lag", self.lag, "backprop waits for the gradient of each batch; allowed: 1")
        if self.method == "delayed" and self.lag is not None and self.lag > self.queue_capacity:
            allowed = f"delayed has at most --queue-capacity batches in flight; allowed: 1 to {self.queue_capacity}"
            raise ConfigError("lag", self.lag, allowed)
        if self.serial and self.on_divergence != "stop":
            raise ConfigError(
                "on_divergence", self.on_divergence, "one process has no snapshots; allowed with --serial: stop"
            )
        if self.on_divergence == "restore" and not self.snapshot_every:
            raise ConfigError(
                "on_divergence", "restore", "there is nothing to restore; allowed with --snapshot-every 0: stop, skip"
            )
        if self.resume is not None and self.run_dir is not None:
            raise ConfigError("run_dir", self.run_dir, f"a resumed run goes on in its own directory, {self.resume}")

    @property
    def waits(self) -> bool:
        """Whether each update waits for the gradient that comes back from the loss."""
        return self.method in TRUE_GRADIENT_METHODS

    @property
    def effective_lag(self) -> int | None:
        """The lag as set; backprop's is 1, and that of a serial run 1 where none is set."""
        return 1 if self.method == "backprop" or (self.serial and self.lag is None) else self.lag

    @property
    def hidden(self) -> tuple[int, ...]:
        """Hidden widths of the synthesizers, with the method's default filled in."""
        if self.synthesizer_hidden is not None:
            return self.synthesizer_hidden
        return (1024, 1024) if self.method == "dni" else ()


@dataclass(frozen=True)
class ExperimentConfig(_Checked):
    """What is trained: the network, data set, optimizer and length that the command line names."""

    model: str = option(
        "fcn", "fcn (Linear, BatchNorm, ReLU blocks) or tanh (one hidden layer)", one_of(MODELS), choices=MODELS
    )
    layers: int | None = option(
        None, "layers of fcn, the output layer included; default: 3", whole(1, 10_000), metavar="N"
    )
    width: int | None = option(
        None, "units a hidden layer; default: 256 (fcn), 2048 (tanh)", whole(1, MOST_UNITS), metavar="N"
    )
    dataset: str = option(
        "mnist", "mnist ships with the repository; the others are torchvision's", one_of(DATASETS), choices=DATASETS
    )
    data_dir: Path | None = option(
        None, "directory of the data sets; default: data/ of the repository", path, metavar="DIR"
    )
    image_size: int | None = option(
        None, "28, or 32 (28 padded); default: the data set's own", one_of(IMAGE_SIZES), metavar="{28,32}"
    )
    epochs: int | None = option(None, "passes over the training set; default: 10", whole(1), metavar="N")
    steps: int | None = option(None, "batches, instead of --epochs", whole(1), metavar="N")
    optimizer: str = option("adam", "optimizer of every stage", one_of(OPTIMIZERS), choices=OPTIMIZERS)
    lr: float = option(1e-3, "learning rate", number(above=0))
    momentum: float = option(0.9, "momentum of sgd", number(least=0, below=1))
    weight_decay: float = option(0.0, "weight decay (L2)", number(least=0))
    quiet: bool = option(False, "print the summary only", action="store_true")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None and self.steps is not None:
            raise ConfigError("steps", self.steps, f"give --epochs or --steps, not both (--epochs is {self.epochs})")
        if self.model == "tanh" and self.layers not in (None, 2):
            raise ConfigError("layers", self.layers, "tanh has 2 layers")
