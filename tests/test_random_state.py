"""Random states: seeded, kept and put back, of PyTorch, numpy and Python together."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch

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
