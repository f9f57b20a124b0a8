"""One stage's arithmetic: messages in, messages out. It knows no process and no queue.

For a batch b, in stage k with layers f, input x = h_{k-1} and output h = h_k:

    forward(b)      h = f(x)                                        h goes downstream
    update(b)       δ̂ = the method's gradient now (synthetic, or the loss's)
                    backpropagate δ̂ through f, step f's optimizer    ∂/∂x goes upstream
    learn(b, δ)     δ came back from stage k+1:
                    the method regresses its synthesizer on δ; or, where `update` had nothing to update with,
                    backpropagate δ through f, step f's optimizer    ∂/∂x goes upstream

With `target_lambda` λ > 0, BP(λ), a stage that predicts sends nothing upstream at `update`, and at `learn` the mixture
(1 − λ)·∂/∂x of the update + λ·(∂h/∂x)ᵀδ. (Jaderberg et al., arXiv 1608.05343, section 2, of recurrent networks.)

`runtime.worker.Worker` drives one from queues, in a process of its own; `runtime.serial.Serial` all of them in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .autocast import autocast
from .batch import Batch
from .blocks import named_blocks
from .condition import Condition
from .divergence import DivergenceError, check_grad_input, check_output, check_weights
from .forward_pass import ForwardPass
from .methods import Loss, Method, MethodParts, MethodSpec
from .methods.loss_gradient import LossGradient
from .methods.several import Several
from .optimizer_state import clear_gradients, load_optimizer_state, optimizer_state
from .pending import Deferred, Pending
from .precision import matmul_precision
from .structure import Gradient, Structure, all_of, carries, layout_of, one_or_all, parts_of, together
from .updates.clipping import check_and_clip
from .updates.habits import Habits
from .updates.updater import Updater

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class Stage:
    """Some consecutive layers of the network, their optimizer, and the method that finds their gradient.

    `optimizer` is None where no layer has a parameter. A stage is on one device; what it is given must be there. Gradients go
    upstream, where there are `gradients` between stages, for every `synthesizer_every`-th batch: for the others, none is
    computed, sent or learnt from. `clip_grad_norm`: the largest norm of the layers' gradients (of a mean over several batches,
    where one is stepped on), all taken as one vector; larger ones are scaled down to it, and, where they came of a prediction,
    so is the ∂/∂x that goes upstream: a prediction that runs away stays in its stage, if that has weights to go by.
    `checks_gradients`: whether an update is refused where they are not finite. `half`: the precision of autocast,
    `output_dtypes` what comes out of it; `precision`: of the layers' products. `target_lambda`: the share of what came
    back in what goes upstream; `next_defers`: whether the next stage has one. `forward`, `update` and `learn` raise
    `DivergenceError` for numbers that are not finite. After `forward` has, the batch is pending all the same; with
    `checks_gradients` buffers (a batch norm's statistics) are as before.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer | None,
        method: Method,
        *,
        is_first: bool,
        is_last: bool,
        gradients: bool = True,
        synthesizer_every: int = 1,
        clip_grad_norm: float | None = None,
        checks_gradients: bool = False,
        precision: str | None = None,
        input_layout: Any = None,
        updater: Updater | None = None,
        half: str | None = None,
        output_dtypes: Sequence[torch.dtype] | None = None,
        target_lambda: float = 0.0,
        next_defers: bool = False,
    ) -> None:
        self.gradients, self.synthesizer_every, self.clip_grad_norm = gradients, synthesizer_every, clip_grad_norm
        self.checks_gradients = checks_gradients or clip_grad_norm is not None
        self.half, self.precision = half, precision
        self.forward_pass = ForwardPass(module, precision, half, output_dtypes, is_late=method.late)
        self.module, self.optimizer, self.method = module, optimizer, method
        self.is_first, self.is_last = is_first, is_last
        self.pending: dict[int, Pending] = {}  # by batch index, oldest first
        self.weight_version = 0  # updates made so far
        self.input_layout = input_layout
        self.output: Structure = None  # of the newest batch, detached
        self.updater = updater or Updater(module, optimizer)
        self._parameters = list(module.parameters())
        self._buffers = list(module.buffers()) if checks_gradients else []
        self.target_lambda, self.next_defers = target_lambda, next_defers
        self.is_deferring = target_lambda > 0 and gradients and method.predicts and not (is_first or is_last)

    def forward(self, batch: Batch) -> Structure:
        """The stage's output h for a batch, `[batch, *features]`, detached."""
        self.weight_version += self.updater.before_forward(batch.index)
        sends = self.sends_gradient(batch.index) and not (self.is_deferring and self.target_lambda == 1)
        x = [part.detach().requires_grad_() if sends and carries(part) else part for part in parts_of(batch.x)]
        buffers = [buffer.clone() for buffer in self._buffers]
        device = batch.target.device
        out, layout = self.forward_pass(x, layout_of(batch.x), device)
        theirs = {part.untyped_storage().data_ptr() for part in x}  # h is kept for longer than x
        h = [part.clone() if part.untyped_storage().data_ptr() in theirs else part for part in out]
        self.output = together([part.detach() for part in h], layout)
        self.pending[batch.index] = Pending(x, list(filter(carries, h)), batch.target)
        try:
            check_output(self.module, batch.x, self.output, autocast(self.half, device))
        except DivergenceError:
            for buffer, before in zip(self._buffers, buffers, strict=True):
                buffer.data.copy_(before)  # past autograd, whose graphs keep it, and have no use for it
            raise
        return self.output

    def update(self, index: int) -> Gradient | None:
        """Update on a batch with the gradient that can be had now; returns ∂/∂x, or None where there is none yet."""
        pending = self.pending[index]
        if not self.gradients:
            self.updater.before_learning(index)  # a model of the method's own learns from this very batch
        if self.is_deferring and self.gets_gradient(index):
            assert pending.x is not None
            pending.deferred = Deferred([part.detach().clone() for part in pending.x])
        grad_output = self.method.now(one_or_all([part.detach() for part in pending.h]), pending.target)
        if grad_output is None:
            return None
        grad_input = self._backward(index, pending, grad_output)
        if not self.gets_gradient(index):
            del self.pending[index]
        if pending.deferred is None:
            return grad_input
        pending.deferred.grad_input = None if grad_input is None else all_of(grad_input)
        return None

    def learn(self, index: int, grad_output: Gradient) -> Gradient | None:
        """Take the gradient that came back for a batch, shaped like its h; returns ∂/∂x, if it has not gone upstream yet."""
        pending = self.pending.pop(index)
        if pending.x is not None:
            return self._backward(index, pending, grad_output)
        self.updater.before_learning(index)
        self.method.learn(one_or_all(pending.h), pending.target, grad_output)
        if pending.deferred is None or self.target_lambda == 0:
            return pending.grad_input
        true = self.forward_pass.passed_back(pending.deferred.x, self.input_layout, all_of(grad_output), self.updater)
        found = pending.deferred.mixed(true, self.target_lambda)
        for gradient in found:
            check_grad_input(self.module, gradient)
        return one_or_all(found)

    def sends_gradient(self, index: int) -> bool:
        """Whether ∂/∂x of a batch goes upstream."""
        return not self.is_first and self._is_learnt_from(index)

    def gets_gradient(self, index: int) -> bool:
        """Whether a gradient comes back for a batch."""
        return not self.is_last and self._is_learnt_from(index)

    def _is_learnt_from(self, index: int) -> bool:
        return self.gradients and index % self.synthesizer_every == 0

    def holds_input(self, index: int) -> bool:
        """Whether a batch's x is still needed: its update waits for the true gradient."""
        return index in self.pending and self.pending[index].x is not None

    def defers(self, index: int) -> bool:
        """Whether ∂/∂x of a batch goes upstream when it is learnt from, or forgotten."""
        return index in self.pending and self.pending[index].deferred is not None

    def forget(self, index: int) -> Gradient | None:
        """No gradient will come back for this batch. Returns ∂/∂x of the update, if it has not gone upstream yet."""
        pending = self.pending.pop(index, None)
        return None if pending is None else pending.grad_input

    def _backward(self, index: int, pending: Pending, grad_output: Gradient) -> Gradient | None:
        assert pending.x is not None
        x, h = pending.x, pending.h
        pending.x, pending.h = None, [part.detach() for part in h]
        clear_gradients(self._parameters)
        roots = [(part, gradient) for part, gradient in zip(h, all_of(grad_output), strict=True) if part.requires_grad]
        if roots:
            with matmul_precision(self.precision, pending.target.device):
                scaled = [self.updater.scaled(gradient, part.dtype) for part, gradient in roots]
                torch.autograd.backward([part for part, _ in roots], scaled)
        grad_input = self.updater.unscaled(x)
        scale = 1.0
        if self.checks_gradients:
            clips = not self.updater.is_accumulating  # else the mean that is stepped on is clipped
            scale = check_and_clip(self.module, self._parameters, self.clip_grad_norm, clips=clips)
        for gradient in grad_input:
            check_grad_input(self.module, gradient)
            if scale < 1.0 and self.method.predicts:
                gradient *= scale
        self.weight_version += self.updater.step(index)
        return one_or_all(grad_input) if grad_input else None

    def check_weights(self) -> None:
        """Raise `DivergenceError`, naming the layer, where a weight of the layers or of the method's model is not finite."""
        check_weights(self.module)
        if self.method.model is not None:
            check_weights(self.method.model, self.method.model_name)

    def state_dict(self) -> dict[str, Any]:
        """Everything the stage needs to go on from here; tensors and plain values only.

        Raises `RuntimeError` while an update waits for its gradient: a graph can't be kept.
        """
        if any(self.holds_input(index) for index in self.pending):
            raise RuntimeError("a batch waits for its gradient")
        return {**self.trained_state(), "pending": [p.as_dict(index) for index, p in self.pending.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.load_trained_state(state)
        self.pending = {pending["index"]: Pending.of(pending) for pending in state["pending"]}

    def layers(self) -> dict[str, Any]:
        """What the network is made of: the layers' state, and their average, if there is one."""
        average = self.updater.average
        state = {"model": self.module.state_dict()}
        return state if average is None else {**state, "average": average.state_dict()}

    def trained_state(self) -> dict[str, Any]:
        """What training changes: all but the batches whose gradients are under way."""
        return {
            **self.layers(),
            "updates": self.updater.state_dict(),
            "optimizer": None if self.optimizer is None else optimizer_state(self.optimizer, self.module),
            "method": self.method.state_dict(),
            "weight_version": self.weight_version,
        }

    def load_trained_state(self, state: dict[str, Any]) -> None:
        """Take up what `trained_state` gave."""
        self.module.load_state_dict(state["model"])
        if self.optimizer is not None:
            load_optimizer_state(self.optimizer, self.module, state["optimizer"])
        if state["method"] is not None:
            self.method.load_state_dict(state["method"])
        self.weight_version = state["weight_version"]
        self.updater.load_state_dict(state.get("updates", {}))
        if self.updater.average is not None:
            self.updater.average.load_state_dict(state.get("average", {}))


@dataclass(frozen=True)
class StageSpec:
    """All that a stage is made from; picklable, so that it can be made in another process."""

    index: int
    num_stages: int
    module: nn.Sequential
    optimizer: OptimizerFactory
    loss_fn: Loss
    method: MethodSpec
    # None in the last stage, and for methods that want none; of an output of several carrying parts, an nn.ModuleList
    synthesizer: nn.Module | None
    # of an auxiliary head, too; None: that of the stage's optimizer, if it is an Adam, else 1e-3
    synthesizer_lr: float | None
    classes: int  # of what the method sees of the target, 0 where it sees nothing
    lag: int | None = None  # None: gradients are learnt from when they come
    synthesizer_every: int = 1
    target_lambda: float = 0.0
    synthesizer_matmul_precision: str = "highest"
    matmul_precision: str | None = None
    clip_grad_norm: float | None = None
    checks_gradients: bool = False
    habits: Habits = Habits()
    state: dict[str, Any] | None = None  # of a checkpoint, to go on from
    conditions: Sequence[Condition | None] = (None,)  # what the method sees of the target, for each carrying part
    dims: Sequence[int] = (0,)  # which dimension of each carrying part of the output counts the samples
    input_layout: Any = None  # of what the stage takes (`structure.layout_of`)
    auxiliary_head: nn.Module | None = None  # None in the last stage, and for methods that want none
    compiled_for: Structure = None  # an input, where torch.compile is to make code of the layers

    @property
    def has_models(self) -> bool:
        """Whether the models are there that its method wants in all stages but the last."""
        wanted = (self.method.synthesizer, self.synthesizer), (self.method.auxiliary_head, self.auxiliary_head)
        return all(model is not None for wants, model in wanted if wants)

    @property
    def layers(self) -> list[str]:
        """Names of the stage's blocks in the network."""
        return [name for name, _ in named_blocks(self.module)]

    def build(self, device: torch.device) -> Stage:
        """The stage, on `device`. Its blocks are in training mode or not as they were given: a frozen one stays so."""
        module = self.module.to(device)
        optimizer = self.habits.make_optimizer(self.optimizer, module)
        method = self.make_method(device, optimizer)
        is_first, is_last = self.index == 0, self.index == self.num_stages - 1
        stage = Stage(
            module,
            optimizer,
            self.habits.seen(method),
            is_first=is_first,
            is_last=is_last,
            gradients=self.method.gradients,
            synthesizer_every=self.synthesizer_every,
            clip_grad_norm=self.clip_grad_norm,
            checks_gradients=self.checks_gradients,
            precision=self.matmul_precision,
            input_layout=self.input_layout,
            updater=self.habits.make_updater(self.optimizer, module, optimizer, method, self.clip_grad_norm),
            half=self.habits.autocast,
            output_dtypes=self.habits.output_dtypes,
            target_lambda=self.target_lambda,
            next_defers=self.target_lambda > 0 and method.predicts and self.index < self.num_stages - 2,
        )
        if self.compiled_for is not None:
            x = [part.to(device) for part in parts_of(self.compiled_for)]
            stage.forward_pass.compile(x, layout_of(self.compiled_for), device, sends=stage.sends_gradient(0))
        if self.state is not None:
            stage.load_state_dict(to_device(self.state, device))
        return stage

    def make_method(self, device: torch.device, optimizer: Optimizer | None) -> Method:
        """How the stage comes by its gradients; `optimizer`: of its layers."""
        for part in (self.loss_fn, self.auxiliary_head):
            if isinstance(part, nn.Module):
                part.to(device)
        if self.index == self.num_stages - 1:
            return LossGradient(self.loss_fn, self.habits.autocast)
        synthesizer = None if self.synthesizer is None else self.synthesizer.to(device).train()
        several = len(self.dims) > 1 and not self.method.waits and not self.method.auxiliary_head
        given = (
            list(synthesizer) if several and isinstance(synthesizer, nn.ModuleList) else [synthesizer] * len(self.dims)
        )
        methods = [
            self.method.make(self._method_parts(optimizer, own, condition))
            for own, condition in zip(given if several else [synthesizer], self.conditions, strict=several)
        ]
        for method in methods:
            if not isinstance(method, Method):
                raise TypeError(f"method {self.method.name!r}: it makes {type(method).__name__}; allowed: a Method")
            if method.waits != self.method.waits:
                raise TypeError(
                    f"method {self.method.name!r}: what it makes waits for gradients or not, and it says otherwise"
                )
        return Several(methods, self.dims) if several else methods[0]

    def _method_parts(
        self, optimizer: Optimizer | None, synthesizer: nn.Module | None, condition: Condition | None
    ) -> MethodParts:
        return MethodParts(
            optimizer=optimizer,
            synthesizer=synthesizer,
            classes=self.classes if condition is None else condition.width,
            lag=self.lag,
            synthesizer_lr=self.synthesizer_lr,
            synthesizer_matmul_precision=self.synthesizer_matmul_precision,
            condition=condition,
            auxiliary_head=None if self.auxiliary_head is None else self.auxiliary_head.train(),
            loss_fn=self.loss_fn,
            matmul_precision=self.matmul_precision,
        )


def to_device(tree: Any, device: torch.device) -> Any:
    """A nest of dicts and lists with its tensors on `device`."""
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: to_device(value, device) for key, value in tree.items()}
    return type(tree)(to_device(value, device) for value in tree) if isinstance(tree, list | tuple) else tree
