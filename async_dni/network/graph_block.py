"""A block that runs a part of a traced graph: what lies between two cuts of a module that is no `nn.Sequential`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Value:
    """In a step's arguments: what an earlier step gave, or what came into the block."""

    name: str


class Function:
    """A function that a step calls; pickled by the name under which its module has it, as some have no other."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        module, name = getattr(self.call, "__module__", None), getattr(self.call, "__name__", "")
        try:
            is_there = module is not None and getattr(importlib.import_module(module), name, None) is self.call
        except ImportError:
            is_there = False
        return (_function, (module, name)) if is_there else (Function, (self.call,))


def _function(module: str, name: str) -> Function:
    return Function(getattr(importlib.import_module(module), name))


@dataclass(frozen=True)
class Step:
    """One operation: `kind` and `target` are those of a `torch.fx` node. `frees`: values that nothing needs after it."""

    name: str
    kind: str
    target: str | Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    frees: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """What a block does in one of its modes, training or evaluation."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    output: Any  # values, in a structure


class GraphBlock(nn.Module):
    """Takes a tensor, or a tuple of those that cross the cut before it; gives what crosses the one after it.

    It holds the submodules and tensors that its part uses, by the paths that they have in the module that was split.
    """

    def __init__(self, training: Program, evaluation: Program) -> None:
        super().__init__()
        self._programs = {True: training, False: evaluation}

    def forward(self, x: Tensor | tuple[Tensor, ...]) -> Any:
        program = self._programs[self.training]
        given = tuple(x) if isinstance(x, tuple | list) else (x,)
        if len(given) != len(program.inputs):
            raise TypeError(f"{len(program.inputs)} tensors come before it, not {len(given)}")
        values: dict[str, Any] = dict(zip(program.inputs, given, strict=True))
        for step in program.steps:
            values[step.name] = self._do(step, values)
            for name in step.frees:
                del values[name]
        return filled(program.output, values)

    def _do(self, step: Step, values: Mapping[str, Any]) -> Any:
        args, kwargs = filled(step.args, values), filled(step.kwargs, values)
        if isinstance(step.target, Function):
            return step.target.call(*args, **kwargs)
        if step.kind == "call_method":
            return getattr(args[0], step.target)(*args[1:], **kwargs)
        path, _, name = step.target.rpartition(".")
        held = getattr(self.get_submodule(path), name)
        return held if step.kind == "get_attr" else held(*args, **kwargs)

    def hold(self, path: str, what: nn.Module | Tensor, persistent: bool = True) -> None:
        """Keep a submodule, parameter or buffer by its path."""
        *above, name = path.split(".")
        holder: nn.Module = self
        for part in above:
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        if getattr(holder, name, None) is what:
            return  # it is a part of what is held
        if isinstance(what, nn.Module):
            holder.add_module(name, what)
        elif isinstance(what, nn.Parameter):
            holder.register_parameter(name, what)
        else:
            holder.register_buffer(name, what, persistent)


def filled(structure: Any, values: Mapping[str, Any]) -> Any:
    """A structure with its values put in."""
    if isinstance(structure, Value):
        return values[structure.name]
    return mapped(structure, lambda part: filled(part, values))


def mapped(structure: Any, change: Callable[[Any], Any]) -> Any:
    """A structure as plain tuples, lists and dictionaries with each part changed; what is none as it is."""
    if isinstance(structure, tuple):
        parts = [change(part) for part in structure]
        return type(structure)(*parts) if hasattr(structure, "_fields") else tuple(parts)
    if isinstance(structure, list):
        return [change(part) for part in structure]
    if isinstance(structure, dict):
        return {name: change(part) for name, part in structure.items()}
    if isinstance(structure, slice):
        return slice(change(structure.start), change(structure.stop), change(structure.step))
    return structure


def rows(x: Tensor) -> int:
    """The size of a batch."""
    return int(torch.Tensor.size(x, 0))
