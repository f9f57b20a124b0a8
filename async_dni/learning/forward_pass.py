"""A stage's layers, applied: h = f(x); and (∂h/∂x)ᵀδ, for a batch that the layers have been updated on since."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .autocast import autocast
from .optimizer_state import clear_gradients
from .precision import matmul_precision
from .structure import Structure, carries, layout_of, parts_of, together
from .updates.updater import Updater


class ForwardPass:
    """What the layers make of an input's parts, in the precisions that were asked for.

    `half`: the precision of autocast, `output_dtypes` what comes out of it; `precision`: of the layers' products. `is_late`:
    whether the backward pass comes after weights were changed, and is to see them as they are then.
    """

    def __init__(
        self,
        module: nn.Module,
        precision: str | None = None,
        half: str | None = None,
        output_dtypes: Sequence[torch.dtype] | None = None,
        is_late: bool = False,
    ) -> None:
        self.module, self.precision, self.half, self.output_dtypes = module, precision, half, output_dtypes
        # Autograd refuses layers that change their input in place where that is a leaf, so they get a copy. The first batch
        # is copied to see whether they do (None: not known yet).
        self._saving = PresentWeights(module).hooks() if is_late else nullcontext()
        self._writes_input = True if any(getattr(layer, "inplace", False) for layer in module.modules()) else None

    def __call__(self, x: list[Tensor], layout: Any, device: torch.device) -> tuple[list[Tensor], Any]:
        """The parts of the output, and how they are put together."""
        with matmul_precision(self.precision, device), autocast(self.half, device), self._saving:
            out = self._applied(x, layout)
        return self._typed(parts_of(out)), layout_of(out)

    def compile(self, x: Sequence[Tensor], layout: Any, device: torch.device, sends: bool) -> None:
        """Have torch.compile make code of the layers, forward and backward, for inputs like these; nothing is trained.

        `sends`: whether the gradient of the input is wanted. Inputs of other shapes are compiled for when they come.
        """
        import torch._inductor.config as inductor  # slow to load, and only compiled layers need it

        inductor.compile_threads = 1  # here: a pool of processes would outlive this one
        self.module.compile(dynamic=False)
        if not isinstance(self._saving, nullcontext):
            self._saving = PresentWeights(self.module).hooks(torch.compiler.disable)
        x = [part.detach().requires_grad_() if sends and carries(part) else part for part in x]
        with fresh_buffers(self.module):
            h, _ = self(x, layout, device)
        if roots := [part for part in h if part.requires_grad]:
            torch.autograd.backward(roots, [torch.zeros_like(part) for part in roots])
        clear_gradients(list(self.module.parameters()))

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


class PresentWeights:
    """Lets a backward pass run after the weights were changed, with the weights as they are then.

    Autograd keeps references to the weights, not copies, and refuses them when they were changed in place since. A graph
    made under `hooks` takes the module's weights as they are, and its buffers (a batch norm's statistics, which a
    snapshot that is restored changes too): nothing is copied and nothing computed twice. All else that autograd keeps is
    still refused when it was changed.
    """

    def __init__(self, module: nn.Module) -> None:
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}

    def hooks(self, wrap: Callable[[Any], Any] = lambda hook: hook) -> saved_tensors_hooks:
        """A context, to be entered as often as one likes; `wrap`: what is made of its functions first."""
        return saved_tensors_hooks(wrap(self._pack), wrap(self._unpack))

    def _pack(self, tensor: Tensor) -> tuple[Tensor, int | None]:
        is_weight = tensor.untyped_storage().data_ptr() in self._weights
        return tensor.detach(), None if is_weight else tensor._version

    def _unpack(self, packed: tuple[Tensor, int | None]) -> Tensor:
        tensor, version = packed
        if version is not None and tensor._version != version:
            raise RuntimeError("a layer changed in place a tensor that its backward pass needs")
        return tensor


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
