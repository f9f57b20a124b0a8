"""What a user can get wrong, and the sentence that it is refused with: on the command line, in files, in the library.

`COMMAND_LINE` are arguments of `launch.py`, `LIBRARY` what `Trainer(…).fit(…)` is given. All are refused before any
worker is started; on the command line with exit status 2.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from async_dni import Trainer
from async_dni.data.sets.mnist import MNIST_MD5
from async_dni.record.checkpoint import FORMAT, VERSION

ROOT = Path(__file__).resolve().parents[1]
LONG = "x" * 300  # longer than a file's name may be


# Files. Each of these makes something in a directory that arguments call {tmp}.


def nothing(tmp: Path) -> None:
    """Arguments that need no file."""


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def run_with(checkpoint: bytes | None = None, config: str | None = None) -> Callable[[Path], None]:
    """A run directory, {tmp}/run, with this checkpoint and config.json."""
    settings = {"workers": 3, "used": {"split": [1, 2]}}

    def make(tmp: Path) -> None:
        (tmp / "run" / "checkpoints").mkdir(parents=True)
        (tmp / "run" / "config.json").write_text(json.dumps(settings) if config is None else config)
        if checkpoint is not None:
            (tmp / "run" / "checkpoints" / "step-000000003.pt").write_bytes(checkpoint)

    return make


class Code:
    """Unpickled, it would run a command."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/async_dni_was_here",)


FIELDS = {"step": 3, "wall_seconds": 1.0, "identity": {}, "blocks": ["0"], "split": [], "stages": []}
CHECKPOINT = saved({"format": FORMAT, "version": VERSION, **FIELDS, "model": {"0.weight": torch.zeros(1)}})


def mnist_archive(content: bytes | None) -> Callable[[Path], None]:
    """{tmp}/mnist with this in the place of the first archive; None: without it."""

    def make(tmp: Path) -> None:
        (tmp / "mnist").mkdir()
        for name in MNIST_MD5:
            (tmp / "mnist" / f"{name}.gz").write_bytes(gzip.compress(b""))
        first = tmp / "mnist" / f"{next(iter(MNIST_MD5))}.gz"
        first.unlink() if content is None else first.write_bytes(content)

    return make


def idx(*shape: int, fill: int = 0) -> bytes:
    """An IDX file: magic number, shape, bytes."""
    count = 1
    for size in shape:
        count *= size
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes([fill]) * count


def fashion(images: bytes, labels: bytes) -> Callable[[Path], None]:
    """{tmp}/FashionMNIST with these training files and whole test files."""

    def make(tmp: Path) -> None:
        raw = tmp / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        (raw / "train-images-idx3-ubyte").write_bytes(images)
        (raw / "train-labels-idx1-ubyte").write_bytes(labels)
        (raw / "t10k-images-idx3-ubyte").write_bytes(idx(2, 28, 28))
        (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(2))

    return make


def a_file(content: str | bytes, name: str = "its.py") -> Callable[[Path], object]:
    """{tmp}/its.py, or another file, with this in it."""
    return lambda tmp: (tmp / name).write_bytes(content.encode() if isinstance(content, str) else content)


OWN = """
from torch import nn
from torch.nn import functional as F
WIDTH = 3
class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(784, width), nn.Linear(width, width), nn.Linear(width, 10)
    def forward(self, x):
        h = F.relu(self.a(x.flatten(1)))
        if h.sum() > 0: h = -h
        return self.c(self.b(h))
def number(): return 3
def fails(): return nn.Linear(1 // 0, 3)
def needs(depth): return nn.Identity()
def three(): return 1, 2, 3
def nothing(): pass
"""


@dataclass(frozen=True)
class BadArguments:
    """Arguments of `launch.py`, "{tmp}" being a directory in which `prepare` makes files."""

    name: str
    arguments: tuple[str, ...]
    sentence: str  # is in what is said
    prepare: Callable[[Path], object] = nothing

    def make(self, tmp: Path) -> list[str]:
        """The arguments, and the files that they name."""
        self.prepare(tmp)
        return [argument.replace("{tmp}", str(tmp)) for argument in self.arguments]

    def said(self, tmp: Path) -> str:
        """The sentence with the directory in it."""
        return self.sentence.replace("{tmp}", str(tmp))


def bad(arguments: str, sentence: str, prepare: Callable[[Path], object] = nothing, name: str = "") -> BadArguments:
    return BadArguments(name or arguments, tuple(arguments.split()), sentence, prepare)


SETTINGS = [
    bad("--workers 0", "--workers: got 0; allowed: a whole number of at least 1"),
    bad("--workers -3", "--workers: got -3; allowed: a whole number of at least 1"),
    bad("--workers two", "--workers: got two; allowed: a whole number of at least 1"),
    bad("--workers 2.0", "--workers: got 2.0; allowed: a whole number of at least 1 and at most 1024"),
    bad("--workers 100000", "--workers: got 100000; allowed: a whole number of at least 1 and at most 1024"),
    bad("--workers 4", "--workers: got 4; the network has 3 blocks; allowed: 1 to 3"),
    bad("--device-map cuda:17", "--device-map: got cuda:17; 'cuda:17' is not here; available: auto, cpu"),
    bad("--device-map tpu", "--device-map: got tpu; 'tpu' is not here; available: auto, cpu"),
    bad("--device-map cpu,cpu", "--device-map: got cpu,cpu; 2 devices for 3 workers"),
    bad("--device-map cpu,,cpu", "--device-map: got cpu,,cpu; '' is not here; available: auto, cpu"),
    bad("--split 2,1", "--split: got 2,1; allowed: increasing whole numbers"),
    bad("--split 0,1", "--split: got 0,1; allowed: increasing whole numbers"),
    bad("--split 1,3", "--split: got 1,3; the network has 3 blocks; allowed: cuts from 1 to 2"),
    bad("--split 1", "--split: got 1 cuts (1); 3 workers need 2"),
    bad("--split one", "--split: got one; allowed: increasing whole numbers"),
    bad("--split 1,,2", "--split: got 1,,2; allowed: increasing whole numbers"),
    bad("--split=", "--split: got ; allowed: increasing whole numbers"),
    bad("--method ddg", "--method: got ddg; allowed: cdni, dni, delayed, backprop"),
    bad(
        "--model alexnet",
        "--model: got alexnet; allowed: fcn, tanh, cnn, resnet, vgg, transformer, or path/to/file.py:name",
    ),
    bad("--model tanh --layers 5", "--layers: got 5; tanh has 2 layers"),
    bad("--layers 0", "--layers: got 0; allowed: a whole number of at least 1"),
    bad("--layers 1000000", "--layers: got 1000000; allowed: a whole number of at least 1 and at most 10000"),
    bad("--width 0", "--width: got 0; allowed: a whole number of at least 1"),
    bad("--width 1000000", "--width: got 1000000; the network would take 3,728.3 GiB, and "),
    bad("--dataset imagenet", "--dataset: got imagenet; allowed: mnist, fashion-mnist, cifar10, cifar100, text"),
    bad("--data-dir /nonexistent", "--data-dir: got /nonexistent; MNIST needs train-images-idx3-ubyte.gz"),
    bad("--image-size 30", "--image-size: got 30; allowed: 28, 32"),
    bad("--image-size 28 --dataset cifar10", "--image-size: got 28; cifar10 has images of 32×32; allowed: 32 or 32"),
    bad("--batch-size 0", "--batch-size: got 0; allowed: a whole number of at least 1"),
    bad("--batch-size 60001", "--batch-size: got 60001; the data set has 60000 samples; allowed: 1 to 60000"),
    bad("--batch-size 59999", "--batch-size: got 59999; batch norm needs two samples, and the last of 60000"),
    bad("--epochs 0", "--epochs: got 0; allowed: a whole number of at least 1"),
    bad("--epochs", "argument --epochs: expected one argument"),
    bad("--epochs 1 --steps 1", "--steps: got 1; give --epochs or --steps, not both"),
    bad("--steps 1e3", "--steps: got 1e3; allowed: a whole number of at least 1"),
    bad("--optimizer lbfgs", "--optimizer: got lbfgs; allowed: adam, nadam, sgd"),
    bad("--lr -0.1", "--lr: got -0.1; allowed: a finite number above 0"),
    bad("--lr nan", "--lr: got nan; allowed: a finite number above 0"),
    bad("--lr 1e999", "--lr: got inf; allowed: a finite number above 0"),
    bad("--lr fast", "--lr: got fast; allowed: a finite number above 0"),
    bad("--synthesizer-lr 0", "--synthesizer-lr: got 0.0; allowed: a finite number above 0"),
    bad("--momentum 1", "--momentum: got 1.0; allowed: a finite number of at least 0 and below 1"),
    bad("--weight-decay -1", "--weight-decay: got -1.0; allowed: a finite number of at least 0"),
    bad("--synthesizer-hidden 10,x", "--synthesizer-hidden: got 10,x; allowed: whole numbers of at least 1"),
    bad("--synthesizer-hidden 8,0", "--synthesizer-hidden: got 8,0; allowed: whole numbers of at least 1"),
    bad("--synthesizer-hidden 1000000,1000000", "a synthesizer for an output [256] would take 3,72"),
    bad("--synthesizer-every 0", "--synthesizer-every: got 0; allowed: a whole number of at least 1"),
    bad("--auxiliary-hidden 8,x --method local", "--auxiliary-hidden: got 8,x; allowed: whole numbers of at least 1"),
    bad("--auxiliary-hidden 8", "--auxiliary-hidden: got 8; cdni has no auxiliary heads; allowed: none"),
    bad("--auxiliary-hidden 1000000,1000000 --method local", "an auxiliary head for an output [256] would take 3,72"),
    bad(
        "--auxiliary-head its --method local",
        "--auxiliary-head: got its; allowed: path/to/file.py:name or package.module",
    ),
    bad(
        "--auxiliary-head {tmp}/its.py:three --method local",
        "--auxiliary-head: got three; it can't be made of (features, output_features) (TypeError: three() takes 0",
        a_file(OWN),
    ),
    bad("--target-lambda 1.5", "--target-lambda: got 1.5; allowed: a finite number of at least 0 and at most 1"),
    bad("--target-lambda -0.1", "--target-lambda: got -0.1; allowed: a finite number of at least 0 and at most 1"),
    bad("--target-lambda 0.5 --workers 2", "--target-lambda: got 0.5; 2 workers have no stage between others"),
    bad("--target-lambda 0.5 --method delayed", "--target-lambda: got 0.5; delayed has no synthesizers; allowed: 0.0"),
    bad("--synthesizer-every 2 --method backprop", "--synthesizer-every: got 2; backprop has no synthesizers"),
    bad("--seed -1", "--seed: got -1; allowed: a whole number of at least 0"),
    bad("--seed 4294967296", "--seed: got 4294967296; allowed: a whole number of at least 0 and at most 4294967295"),
    bad("--queue-capacity 0", "--queue-capacity: got 0; allowed: a whole number of at least 1"),
    bad("--queue-capacity 1000000000", "--queue-capacity: got 1000000000; the queues would take "),
    bad("--gradient-check-every -1", "--gradient-check-every: got -1; allowed: a whole number of at least 0"),
    bad(
        "--gradient-check-every 5 --method delayed", "--gradient-check-every: got 5; delayed waits for true gradients;"
    ),
    bad("--lag 0", "--lag: got 0; allowed: a whole number of at least 1"),
    bad("--lag 2 --method backprop", "--lag: got 2; backprop waits for the gradient of each batch; allowed: 1"),
    bad("--lag 5 --method delayed", "--lag: got 5; delayed has at most --queue-capacity batches in flight; allowed: 1"),
    bad("--overflow explode", "--overflow: got explode; allowed: block, drop"),
    bad("--lr-schedule wave", "--lr-schedule: got wave; allowed: constant, cosine, step, onecycle"),
    bad("--warmup -1", "--warmup: got -1; allowed: a whole number of at least 0"),
    bad("--warmup 9 --steps 9", "--warmup: got 9; the run has 9 steps in all; allowed: fewer than that"),
    bad("--synthesizer-lr-schedule none", "--synthesizer-lr-schedule: got none; allowed: same, constant"),
    bad("--stage-lr 0.1,x,0.1", "--stage-lr: got 0.1,x,0.1; allowed: finite numbers above 0, separated by commas"),
    bad("--stage-lr 0.1,0.2", "--stage-lr: got 0.1,0.2; 3 workers need 3, one each"),
    bad("--accumulate 0", "--accumulate: got 0; allowed: a whole number of at least 1"),
    bad("--ema 1", "--ema: got 1.0; allowed: a finite number above 0 and below 1"),
    bad("--autocast float8", "--autocast: got float8; allowed: bfloat16, float16"),
    bad("--metrics top5,top9", "--metrics: got top5,top9; allowed: top1, top5, perplexity, bits, r2, each once"),
    bad("--metrics r2", "--metrics: got r2; it finds no number in outputs [250, 10] and targets [250] torch.int64"),
    bad("--early-stopping -1", "--early-stopping: got -1; allowed: a whole number of at least 0"),
    bad("--early-stopping 2 --eval-every 0", "--early-stopping: got 2; there is one evaluation, at the end"),
    bad("--early-stopping-metric top5", "--early-stopping-metric: got top5; allowed: loss, error"),
    bad(
        "--synthesizer-matmul-precision half",
        "--synthesizer-matmul-precision: got half; allowed: highest, high, medium",
    ),
    bad("--method backprop --overflow drop", "--overflow: got drop; backprop waits"),
    bad("--lag 2 --overflow drop", "--overflow: got drop; a fixed lag waits"),
    bad("--serial --overflow drop", "--overflow: got drop; one process has no queues"),
    bad("--threads-per-worker 0", "--threads-per-worker: got 0; allowed: a whole number of at least 1"),
    bad(
        "--threads-per-worker 9999", "--threads-per-worker: got 9999; allowed: a whole number of at least 1 and at most"
    ),
    bad("--pin-cores=yes", "argument --pin-cores: ignored explicit argument 'yes'"),
    bad("--checkpoint-every epochs", "--checkpoint-every: got epochs; allowed: a whole number of at least 0, or epoch"),
    bad("--keep-checkpoints 0", "--keep-checkpoints: got 0; allowed: a whole number of at least 1"),
    bad("--eval-every -1", "--eval-every: got -1; allowed: a whole number of at least 0"),
    bad("--start-timeout 0", "--start-timeout: got 0.0; allowed: a finite number above 0"),
    bad("--start-timeout 1e9", "--start-timeout: got 1000000000.0; allowed: a finite number above 0 and below 1e+06"),
    bad("--frobnicate", "unrecognized arguments: --frobnicate"),
    bad("3", "unrecognized arguments: 3"),
    BadArguments("a line end", ("--method", "dni\nx"), r"--method: got dni\nx; allowed: cdni"),
    BadArguments("an escape", ("--model", "\x1b[31mfcn"), r"--model: got \x1b[31mfcn; allowed: fcn"),
    BadArguments("no UTF-8", ("--dataset", "mnist\udcff"), r"--dataset: got mnist\udcff; allowed: mnist"),
    BadArguments("a minus of another kind", ("--eval-every", "−1"), "--eval-every: got −1; allowed: a whole number"),
    BadArguments("a long text", ("--lr", "9" * 5000), "--lr: got inf; allowed: a finite number"),
    BadArguments("a longer number", ("--steps", "9" * 5000), "…99999; allowed: a whole number"[1:]),
]

FILES = [
    bad(f"--run-dir {ROOT}", f"--run-dir: got {ROOT}; the directory is not empty", name="run directory: taken"),
    bad(f"--run-dir {ROOT}/launch.py", "launch.py; this is a file; allowed: a new", name="run directory: a file"),
    bad(f"--run-dir {ROOT}/launch.py/run", "launch.py can't be written", name="run directory: below a file"),
    bad("--run-dir /proc/none/run", "--run-dir: got /proc/none/run; "),
    bad(f"--run-dir {LONG}", "--run-dir: got x", name="run directory: a long name"),
    bad("--resume {tmp}/run", "--resume: got {tmp}/run; allowed: a run directory", name="resume: missing"),
    bad("--resume {tmp}", "--resume: got {tmp}; allowed: a run directory", name="resume: an empty directory"),
    bad("--resume /dev/null", "--resume: got /dev/null; allowed: a run directory"),
    bad(f"--resume {LONG}", "it can't be read (File name too long)", name="resume: a long name"),
    bad(
        "--resume {tmp}/run --run-dir {tmp}/new",
        "--run-dir: got {tmp}/new; a resumed run goes on in its own directory, {tmp}/run",
        run_with(CHECKPOINT),
    ),
    bad(
        "--resume {tmp}/run",
        "--resume: got {tmp}/run; allowed: a run directory; {tmp}/run/config.json can't be read",
        run_with(config='{"workers": 3, "us'),
        name="resume: half a config.json",
    ),
    bad(
        "--resume {tmp}/run",
        "--workers: got three; allowed: a whole number",
        run_with(config='{"workers": "three", "used": {"split": [1, 2]}}'),
        name="resume: a setting that was edited",
    ),
    bad(
        "--resume {tmp}/run",
        "--resume: got {tmp}/run; allowed: a run directory with a checkpoint in checkpoints/; there is none",
        run_with(),
        name="resume: no checkpoint",
    ),
    bad(
        "--resume {tmp}/run",
        "step-000000003.pt; the file is damaged, or is no checkpoint (",
        run_with(b""),
        name="resume: an empty checkpoint",
    ),
    bad(
        "--resume {tmp}/run",
        "step-000000003.pt; the file is damaged, or is no checkpoint (",
        run_with(CHECKPOINT[:700]),
        name="resume: half a checkpoint",
    ),
    bad(
        "--resume {tmp}/run",
        f"step-000000003.pt; its format is version {VERSION + 1}; this program reads {VERSION}",
        run_with(saved({"format": FORMAT, "version": VERSION + 1})),
        name="resume: a checkpoint of another version",
    ),
    bad(
        "--resume {tmp}/run",
        "step-000000003.pt; the file is damaged, or is no checkpoint (",
        run_with(saved({"format": FORMAT, "version": VERSION, **FIELDS, "model": Code()})),
        name="resume: a checkpoint with code in it",
    ),
    bad(
        "--resume {tmp}/run",
        "step-000000003.pt; the file is damaged, or is no checkpoint (",
        run_with(pickle.dumps({"step": 3})),
        name="resume: a pickle",
    ),
    bad(
        "--resume {tmp}/run",
        "step-000000003.pt; the file is no checkpoint of async_dni",
        run_with(saved(nn.Linear(2, 2).state_dict())),
        name="resume: another program's state dict",
    ),
    bad(
        "--resume {tmp}/run",
        "step-000000003.pt; the file is damaged, or is no checkpoint (its network is none)",
        run_with(saved({"format": FORMAT, "version": VERSION, **FIELDS, "model": [1, 2]})),
        name="resume: a checkpoint without a network",
    ),
    bad(
        "--resume {tmp}/run",
        "step-000000003.pt; its run had method None, this one has cdni; they must be the same",
        run_with(CHECKPOINT),
        name="resume: a checkpoint of another run",
    ),
    bad(
        "--data-dir {tmp}",
        "--data-dir: got {tmp}; MNIST needs train-images-idx3-ubyte.gz",
        mnist_archive(None),
        name="data: an archive is missing",
    ),
    bad(
        "--data-dir {tmp}",
        "train-images-idx3-ubyte.gz can't be read as a gzip archive",
        mnist_archive(gzip.compress(b"images" * 1000)[:30]),
        name="data: half an archive",
    ),
    bad(
        "--data-dir {tmp}",
        "train-images-idx3-ubyte.gz can't be read as a gzip archive",
        mnist_archive(b"<html>not found</html>"),
        name="data: an error page in place of an archive",
    ),
    bad(
        "--data-dir {tmp}",
        "train-images-idx3-ubyte.gz is not MNIST's train-images-idx3-ubyte: the MD5 sum should be",
        mnist_archive(gzip.compress(b"images")),
        name="data: other content in an archive",
    ),
    bad(f"--data-dir {LONG}", "can't be read", name="data: a long name"),
    bad(f"--data-dir {ROOT}/launch.py", "launch.py", name="data: a file for a directory"),
    bad(
        "--dataset fashion-mnist --data-dir {tmp}",
        "--data-dir: got {tmp}; fashion-mnist can't be read or downloaded; its files go to {tmp}/FashionMNIST/raw",
        fashion(idx(6, 28, 28)[:1000], idx(6)),
        name="data: half a file",
    ),
    bad(
        "--dataset fashion-mnist --data-dir {tmp}",
        "--data-dir: got {tmp}; fashion-mnist can't be read or downloaded; its files go to {tmp}/FashionMNIST/raw",
        fashion(b"\x89PNG" + idx(6, 28, 28)[4:], idx(6)),
        name="data: a magic number of another format",
    ),
    bad(
        "--dataset fashion-mnist --data-dir {tmp}",
        "training files in {tmp}/FashionMNIST/raw: 6 images and 5 labels; allowed: as many",
        fashion(idx(6, 28, 28), idx(5)),
        name="data: a label too few",
    ),
    bad(
        "--dataset fashion-mnist --data-dir {tmp}",
        "training files in {tmp}/FashionMNIST/raw: sample 0 has label 12; allowed: 0 to 9",
        fashion(idx(6, 28, 28), idx(6, fill=12)),
        name="data: a label of no class",
    ),
    bad(
        "--dataset fashion-mnist --data-dir {tmp}",
        "training files in {tmp}/FashionMNIST/raw: images of 8×8; allowed: 28×28",
        fashion(idx(6, 8, 8), idx(6)),
        name="data: images of another size",
    ),
    bad(
        "--dataset fashion-mnist --data-dir {tmp}",
        "--data-dir: got {tmp}; fashion-mnist can't be read or downloaded; its files go to {tmp}/FashionMNIST/raw",
        fashion(idx(0, 28, 28), idx(0)),
        name="data: no images",
    ),
]

OWNS = [
    bad("--model its.py:make", "--model: got its.py:make; there is no file its.py; allowed: path/to/file.py:name"),
    bad("--model none.such:make", "none.such can't be imported (ModuleNotFoundError: No module named 'none')"),
    bad("--model its.py", "--model: got its.py; allowed: fcn, tanh, cnn, resnet, vgg, transformer, or path/to/file.py"),
    bad("--model its.py:", "--model: got its.py:; allowed: fcn, tanh, "),
    bad("--model {tmp}/its.py:make", "{tmp}/its.py has no make; allowed: Net, number, fails, needs", a_file(OWN)),
    bad("--model {tmp}/its.py:WIDTH", "WIDTH is int; allowed: a function or a class of it, such as Net", a_file(OWN)),
    bad(
        "--model {tmp}/its.py:Net",
        "can't be imported (SyntaxError: ",
        a_file("class Net("),
        "model: a file that is no Python",
    ),
    bad(
        "--model {tmp}/its.py:Net",
        "can't be imported (ValueError: no)",
        a_file("raise ValueError('no')"),
        "model: raises",
    ),
    bad(
        "--model {tmp}/its.py:number",
        "--model: got {tmp}/its.py:number; it gives int; allowed: an nn.Module",
        a_file(OWN),
    ),
    bad("--model {tmp}/its.py:fails", "its.py:fails; fails raised ZeroDivisionError: integer division", a_file(OWN)),
    bad("--model {tmp}/its.py:needs", "its.py:needs; needs needs depth; give --model-arg depth=…", a_file(OWN)),
    bad("--model {tmp}/its.py:needs --model-arg deep=3", "--model-arg: got deep=3; needs takes depth", a_file(OWN)),
    bad("--model {tmp}/its.py:Net --width 8 --layers 3", "--layers: got 3; Net takes width", a_file(OWN)),
    bad(
        "--model {tmp}/its.py:Net",
        "--model: got Net; allowed: an nn.Sequential, each child of which is a block; of",
        a_file(OWN),
    ),
    bad(
        "--model {tmp}/its.py:Net --split-points d",
        "--split-points: got d; the network has no such submodule; allowed: a, b, c",
        a_file(OWN),
    ),
    bad(
        "--model {tmp}/its.py:Net --split-points c",
        "`if h.sum() > 0: h = -h`, can't be followed (TraceError: symbolic",
        a_file(OWN),
    ),
    bad("--split-points=", "--split-points: got ; allowed: at least one name"),
    bad("--split-points 1,1", "--split-points: got 1; it is named twice"),
    bad("--split-points 0", "--split-points: got 0; nothing is computed before it; allowed: a later submodule"),
    bad("--split-points 1", "--workers: got 3; the network has 2 blocks; allowed: 1 to 2"),
    bad("--model-arg depth=3", "--model-arg: got depth=3; fcn takes layers, width"),
    bad("--model-arg depth", "--model-arg: got depth; allowed: name=value, separated by commas"),
    bad("--model-arg width=8,width=9", "--model-arg: got width=8,width=9; allowed: name=value, each name once"),
    bad("--model-arg width=8 --model-arg width=9", "--model-arg: got width=8,width=9; allowed: name=value, each"),
    bad("--model-arg width=8 --width 9", "--model-arg: got width=8; --width is given, too; allowed: one of the two"),
    bad("--model-arg width=8.5", "--model-arg: got width=8.5; allowed: a whole number of at least 1"),
    bad("--model resnet --model-arg depth=9", "--model-arg: got depth=9; allowed: 6n + 2, such as 8, 14, 20"),
    bad("--model vgg --model-arg depth=12", "--model-arg: got depth=12; allowed: 11, 13, 16, 19"),
    bad(
        "--model cnn --model-arg dropout=1",
        "--model-arg: got dropout=1; allowed: a finite number of at least 0 and below 1",
    ),
    bad("--model transformer", "--model: got transformer; it is for sequences of tokens [time], not [1, 28, 28]"),
    bad("--data its.py:make", "--data: got its.py:make; there is no file its.py; allowed: path/to/file.py:name"),
    bad("--data mnist", "--data: got mnist; allowed: path/to/file.py:name or package.module:name"),
    bad(
        "--data {tmp}/its.py:three",
        "its.py:three; it gives (int, int, int); allowed: a training set, or",
        a_file(OWN),
    ),
    bad(
        "--data {tmp}/its.py:nothing", "its.py:nothing; it gives None; allowed: a training set, or a pair", a_file(OWN)
    ),
    bad("--data {tmp}/its.py:number", "--data: got int; allowed: a data set of (sample, target) pairs", a_file(OWN)),
    bad("--data {tmp}/its.py:number --data-arg n=3", "--data-arg: got n=3; number takes no arguments", a_file(OWN)),
    bad(
        "--data its.py:make --dataset mnist",
        "--dataset: got mnist; give it or --data, not both (--data is its.py:make)",
    ),
    bad(
        "--data its.py:make --data-dir /tmp",
        "--data-dir: got /tmp; give it or --data, not both (--data is its.py:make)",
    ),
    bad("--data-arg n=3", "--data-arg: got n=3; they are of a function; allowed with --data"),
    bad("--dataset text", "; this is a directory; allowed: a file of text, in UTF-8"),
    bad(
        "--dataset text --data-dir /nonexistent", "--data-dir: got /nonexistent; there is no such file; allowed: a file"
    ),
    bad(
        "--dataset text --data-dir {tmp}/its.py", "its.py; byte 0 is no UTF-8; allowed: a file of text", a_file(b"\xff")
    ),
    bad(
        "--dataset text --data-dir {tmp}/its.py",
        "--sequence-length: got 64; its 300 characters are too few for seq",
        a_file("ab " * 100),
        "text: a short one",
    ),
    bad("--dataset text --image-size 32", "--image-size: got 32; text takes sequence_length"),
    bad("--sequence-length 8", "--sequence-length: got 8; mnist takes image_size"),
    bad("--sequence-length 0", "--sequence-length: got 0; allowed: a whole number of at least 1"),
    bad(
        "--dataset fashion-mnist --data-dir {tmp}",
        "--data-dir: got {tmp}/train-images-idx3-ubyte.gz; it can't be read (",
        lambda tmp: [
            (tmp / f"train-{kind}-ubyte.gz").write_bytes(b"<html>") for kind in ("images-idx3", "labels-idx1")
        ],
        name="data: an error page in place of an archive of Debian's",
    ),
]

COMMAND_LINE = SETTINGS + FILES + OWNS


# Models and data, as the library is given them.


class Pairs(Dataset):
    """Samples `[6]` with labels 0 and 1, one by one; a sample of `odd` is in its place."""

    def __init__(self, samples: int = 40, odd: dict[int, Any] | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(samples, 6, generator=generator)
        self.odd = odd or {}

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        sample = self.odd.get(index, (self.x[index], int(self.x[index].sum() > 0)))
        if isinstance(sample, Exception):
            raise sample
        return sample


class Batches(Pairs):
    """A data set that makes its batches itself."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def get_batch(self, indices: Tensor) -> Any:
        return self.make(self.x[indices])


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        while True:
            yield torch.randn(6), 0


class Gives(nn.Module):
    """A block whose output is what `make` makes of its input."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


class Holds(nn.ReLU):
    """A block that holds something that no other process can have."""

    def __init__(self, what: object) -> None:
        super().__init__()
        self.what = what


class Scaled(nn.Module):
    """A synthesizer that gives back its input, or what is made of it."""

    def __init__(self, make: Callable[[Tensor], Any] | None) -> None:
        super().__init__()
        self.scale, self.make = nn.Parameter(torch.zeros(1)), make

    def forward(self, h: Tensor, labels: Tensor | None) -> Any:
        assert self.make is not None
        return self.make(h * self.scale)


class GivesBack(Scaled):
    """One that sets its own gradients, and gives back its input, or its weights."""

    def forward(self, h: Tensor, labels: Tensor | None) -> Any:
        return self.make(h) if self.make is not None else self.scale.expand_as(h)

    def set_gradients(self, h: Tensor, labels: Tensor | None, grad_output: Tensor) -> None:
        self.scale.grad = torch.zeros(1)


class Empty(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return iter(())


def padded(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Each batch to a length of its own."""
    x, target = torch.stack([x for x, _ in samples]), torch.tensor([label for _, label in samples])
    return torch.nn.functional.pad(x, (0, int(x[:, 0].sum() > 0))), target


def network(*blocks: nn.Module) -> nn.Sequential:
    """These blocks, between a first and a last one."""
    return nn.Sequential(nn.Linear(6, 6), *blocks, nn.Linear(6, 2))


def tied() -> nn.Sequential:
    shared = nn.Linear(6, 6)
    return nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(6, 2))


def tensors(x: Tensor | None = None, target: Tensor | None = None, samples: int = 40) -> tuple[Tensor, Tensor]:
    x = torch.randn(samples, 6) if x is None else x
    return x, torch.zeros(len(x), dtype=torch.int64) if target is None else target


def labelled(label: int) -> tuple[Tensor, Tensor]:
    """Tensors, and sample 7 has this label."""
    target = torch.zeros(40, dtype=torch.int64)
    target[7] = label
    return tensors(target=target)


def holding(number: float) -> tuple[Tensor, Tensor]:
    """Tensors, and sample 7 holds this number."""
    x = torch.randn(40, 6)
    x[7, 3] = number
    return tensors(x)


def positives(x: Tensor) -> Tensor:
    return x[x[:, 0] > 0]


def columns(x: Tensor) -> Tensor:
    return x[:, : 1 + len(positives(x)) % 5]


def divides(x: Tensor) -> Tensor:
    return x / (1 // 0)


def one_short(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[1:], x[:, 0].long()


def raises(x: Tensor) -> tuple[Tensor, Tensor]:
    raise KeyError("x")


class Locked(Pairs):
    """A data set that no other process can have."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def with_a_lock() -> Callable[[Any], torch.optim.Optimizer]:
    """An optimizer factory that no other process can have."""
    lock = threading.Lock()
    return lambda parameters: lock and sgd(parameters)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@dataclass(frozen=True)
class BadUse:
    """What `Trainer(model, **settings).fit(data, **lengths)` is given."""

    name: str
    sentence: str  # is in what is said
    model: Callable[[], nn.Module] = network
    data: Callable[[], Any] = Pairs
    settings: dict[str, Any] = field(default_factory=dict)
    eval_set: Callable[[], Any] = nothing  # type: ignore[assignment]
    lengths: dict[str, Any] = field(default_factory=lambda: {"steps": 2})

    def fit(self, run_dir: Path) -> object:
        """Train; refused with `ConfigError`."""
        settings = {"workers": 2, "batch_size": 10, "split": (1,), "run_dir": run_dir, **self.settings}
        eval_set = None if self.eval_set is nothing else self.eval_set()
        return Trainer(self.model(), **settings).fit(self.data(), eval_set=eval_set, **self.lengths)


def a_model(name: str, sentence: str, make: Callable[[], nn.Module], **settings: Any) -> BadUse:
    return BadUse(name, sentence, model=make, settings=settings)


def a_block(name: str, sentence: str, make: Callable[[Tensor], Any]) -> BadUse:
    """A network whose block '1' gives this."""
    return BadUse(name, f"model: got block '1'; {sentence}", model=lambda: network(Gives(make)))


def samples_alone() -> Tensor:
    return torch.randn(40, 6)


def train_data(name: str, sentence: str, make: Callable[[], Any], **settings: Any) -> BadUse:
    return BadUse(name, sentence, data=make, settings=settings)


def eval_data(name: str, sentence: str, make: Callable[[], Any]) -> BadUse:
    return BadUse(name, sentence, eval_set=make)


def a_setting(name: str, sentence: str, **settings: Any) -> BadUse:
    return BadUse(name, sentence, settings=settings)


MODELS = [
    a_model("no Sequential", "model: got Linear; allowed: an nn.Sequential", lambda: nn.Linear(6, 2)),
    a_model(
        "no Sequential, and where it is cut",
        "; of another module, split_points name where it is cut",
        lambda: nn.Linear(6, 2),
    ),
    a_model(
        "no such point",
        "split_points: got 3; the network has no such submodule; allowed: 0, 1",
        network,
        split_points=("3",),
    ),
    a_model("few blocks", "workers: got 3; the network has 2 blocks", network, workers=3, split=None),
    a_model("no parameter", "model: got nothing to train; allowed: at", lambda: nn.Sequential(nn.ReLU(), nn.Tanh())),
    a_model("all frozen", "model: got nothing to train; allowed: at", lambda: network().requires_grad_(False)),
    a_model("shared", "block '2'; it shares a parameter with block '0', which is in another stage; allowed", tied),
    a_model("does not fit", "it does not take what comes before it, [10, 6]", lambda: network(nn.Linear(5, 6))),
    a_model("other columns", "; allowed: the same features", lambda: nn.Sequential(nn.Linear(6, 2), Gives(columns))),
    a_model("a lock", "got block '1'; a worker is another process", lambda: network(Holds(threading.Lock()))),
    a_model("a generator", "got block '1'; a worker is another process", lambda: network(Holds(i for i in ""))),
    a_block("no columns", "its output is [10, 0]; allowed: at least one feature", lambda x: x[:, :0]),
    a_model("a tuple", "block '2'; it does not take what comes before it, (", lambda: network(Gives(lambda x: (x, x)))),
    a_model(
        "a dict at last",
        "the network's, must be one tensor, not {'x'",
        lambda: nn.Sequential(nn.Linear(6, 2), Gives(lambda x: {"x": x})),
    ),
    a_block("words", "its output must be one tensor, or a tuple or dict of tensors, not ([10, 6]", lambda x: (x, "x")),
    a_block("nothing", "its output must be one tensor, or a tuple or dict of tensors, not NoneType", lambda x: None),
    a_block("rows by a mask", "its output is ", positives),
    a_block("one number", "its output is [] for 10 samples; allowed: a row for each sample", torch.sum),
    a_block("one row", "its output is [1, 60] for 10 samples; allowed: a row for each sample", lambda x: x.view(1, -1)),
    a_block("integers", "its output is [10, 6] torch.int64; allowed: a floating point type", lambda x: x.long()),
    a_block("raises", "it does not take what comes before it, [10, 6] torch.float32 (ZeroDivisionError: ", divides),
    a_block("ten rows only", "it does not take what comes before it, [5, 6]", lambda x: x.view(10, 6)),
]

DATA = [
    train_data("none", "train_set: got NoneType; allowed: a data set of (sample, target) pairs", lambda: None),
    train_data(
        "a loader", "batch_size: got 10; the DataLoader makes batches of 1; allowed: 1", lambda: DataLoader(Pairs())
    ),
    train_data("a generator", "train_set: got generator; allowed: a data set", lambda: (pair for pair in Pairs())),
    train_data("one tensor", "train_set: got tensors [40, 6]; allowed: a data set", lambda: tensors()[:1]),
    train_data("three", "got tensors [9] and [9] and [9]; ", lambda: TensorDataset(*[torch.ones(9)] * 3)),
    train_data("other lengths", "got tensors [40, 6] and [39]; ", lambda: tensors(target=torch.zeros(39))),
    train_data("arrays of text", "an array of <U1 holds no numbers", lambda: (np.array(["a"] * 40), np.zeros(40))),
    train_data(
        "ragged lists",
        "got (((float), …), (int, …)); setting an array element",
        lambda: ([[1.0], [1.0, 2.0]] * 9, [0] * 18),
    ),
    train_data("an array short", "with a row for each sample", lambda: (np.zeros((40, 6)), np.zeros(39, dtype=int))),
    train_data(
        "no entry for a target", "none of labels, label, target, ", lambda: {"x": np.zeros((40, 6)), "z": [0] * 40}
    ),
    train_data(
        "two targets", "both label and y among x, label, y", lambda: dict.fromkeys(("x", "label", "y"), [0] * 40)
    ),
    train_data("another target", "no 'z' among x, y", lambda: {"x": np.zeros((40, 6)), "y": [0] * 40}, target="z"),
    train_data("targets only", "nothing is beside 'y'", lambda: {"y": [0] * 40}),
    train_data(
        "samples alone", "got [40, 6] torch.float32; these are samples, or targets; allowed: a pair", samples_alone
    ),
    train_data("a file's name", "train_set: got the text 'data.csv'; allowed: a data set", lambda: "data.csv"),
    train_data("two sets", "got (Pairs, Pairs); these are data sets; allowed: one", lambda: [Pairs(), Pairs()]),
    train_data("sets by name", "got {train: Pairs}; these are data sets; allowed", lambda: {"train": Pairs()}),
    train_data(
        "a loader of single samples",
        "gives (batch 0); it is ([6] torch.float32, [] torch.int64); allowed: batches, with a row of each for each sample; ",
        lambda: DataLoader(Pairs(), batch_size=None),
    ),
    train_data("an empty iterable", "pass 1 (batch 0); it ended after 0 batches; allowed: at least one", Empty),
    BadUse("epochs of an iterable", "epochs: got 1; the data set is iterable", data=Endless, lengths={"epochs": 1}),
    train_data("loaders of an iterable", "loader_workers: got 2; an iterable data set is", Endless, loader_workers=2),
    train_data(
        "loaders of a loader",
        "loader_workers: got 2; a DataLoader loads by workers of its own (num_workers); allowed: 0",
        lambda: DataLoader(Pairs(), batch_size=10),
        loader_workers=2,
    ),
    train_data(
        "a loader that raises",
        "the DataLoader (batch 0); it raised OSError: gone",
        lambda: DataLoader(Pairs(10, {3: OSError("gone")}), batch_size=10),
    ),
    train_data("augmented rows", "augment: got crop; it takes images [channels, ", Pairs, augment=("crop",)),
    train_data("another augmentation", "augment: got cut; allowed: crop, flip, separated", Pairs, augment=("cut",)),
    train_data("no samples", "train_set: got no samples; allowed: at least one", lambda: tensors(samples=0)),
    train_data("few samples", "batch_size: got 10; the data set has 9 samples", lambda: tensors(samples=9)),
    train_data(
        "a lock", "train_set: got Locked; stage 0 is another process, so the data set must be picklable", Locked
    ),
    train_data("label too high", "train_set: got sample 7; it has label 2; allowed: 0 to 1", lambda: labelled(2)),
    train_data("label negative", "sample 7; it has label -1; allowed: 0 to 1", lambda: labelled(-1)),
    train_data("not a number", "train_set: got sample 7; it holds the number nan", lambda: holding(torch.nan)),
    train_data("infinite", "train_set: got sample 7; it holds the number -inf", lambda: holding(-torch.inf)),
    train_data(
        "label of a sample", "sample 3; it has label 5; allowed: 0 to 1", lambda: Pairs(10, {3: (torch.zeros(6), 5)})
    ),
    train_data("raises", "sample 3 (batch 0); it raised OSError: gone", lambda: Pairs(10, {3: OSError("gone")})),
    train_data("no pair", "sample 3 (batch 0); it is [6] torch.float32; ", lambda: Pairs(10, {3: torch.zeros(6)})),
    train_data("a triple", "allowed: a pair (sample, target)", lambda: Pairs(10, {3: (torch.zeros(6), 0, 0)})),
    train_data("other shape", "it is ([5] torch.float32, int); allowed", lambda: Pairs(10, {3: (torch.zeros(5), 0)})),
    train_data("text", "tensors, arrays and numbers", lambda: Pairs(10, {i: (str(i), 0) for i in range(10)})),
    train_data("batch raises", "(batch 0); it raised KeyError: 'x'", lambda: Batches(raises)),
    train_data("batch short", "came from get_batch as ([9, 6] torch.float32, ", lambda: Batches(one_short)),
    eval_data("evaluation: none", "eval_set: got no samples; allowed: at least one", lambda: tensors(samples=0)),
    eval_data("evaluation: nothing", "eval_set: got pass 1 (batch 0); it ended after 0 batches", Empty),
    eval_data("evaluation: features", "eval_set: got samples [5] torch.float", lambda: tensors(torch.randn(40, 5))),
    eval_data("evaluation: label", "eval_set: got sample 7; it has label 9; allowed: 0 to 1", lambda: labelled(9)),
]

REST = [
    train_data(
        "targets of the loss",
        "loss_fn: got CrossEntropyLoss; it does not take outputs [10, 2] torch.float32 and targets [10, 3]",
        lambda: tensors(target=torch.randn(40, 3)),
        method="dni",
    ),
    train_data(
        "a loss a number",
        "loss_fn: got MSELoss; it gives [10, 2] for a batch; allowed: a mean over the batch",
        lambda: tensors(target=torch.randn(40, 2)),
        method="dni",
        loss_fn=nn.MSELoss(reduction="none"),
    ),
    train_data(
        "targets that are booleans",
        "); allowed: targets that are floats",
        lambda: tensors(target=torch.ones(40, 2, dtype=torch.bool)),
        method="dni",
        loss_fn=nn.BCEWithLogitsLoss(),
    ),
    train_data(
        "labels that are booleans", "); allowed: targets that are integers", lambda: tensors(target=torch.ones(40) > 0)
    ),
    a_setting("a loss's class", "got MSELoss; it is a class; allowed: an object of it, MSELoss()", loss_fn=nn.MSELoss),
    a_setting("a loss's name", "loss_fn: got mse; allowed: a function of outputs and targets, such", loss_fn="mse"),
    a_setting("an optimizer made", "optimizer: got SGD; allowed: a function", optimizer=sgd(network().parameters())),
    a_setting("an optimizer's rate", "optimizer: got ", optimizer=partial(torch.optim.Adam, lr=-1.0)),
    a_setting("no optimizer", "optimizer: got list; it gives list; allowed: a function", optimizer=list),
    a_setting("a lock", "optimizer: got what can't be sent to another process; ", optimizer=with_a_lock()),
    a_setting(
        "a synthesizer's shape",
        "synthesizer: got Scaled; it gives [10, 5] after block '0'; allowed: [10, 6]",
        synthesizer=lambda features, classes: Scaled(lambda h: h[:, 1:]),
    ),
    a_setting(
        "a synthesizer that raises",
        "synthesizer: got Linear; it does not take the output of block '0', [10, 6]",
        synthesizer=lambda features, classes: nn.Linear(6, 6),
    ),
    a_setting(
        "a synthesizer that gives back its input",
        "synthesizer: got GivesBack; it gives the output of block '0' back, or its own weights; allowed, with set_gradients: a",
        synthesizer=lambda features, classes: GivesBack(lambda h: h.view(-1, 6)),
    ),
    a_setting(
        "a synthesizer that gives its weights",
        "synthesizer: got GivesBack; it gives the output of block '0' back, or its own weights; allowed, with set_gradients: a",
        synthesizer=lambda features, classes: GivesBack(None),
    ),
    a_setting(
        "an auxiliary head's shape",
        "auxiliary_head: got Linear; it gives [10, 5] after block '0'; allowed: [10, 2], as the network's output",
        method="local",
        auxiliary_head=lambda features, outputs: nn.Linear(6, 5),
    ),
    a_setting("a number for a device", "device_map: got 0; allowed: auto, cpu, cuda", device_map=0),
    a_setting("a number for a path", "run_dir: got 5; allowed: a path", run_dir=5),
    BadUse("no length", "epochs: got None; give either epochs or steps", lengths={}),
    BadUse("two lengths", "epochs: got 1; give either epochs or steps", lengths={"epochs": 1, "steps": 1}),
]

LIBRARY = MODELS + DATA + REST
