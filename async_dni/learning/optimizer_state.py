"""An optimizer's state by parameter name, so that it survives another partition of the network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


def clear_gradients(parameters: Iterable[Tensor]) -> None:
    """What `Optimizer.zero_grad` does, without its bookkeeping, which takes longer than the work."""
    for parameter in parameters:
        parameter.grad = None


def optimizer_state(optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
    """What an optimizer remembers of each of a module's parameters; not its settings, such as the learning rate."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {names[parameter]: dict(state) for parameter, state in optimizer.state.items()}  # type: ignore[index]


def load_optimizer_state(optimizer: Optimizer, module: nn.Module, state: dict[str, Any]) -> None:
    """Take up what `optimizer_state` gave; parameters that it does not name start afresh, other names are passed over."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    current = optimizer.state_dict()
    current["state"] = {i: state[name] for i, name in enumerate(order) if name in state}
    optimizer.load_state_dict(current)
