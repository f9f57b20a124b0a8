"""How a stage comes by the gradient that it updates with: what a method is, and what it says of itself.

A method is a class (`Method`) and a description beside it (`MethodSpec`), in one file of this folder, and a line in
`__init__.py`. Settings, trainer, command line and documentation read descriptions; no other file names a method.

    last stage             LossGradient       ∂L/∂h, from the loss itself
    backprop, delayed      TrueGradient       None: the update waits (backprop: for each batch; delayed: some batches)
    dni, cdni              SyntheticGradient  M(h) or M(h, y), and M learns ‖M(h) − δ‖²
    local                  LocalGradient      ∂L_k/∂h, from a loss of the stage's own, of what its auxiliary head says of h

(Jaderberg et al., *Decoupled Neural Interfaces using Synthetic Gradients*, arXiv 1608.05343, section 2.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Adam, AdamW, NAdam, Optimizer

Loss = Callable[[Tensor, Tensor], Tensor]
"""`CrossEntropyLoss`'s signature: outputs `[batch, ...]`, targets `[batch, ...]` → a scalar, a mean over the batch."""


class Method(ABC):
    """What a stage asks of its method.

    `now` answers with the gradient of the loss with respect to the stage's output h, or with None where the stage has to
    wait for the true one. `learn` is told the gradient that came back from the next stage, for a batch that `now` answered.
    """

    waits: bool = False  # whether `now` answers None
    late: bool = False  # whether the stage updates on other batches between a batch's forward and backward pass
    predicts: bool = False  # whether what `now` answers is a prediction, which may run away
    model: nn.Module | None = None  # of the method's own, such as a synthesizer
    model_name: str = "synthesizer"  # what messages call it
    optimizer: Optimizer | None = None  # the model's
    loss: Tensor | None = None  # of the newest batch that `now` or `learn` saw, a scalar; None where there is none

    @abstractmethod
    def now(self, h: Any, target: Tensor) -> Any:
        """The gradient to update with at once, shaped like h, or None: wait for the true one."""

    def learn(self, h: Any, target: Tensor, grad_output: Any) -> None:  # noqa: B027  (most learn nothing)
        """Learn from the gradient that came back."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take up what `state_dict` gave."""


@dataclass(frozen=True)
class MethodParts:
    """What a stage's method may be made of."""

    optimizer: Optimizer | None  # of the stage's layers; None where none has a parameter
    synthesizer: nn.Module | None  # on the stage's device; None where the method wants none
    classes: int  # of what the method sees of the target, 0: nothing
    lag: int | None  # None: gradients are learnt from when they come
    synthesizer_lr: float | None = None
    synthesizer_matmul_precision: str | None = None
    condition: Callable[[Tensor], Tensor] | None = (
        None  # makes what the method sees of a target; None: the target itself
    )
    auxiliary_head: nn.Module | None = None  # on the stage's device; None where the method wants none
    loss_fn: Loss | None = None  # the run's
    matmul_precision: str | None = None  # of the layers' products; None: as PyTorch is set


@dataclass(frozen=True)
class MethodSpec:
    """What a method says of itself. Picklable, as workers get it."""

    name: str
    help: str  # a few words
    make: Callable[[MethodParts], Method]  # for all stages but the last
    waits: bool = False  # whether each update waits for the gradient that comes back
    gradients: bool = True  # whether stages send gradients upstream
    synthesizer: bool = False  # whether it wants a synthesizer
    conditioned: bool = False  # whether it sees the labels
    auxiliary_head: bool = (
        False  # whether it wants one; it then sees all parts of an output, each as the stage gives it
    )
    lag: int | None = None  # the only one that it can have
    synthesizer_hidden: tuple[int, ...] = ()  # hidden widths of its synthesizers, where none are given
    check: Callable[[Any], None] | None = None  # raises `ConfigError` where other settings can't go with it

    def __post_init__(self) -> None:
        if not self.gradients and (self.waits or self.synthesizer):
            raise ValueError(f"{self.name}: what waits for gradients, or learns from them, needs gradients")


def rate_of_model(parts: MethodParts) -> float:
    """That of the Adam of a method's own model: as given, else that of the layers, if theirs is an Adam."""
    if parts.synthesizer_lr is not None:
        return parts.synthesizer_lr
    # an Adam's learning rate suits another; that of SGD, say, is of another scale
    lr: float = parts.optimizer.param_groups[0]["lr"] if isinstance(parts.optimizer, Adam | AdamW | NAdam) else 1e-3
    return lr
