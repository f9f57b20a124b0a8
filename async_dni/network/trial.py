"""One batch through a network before anything is started: what can be seen to go wrong is refused here, by name."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from ..data.batch_check import Labels
from ..data.batches import Batches
from ..data.samples import get_batch, refused
from ..data.stream import check_in_memory
from ..foundation.error import ConfigError, reason
from ..learning.batch import Batch
from ..learning.methods import Loss, MethodSpec
from ..learning.stage import OptimizerFactory
from .partition import block_outputs, copied


@dataclass(frozen=True)
class Trial:
    """What came of it."""

    first: Batch  # of the stream
    outputs: list[Tensor]  # every block's for it, [batch, *features]
    classes: int  # of the labels that the synthesizers see, 0: they see none


def try_out(
    model: nn.Sequential, loss_fn: Loss, method: MethodSpec, stream: Batches, eval_set: Dataset | None
) -> Trial:
    """Run the first batch through a copy of the network and the loss, and a sample of the eval_set.

    From here on the stream knows the labels that the loss takes. Raises `ConfigError`.
    """
    with refused("train_set"):
        first = stream[0]
    network = copied(model)
    outputs = block_outputs(network, first.x)
    classes = _classes(method, outputs[-1], first.target)
    labels = Labels(classes) if classes else Labels.of(loss_fn, outputs[-1], first.target)
    with refused("train_set"):
        stream.allow(labels, first)
    _check_loss(loss_fn, outputs[-1], first.target)
    if eval_set is not None:
        _check_eval_set(eval_set, network, loss_fn, labels)
    return Trial(first, outputs, classes)


def _classes(method: MethodSpec, output: Tensor, target: Tensor) -> int:
    if not method.conditioned:
        return 0
    if output.dim() != 2 or target.dim() != 1 or target.dtype != torch.int64:
        found = f"outputs {list(output.shape)}, targets {list(target.shape)} {target.dtype}"
        allowed = f"{method.name} needs outputs [batch, classes] and int64 labels [batch], not {found}"
        raise ConfigError("method", method.name, allowed)
    return output.shape[1]


def _check_loss(loss_fn: Loss, output: Tensor, target: Tensor) -> None:
    """Raise `ConfigError` unless the loss of a batch is a number with a gradient."""
    name = type(loss_fn).__name__ if isinstance(loss_fn, nn.Module) else getattr(loss_fn, "__name__", "the loss")
    try:
        loss = loss_fn(output.detach().clone().requires_grad_(), target)
    except Exception as error:
        given = f"outputs {list(output.shape)} {output.dtype} and targets {list(target.shape)} {target.dtype}"
        raise ConfigError("loss_fn", name, f"it does not take {given} ({reason(error)})") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        found = f"{list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        allowed = "allowed: a mean over the batch, one number, that has a gradient"
        raise ConfigError("loss_fn", name, f"it gives {found} for a batch; {allowed}")


def _check_eval_set(eval_set: Dataset, network: nn.Sequential, loss_fn: Loss, labels: Labels | None) -> None:
    with refused("eval_set"):
        check_in_memory(eval_set, labels)
        x, target = get_batch(eval_set, torch.arange(1))
        if labels is not None:
            labels.check(target, torch.arange(1))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            loss_fn(network.eval()(x), target)
    except Exception as error:
        given = f"samples {list(x.shape[1:])} {x.dtype}"
        raise ConfigError("eval_set", given, f"the network or the loss does not take them ({reason(error)})") from error


def optimizer_name(optimizer: OptimizerFactory) -> str:
    """The class of what an optimizer factory makes. Raises `ConfigError` where it makes none."""
    allowed = "allowed: a function of a stage's parameters, such as partial(torch.optim.Adam, lr=1e-3)"
    name = type(optimizer).__name__ if isinstance(optimizer, Optimizer) else getattr(optimizer, "__name__", "a factory")
    try:
        made = optimizer([nn.Parameter(torch.zeros(1))])
    except Exception as error:
        raise ConfigError("optimizer", name, f"{allowed} ({type(error).__name__}: {error})") from error
    if not isinstance(made, Optimizer):
        raise ConfigError("optimizer", name, f"it gives {type(made).__name__}; {allowed}")
    return type(made).__name__


def check_synthesizer(synthesizer: nn.Module, block: str, h: Tensor, labels: Tensor | None) -> None:
    """Raise `ConfigError` unless a synthesizer predicts a gradient shaped like the output h of the block before it."""
    try:
        copied = copy.deepcopy(synthesizer).eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            prediction = copied(h, labels)
    except Exception as error:
        took = f"it does not take the output of block {block!r}, {list(h.shape)} {h.dtype} ({reason(error)})"
        raise ConfigError("synthesizer", type(synthesizer).__name__, took) from error
    if not isinstance(prediction, Tensor) or prediction.shape != h.shape:
        found = f"{list(prediction.shape)}" if isinstance(prediction, Tensor) else type(prediction).__name__
        allowed = f"it gives {found} after block {block!r}; allowed: {list(h.shape)}, as the block's output"
        raise ConfigError("synthesizer", type(synthesizer).__name__, allowed)
    held = {tensor.untyped_storage().data_ptr() for tensor in (h, *copied.parameters(), *copied.buffers())}
    if getattr(copied, "set_gradients", None) is not None and prediction.untyped_storage().data_ptr() in held:
        found = f"it gives the output of block {block!r} back, or its own weights"
        raise ConfigError(
            "synthesizer", type(synthesizer).__name__, f"{found}; allowed, with set_gradients: a new tensor"
        )


def check_last_batch(stream: Batches, modules: Sequence[nn.Module]) -> None:
    """Raise `ConfigError` where a batch norm would get a batch of one sample, an epoch's last."""
    layers = [layer for module in modules for layer in module.modules()]
    # of feature maps, one sample has many values a channel
    has_batch_norm = any(isinstance(layer, nn.BatchNorm1d) for layer in layers)
    if (
        stream.samples
        and has_batch_norm
        and stream.samples % stream.batch_size == 1
        and stream.steps >= stream.steps_per_epoch
    ):
        size = stream.batch_size
        allowed = f"batch norm needs two samples, and the last of {stream.samples} would be a batch of its own"
        raise ConfigError("batch_size", size, f"{allowed}; allowed: a size that leaves none or more than one")
