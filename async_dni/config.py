"""The settings of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .foundation.error import ConfigError
from .foundation.option import (
    Checked,
    devices,
    increasing,
    number,
    one_of,
    option,
    path,
    steps_or_epoch,
    whole,
    widths,
    zero_or_seconds,
)
from .learning.methods import METHODS, MethodSpec
from .learning.precision import PRECISIONS
from .learning.synthesizers import SYNTHESIZERS

OVERFLOWS = ("block", "drop")
DIVERGENCE_ACTIONS = ("stop", "skip", "restore")
MATMUL_PRECISIONS = tuple(PRECISIONS)
MOST_WORKERS = 1024
MOST_THREADS = 1024  # a worker

__all__ = ["MATMUL_PRECISIONS", "ConfigError", "TrainerConfig"]


@dataclass(frozen=True)
class TrainerConfig(Checked):
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
    method: str = option("cdni", "how a stage comes by its gradient", registry=METHODS)
    split: tuple[int, ...] | None = option(
        None,
        "blocks before which the network is cut, e.g. 1,2; default: balanced by measured cost",
        increasing,
        metavar="BLOCKS",
    )
    batch_size: int = option(250, "samples a batch", whole(1), metavar="N")
    synthesizer: str | None = option(
        None, "model that predicts the gradient; default: by the shape of a stage's output", registry=SYNTHESIZERS
    )
    synthesizer_lr: float | None = option(
        None,
        "learning rate of the synthesizers' Adam; default: that of the stages, if theirs is an Adam, else 0.001",
        number(above=0),
    )
    synthesizer_hidden: tuple[int, ...] | None = option(
        None,
        "hidden widths of the synthesizers, e.g. 1024,1024; default: the method's",
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
        "(highest), or, where PyTorch has them for the device and the size, TF32 (high), bfloat16 (medium; on CUDA TF32); "
        "default: medium for predictions of at least 32,768 numbers a batch, where PyTorch has it for them, else highest",
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
        "threads of each worker's arithmetic; default: OMP_NUM_THREADS, where it is set, else the cores (of a container, as many "
        "as its quota is whole cores) shared out, at least 1",
        whole(1, MOST_THREADS),
        metavar="N",
    )
    pin_cores: bool = option(False, "pin each worker to cores of its own, in turn", action="store_true")
    serial: bool = option(
        False, "run all stages in this process, in a defined order (for a debugger)", action="store_true"
    )
    run_dir: Path | None = option(
        None, "directory of the run's files; default of the command line: runs/<date-time>", path, metavar="DIR"
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
        self._check_method(METHODS[self.method])
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

    def _check_method(self, method: MethodSpec) -> None:
        """Raise `ConfigError` for settings that can't go with the method."""
        if not method.synthesizer:
            for name, without in (("synthesizer", None), ("synthesizer_every", 1)):
                if getattr(self, name) != without:
                    allowed = f"{method.name} has no synthesizers; allowed: {without or 'none'}"
                    raise ConfigError(name, getattr(self, name), allowed)
        if self.lag is not None and not method.gradients:
            raise ConfigError("lag", self.lag, f"with {method.name} no gradient comes back; allowed: none")
        if method.lag is not None and self.lag not in (None, method.lag):
            allowed = f"{method.name} waits for the gradient of each batch; allowed: {method.lag}"
            raise ConfigError("lag", self.lag, allowed)
        if self.synthesizer is not None and self.synthesizer_hidden and not SYNTHESIZERS[self.synthesizer].has_hidden:
            allowed = f"the {self.synthesizer} synthesizer has no hidden layers; allowed: none"
            raise ConfigError("synthesizer_hidden", self.synthesizer_hidden, allowed)
        if method.check is not None:
            method.check(self)

    @property
    def waits(self) -> bool:
        """Whether each update waits for the gradient that comes back from the loss."""
        return METHODS[self.method].waits

    @property
    def effective_lag(self) -> int | None:
        """The lag as set; else the method's, if it has one, and that of a serial run 1 where none is set."""
        return METHODS[self.method].lag or (1 if self.serial and self.lag is None else self.lag)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Hidden widths of the synthesizers, with the method's default filled in."""
        if self.synthesizer_hidden is not None:
            return self.synthesizer_hidden
        named = None if self.synthesizer is None else SYNTHESIZERS[self.synthesizer]
        return METHODS[self.method].synthesizer_hidden if named is None or named.has_hidden else ()
