"""The random states of a process: PyTorch's, of CPU and CUDA device, numpy's and Python's; seeded, kept and put back together.

Whatever a network or a data set draws from then is a function of what was seeded. A state is three tensors, four where the
process computes on a CUDA device, which `torch.load(weights_only=True)` reads:

    torch     `torch.get_rng_state()`: bytes
    numpy     int64: the 624 words of its Mersenne Twister, position, whether a normal number is left, and that one's bits
    python    int64: 624 words and position, whether a normal number is left, and that one's bits
    cuda      `torch.cuda.get_rng_state()`: bytes
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PYTHON_VERSION = 3  # of the form of `random.getstate()`


@dataclass(frozen=True)
class RandomState:
    """The states at one moment."""

    torch: Tensor
    numpy: Tensor
    python: Tensor
    cuda: Tensor | None = None  # of the current device; None: what follows from the seed of `torch`

    @classmethod
    def capture(cls) -> RandomState:
        """Those of this process, as they are now."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        numpy_state, python_state = np.random.get_state(legacy=False), random.getstate()
        return cls(torch.get_rng_state(), _of_numpy(numpy_state), _of_python(python_state), cuda)

    @classmethod
    def seeded(cls, seed: int, *more: int) -> RandomState:
        """Those that a process begins with that is seeded by these whole numbers, 0 or more. Changes none."""
        words = _words(seed, *more)
        torch_state = torch.Generator().manual_seed(_number(words)).get_state()
        numpy_state = np.random.RandomState(words).get_state(legacy=False)
        return cls(torch_state, _of_numpy(numpy_state), _of_python(random.Random(_number(words)).getstate()))

    @classmethod
    def of(cls, state: Mapping[str, Tensor] | Tensor) -> RandomState:
        """What `as_dict` gave; of a checkpoint that has PyTorch's alone, that, and others that are seeded by 0."""
        if isinstance(state, Tensor):
            return replace(cls.seeded(0), torch=state)
        return cls(state["torch"], state["numpy"], state["python"], state.get("cuda"))

    def as_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        state = {"torch": self.torch, "numpy": self.numpy, "python": self.python}
        return state if self.cuda is None else {**state, "cuda": self.cuda}

    def restore(self) -> None:
        """Make these the states of this process. A CUDA device's is left alone where the process has used none."""
        torch.set_rng_state(self.torch)
        if torch.cuda.is_initialized():
            if self.cuda is None:
                torch.cuda.manual_seed(torch.initial_seed())
            else:
                torch.cuda.set_rng_state(self.cuda)
        *key, position, has_gauss, gauss = self.numpy.tolist()
        np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), position, has_gauss, _number_of(gauss)))
        *words, has_gauss, gauss = self.python.tolist()
        random.setstate((_PYTHON_VERSION, tuple(words), _number_of(gauss) if has_gauss else None))


@contextmanager
def seeded(seed: int, *more: int) -> Iterator[None]:
    """What is drawn inside depends on these whole numbers, 0 or more, alone; the states from before are put back after."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    words = _words(seed, *more)
    torch.default_generator.manual_seed(_number(words))  # not `torch.manual_seed`, which seeds CUDA devices too
    np.random.seed(words)
    random.seed(_number(words))
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def _words(*numbers: int) -> Any:
    """Four of 32 bits, well mixed: neighbours in any of the numbers have nothing in common."""
    # with their count, as a 0 at the end would make no difference
    return np.random.SeedSequence((len(numbers), *numbers)).generate_state(4)


def _number(words: Any) -> int:
    return int(words[0]) << 31 ^ int(words[1])  # 63 bits, as PyTorch's seeds are signed


def _of_numpy(state: Any) -> Tensor:
    key = torch.from_numpy(state["state"]["key"].astype(np.int64))
    rest = [state["state"]["pos"], state["has_gauss"], _bits_of(state["gauss"])]
    return torch.cat([key, torch.tensor(rest, dtype=torch.int64)])


def _of_python(state: tuple[Any, ...]) -> Tensor:
    _, words, gauss = state
    rest = (int(gauss is not None), _bits_of(gauss or 0.0))
    return torch.tensor(words + rest, dtype=torch.int64)


def _bits_of(number: float) -> int:
    return int(np.float64(number).view(np.int64))


def _number_of(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))
