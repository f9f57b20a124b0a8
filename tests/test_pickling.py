"""What is sent to workers: all that a user's process may define, without a main module that could be imported."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from async_dni.learning.pickling import UNPICKLABLE, Shared, to_bytes

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import torch
from torch import nn
from torch.utils.data import Dataset
from async_dni import Trainer

class Signs(Dataset):
    def __len__(self): return 120
    def __getitem__(self, i): return self.make(i)
    def __init__(self): self.make = lambda i: (torch.full((4,), i / 60 - 1), int(i > 60))

class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
    def forward(self, x): return self.scale * x

def loss(output, target): return nn.functional.cross_entropy(output, target)

model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(Scale(), nn.ReLU()), nn.Linear(8, 2))
settings = {"workers": 3, "batch_size": 20, "lag": 2, "threads_per_worker": 1}
settings |= {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1), "loss_fn": loss}
trained = [Trainer(model, serial=serial, **settings).fit(Signs(), steps=8).model for serial in (True, False)]
print(all(torch.equal(a, b) for a, b in zip(*(model.state_dict().values() for model in trained))))
"""


@pytest.mark.parametrize("how", ["-", "-c"])
def test_program_without_a_main_module_trains_without_a_guard(how: str, tmp_path: Path) -> None:
    arguments = {"-": ["-"], "-c": ["-c", PROGRAM]}[how]
    told = "" if how == "-c" else PROGRAM
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(
        command, input=told, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("name", ["spectral_norm", "orthogonal", "weight_norm"])
def test_parametrized_layers_are_the_same_there(name: str) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(getattr(parametrizations, name)(nn.Linear(5, 5)), nn.ReLU()).eval()
    sent = pickle.loads(to_bytes(layer))
    x = torch.randn(3, 5)
    assert torch.equal(sent(x), layer(x))
    assert [name for name, _ in sent.named_parameters()] == [name for name, _ in layer.named_parameters()]
    sent.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in sent.parameters())
    assert nn.utils.parametrize.is_parametrized(sent[0], "weight")


def test_tensors_are_copied_in_bytes() -> None:
    tensor = torch.zeros(3)
    sent = pickle.loads(to_bytes([tensor, lambda: 5]))
    sent[0] += 1
    assert sent[1]() == 5
    assert torch.equal(tensor, torch.zeros(3))


class Loader:
    """Looks at a tensor that it was given."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_what_is_shared_is_the_same_memory() -> None:
    context = torch.multiprocessing.get_context("spawn")
    tensor = torch.zeros(3).share_memory_()
    process = context.Process(target=write, args=(Shared(Loader(tensor)),))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert torch.equal(tensor, torch.ones(3))


def write(loader: Loader) -> None:
    assert isinstance(loader, Loader), "there, it is the value itself"
    loader.tensor += 1


def test_what_no_other_process_can_have_raises() -> None:
    with pytest.raises(UNPICKLABLE):
        to_bytes(i for i in ())
