"""A stage's layers, applied: h = f(x); and (∂h/∂x)ᵀδ, for a batch that the layers have been updated on since."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .autocast import autocast
from .precision import matmul_precision
from .structure import Structure, carries, layout_of, parts_of, together
from .updates.updater import Updater


class ForwardPass:
    """What the layers make of an input's parts, in the precisions that were asked for.

    `half`: the precision of autocast, `output_dtypes` what comes out of it; `precision`: of the layers' products.
    """

    def __init__(
        self,
        module: nn.Module,
        precision: str | None = None,
        half: str | None = None,
        output_dtypes: Sequence[torch.dtype] | None = None,
    ) -> None:
        self.module, self.precision, self.half, self.output_dtypes = module, precision, half, output_dtypes
        # Autograd refuses layers that change their input in place where that is a leaf, so they get a copy. The first batch
        # is copied to see whether they do (None: not known yet).
        self._writes_input = True if any(getattr(layer, "inplace", False) for layer in module.modules()) else None

    def __call__(self, x: list[Tensor], layout: Any, device: torch.device) -> tuple[list[Tensor], Any]:
        """The parts of the output, and how they are put together."""
        with matmul_precision(self.precision, device), autocast(self.half, device):
            out = self._applied(x, layout)
        return self._typed(parts_of(out)), layout_of(out)

    def passed_back(
        self,
        x: Sequence[Tensor],
        layout: Any,
        grad_output: Sequence[Tensor],
        updater: Updater,
    ) -> list[Tensor]:
        """(∂h/∂x)ᵀδ for each part of x that carries a gradient, of h computed anew, with the weights as they are.

        Weights, their gradients and buffers stay as they are; random layers draw once more. `updater`: knows the
        scale that float16 wants. Raises `Float16OverflowError`.
        """
        device = grad_output[0].device
        x = [part.detach().requires_grad_() if carries(part) else part for part in x]
        carrying = [part for part in x if part.requires_grad]
        with fresh_buffers(self.module), torch.enable_grad():
            h, _ = self(x, layout, device)
        pairs = zip(filter(carries, h), grad_output, strict=True)
        roots = [(part, updater.scaled(gradient, part.dtype)) for part, gradient in pairs if part.requires_grad]
        if not roots:
            return updater.unscaled_alone([torch.zeros_like(part) for part in carrying])
        outputs, gradients = zip(*roots, strict=True)
        with matmul_precision(self.precision, device):
            found = torch.autograd.grad(outputs, carrying, gradients, materialize_grads=True)
        return updater.unscaled_alone(found)

    def _typed(self, parts: list[Tensor]) -> list[Tensor]:
        """An output's parts in the types that the next stage expects: what autocast gives them depends on the device."""
        if self.output_dtypes is None:
            return parts
        return [part.to(dtype) for part, dtype in zip(parts, self.output_dtypes, strict=True)]

    def _applied(self, x: list[Tensor], layout: Any) -> Structure:
        if self._writes_input is False:
            return self.module(together(x, layout))
        copies = [part.clone() for part in x]
        versions = [part._version for part in copies]
        out = self.module(together(copies, layout))
        if self._writes_input is None:
            self._writes_input = [part._version for part in copies] != versions
        return out


@contextmanager
def fresh_buffers(module: nn.Module) -> Iterator[None]:
    """Layers have copies of their buffers (a batch norm's statistics) inside, and their own back after.

    Not changed and put back: a graph that waits for its backward pass may hold them, and autograd would see the change.
    """
    own = [(layer, dict(layer._buffers)) for layer in module.modules() if layer._buffers]
    copies: dict[int, Tensor] = {}  # a buffer that two layers share is one inside, too
    try:
        for layer, buffers in own:
            for name, buffer in buffers.items():
                if buffer is not None:
                    layer._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
        yield
    finally:
        for layer, buffers in own:
            layer._buffers.clear()
            layer._buffers.update(buffers)
