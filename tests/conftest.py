"""Fixtures: no test leaves a process or shared memory behind; MNIST read once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from async_dni import ImageDataset, load_dataset
from async_dni.train import main as train_main

# whatever started the tests may ignore them, as nohup and a shell's & do, and processes inherit that
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

RunApart = Callable[[Path, Path], tuple[int, str, str]]
PATIENCE = 30.0  # seconds that a process which nobody waits for may take to end: a busy machine takes some
# multiprocessing's own helpers live as long as the test process
HELPERS = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")


def leftovers() -> set[str]:
    """Child processes of ours, but for multiprocessing's helpers, and named shared memory of ours."""
    children = set()
    for child in psutil.Process().children(recursive=True):
        try:
            command = " ".join(child.cmdline())
            is_helper = any(helper in command for helper in HELPERS) and child.ppid() == os.getpid()
            if not is_helper and child.status() != psutil.STATUS_ZOMBIE:
                children.add(f"process {child.pid} {command}")
        except psutil.NoSuchProcess:
            pass
    shared = Path("/dev/shm")
    files = (
        {f"shared memory {path}" for path in shared.iterdir() if not is_anothers(path)} if shared.is_dir() else set()
    )
    return children | files


def is_anothers(path: Path) -> bool:
    """Whether a file of shared memory is another program's: it names, or is mapped by, a process not of this family."""
    family = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    pids = {int(pid) for pid in re.findall(r"^(?:torch_|pym-)(\d+)", path.name)}
    if pids:
        return any(psutil.pid_exists(pid) for pid in pids) and not pids & family
    users = {int(maps.parent.name) for maps in Path("/proc").glob("[0-9]*/maps") if is_mapped(path, maps)}
    return bool(users) and not users & family


def is_mapped(path: Path, maps: Path) -> bool:
    """Whether a process's memory map shows this file."""
    try:
        return str(path) in maps.read_text()
    except OSError:
        return False


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail where a test leaves a process or shared memory behind."""
    before = leftovers()
    yield
    deadline = time.monotonic() + PATIENCE
    while (left := leftovers() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, f"left behind: {sorted(left)}"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, on one thread."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


NO_DEVICES = {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True, scope="module")
def no_devices(request: pytest.FixtureRequest) -> Iterator[None]:
    """On a machine with GPUs, too, all tests but those of the CUDA path are of the CPU, where bits are promised."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.path.name != "test_cuda.py":
            for name, value in NO_DEVICES.items():
                patch.setenv(name, value)
            patch.setattr(torch.cuda, "device_count", lambda: 0)
        yield


@pytest.fixture(scope="session")
def run_apart() -> Iterator[RunApart]:
    """Runs a script in a folder, in a process that runs these scripts only: exit status, output, errors, of workers too."""
    command, pipe = [sys.executable, str(Path(__file__).with_name("one_by_one.py"))], subprocess.PIPE
    environment = {**os.environ, **NO_DEVICES, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout
        assert answers.readline() == "ready\n"

        def run(script: Path, folder: Path) -> tuple[int, str, str]:
            print(json.dumps([str(script), str(folder)]), file=requests, flush=True)
            status, output, errors = json.loads(answers.readline())
            return status, output, errors

        yield run


@pytest.fixture(scope="session")
def mnist() -> tuple[ImageDataset, ImageDataset]:
    """The training and the test set."""
    return load_dataset("mnist")


@pytest.fixture(scope="session")
def small_mnist(
    mnist: tuple[ImageDataset, ImageDataset],
) -> tuple[torch.utils.data.TensorDataset, torch.utils.data.TensorDataset]:
    """The first 1,000 training and 500 test images, as tensors."""
    pair = []
    for dataset, samples in zip(mnist, (1000, 500), strict=True):
        pair.append(torch.utils.data.TensorDataset(*dataset.get_batch(torch.arange(samples))))
    return pair[0], pair[1]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run on MNIST by the command line, with gradient checks and a trace; not to be changed."""
    path = tmp_path_factory.mktemp("finished") / "run"
    settings = {
        "--steps": "30",
        "--batch-size": "100",
        "--width": "32",
        "--gradient-check-every": "10",
        "--trace-steps": "5:25",
    }
    words = [word for pair in settings.items() for word in pair]
    assert train_main([*words, "--workers", "3", "--run-dir", str(path), "--quiet"], "launch.py") == 0
    return path
