"""Random states: seeded, kept and put back, of PyTorch, numpy and Python together."""

from __future__ import annotations

import importlib
import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from async_dni import Trainer
from async_dni.learning.random_state import RandomState, seeded


def drawn() -> tuple[float, ...]:
    """Of each: a normal number, of which two are made at a time, and a uniform one."""
    return (
        float(torch.randn(())),
        float(torch.rand(())),
        float(np.random.randn()),
        float(np.random.rand()),
        random.gauss(0, 1),
        random.random(),
    )


def test_what_is_drawn_depends_on_the_seeds_alone() -> None:
    with seeded(3, 4):
        first = drawn()
    drawn()
    with seeded(3, 4):
        assert drawn() == first
    for other in ((3,), (3, 5), (4, 3), (3, 4, 0), (3, 4, 1), (2**32 - 1, 4)):
        with seeded(*other):
            assert not set(drawn()) & set(first)


@pytest.mark.parametrize("raises", [False, True])
def test_states_are_put_back(raises: bool) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    drawn()
    state = RandomState.capture()
    expected = drawn()
    state.restore()
    try:
        with seeded(0):
            drawn()
            if raises:
                raise OSError
    except OSError:
        pass
    assert drawn() == expected


def test_a_state_goes_through_a_file() -> None:
    random.gauss(0, 1), np.random.randn()  # a second normal number is left of each
    file = io.BytesIO()
    torch.save(RandomState.capture().as_dict(), file)
    expected = drawn()
    with seeded(9):
        drawn()
    file.seek(0)
    RandomState.of(torch.load(file, weights_only=True)).restore()
    assert drawn() == expected


def test_a_seeded_state_is_the_one_inside_seeded_and_changes_none() -> None:
    state = RandomState.capture()
    expected = drawn()
    state.restore()
    made = RandomState.seeded(7, 1)
    assert drawn() == expected
    made.restore()
    found = drawn()
    with seeded(7, 1):
        assert drawn() == found


DRAWS = """
import random
import numpy
import torch

random.random(), numpy.random.rand(), torch.rand(1)


class Noisy(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) + random.random() + numpy.random.rand() + torch.rand(1)


def sgd(parameters):
    random.random(), numpy.random.rand(), torch.rand(1)
    return torch.optim.SGD(parameters, lr=0.1)
"""


def test_what_a_module_draws_when_workers_import_it_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker imports what its stage is made of: with a fixed lag, noise in it was another than in one process."""
    (tmp_path / "draws.py").write_text(DRAWS)
    monkeypatch.syspath_prepend(tmp_path)
    draws = importlib.import_module("draws")
    data = torch.randn(40, 4), torch.randint(2, (40,))
    model = torch.nn.Sequential(draws.Noisy(4, 4), draws.Noisy(4, 2))
    settings = {"workers": 2, "method": "cdni", "lag": 2, "batch_size": 10, "optimizer": draws.sgd}
    settings |= {"threads_per_worker": 1}
    workers, serial = (Trainer(model, serial=serial, **settings).fit(data, steps=6).model for serial in (False, True))
    for name, value in workers.state_dict().items():
        assert torch.equal(value, serial.state_dict()[name]), name
