"""What is sent to workers as bytes: by reference where it can be imported there, else by value.

`cloudpickle` sends functions and classes by value that no worker could import: lambdas, those made inside a function, those
of a notebook, of `python -` or of the script itself. Here it learns two things more: layers with parametrizations
(`torch.nn.utils.parametrizations`), which PyTorch refuses to pickle as their class is made at run time; and, within
`shared`, tensors that are not copied but shared, as multiprocessing has them.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections import ChainMap
from multiprocessing.reduction import ForkingPickler
from typing import Any

import cloudpickle
from torch import nn
from torch.nn.utils import parametrize

UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)
"""What is raised for what can't be sent."""


class Pickler(cloudpickle.Pickler):
    """Copies tensors."""

    def reducer_override(self, value: Any) -> Any:
        """How a value is taken apart, where not as usual."""
        if isinstance(value, nn.Module) and parametrize.is_parametrized(value):
            return copyreg.__newobj__, (type(value),), value.__dict__  # type: ignore[attr-defined]
        return super().reducer_override(value)


class SharingPickler(Pickler):
    """Shares tensors with the process that is being started."""

    def __init__(self, file: Any) -> None:
        reducers: Any = ForkingPickler
        self.dispatch_table: Any = ChainMap(reducers._extra_reducers, Pickler.dispatch_table)
        super().__init__(file)  # reads it


class Shared:
    """Wraps what is sent to a process when it is started: there, it is the value itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        file = io.BytesIO()
        SharingPickler(file).dump(self.value)
        return pickle.loads, (file.getvalue(),)


def to_bytes(value: Any) -> bytes:
    """A value as bytes, for `pickle.loads`. Raises one of `UNPICKLABLE` where something in it can't be sent."""
    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()
