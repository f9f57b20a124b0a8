"""What crosses a cut: one tensor, or a tuple, list or dict of tensors, whose structure is the same for every batch.

It is taken apart into tensors, its **parts**, in a fixed order, and put together again on the other side. Parts of a
floating type **carry** a gradient back: those that are integers or booleans (a mask, say) only go down. What has one
carrying part alone, as most have, is treated as a tensor; where there are more, the gradient is a tuple of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree  # that of torch.export and torch.distributed.pipelining

Structure = Any
"""A tensor, or a nest of tuples, lists and dicts of tensors."""

Gradient = Tensor | tuple[Tensor, ...]
"""That of a structure's carrying parts: a tensor where there is one, else a tuple."""


def parts_of(structure: Structure) -> list[Any]:
    """Its tensors, in their order."""
    return [structure] if isinstance(structure, Tensor) else pytree.tree_flatten(structure)[0]


def layout_of(structure: Structure) -> Any:
    """How its parts are put together (`together`): the structure with their numbers in their places; None for a tensor."""
    if isinstance(structure, Tensor):
        return None
    parts, spec = pytree.tree_flatten(structure)
    return pytree.tree_unflatten(list(range(len(parts))), spec)


def together(parts: Sequence[Tensor], layout: Any) -> Structure:
    """The structure of these parts."""
    return parts[0] if layout is None else pytree.tree_map(lambda number: parts[number], layout)


def mapped(function: Callable[[Any], Any], structure: Structure) -> Structure:
    """A structure of what `function` makes of each part."""
    return function(structure) if isinstance(structure, Tensor) else pytree.tree_map(function, structure)


def carries(part: Tensor) -> bool:
    """Whether a gradient comes back for a part."""
    return part.is_floating_point()


def one_or_all(tensors: Sequence[Tensor]) -> Gradient:
    """A tensor where there is one, else a tuple."""
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def all_of(gradient: Gradient) -> tuple[Tensor, ...]:
    """Its tensors, also where there is one."""
    return (gradient,) if isinstance(gradient, Tensor) else gradient


@dataclass(frozen=True)
class Output:
    """What a block puts out, by an example: `structure`; and which dimension of each part counts the samples.

    That is the first one of a tensor by itself. Of an LSTM's hidden states it is the second; of a part that is the same
    for every batch, such as a mask of positions, it is None.
    """

    structure: Structure
    batch_dims: tuple[int | None, ...]

    @property
    def parts(self) -> list[Tensor]:
        """The example's."""
        return parts_of(self.structure)

    @property
    def carrying(self) -> list[tuple[Tensor, int | None]]:
        """The parts that gradients come back for, with their dimension of samples."""
        return [(part, dim) for part, dim in zip(self.parts, self.batch_dims, strict=True) if carries(part)]

    @property
    def tensor(self) -> Tensor:
        """The one tensor that it is."""
        assert isinstance(self.structure, Tensor)
        return self.structure


def form(structure: Structure) -> str:
    """Shapes and types, for a person."""
    if isinstance(structure, Tensor):
        return f"{list(structure.shape)} {structure.dtype}"
    if isinstance(structure, dict):
        return "{" + ", ".join(f"{name!r}: {form(value)}" for name, value in structure.items()) + "}"
    if isinstance(structure, tuple | list):
        return f"({', '.join(map(form, structure))})"
    return type(structure).__name__
