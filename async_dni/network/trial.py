"""One batch through a network before anything is started: what can be seen to go wrong is refused here, by name."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from ..data.batch_check import Labels
from ..data.batches import EVALUATING, Batches
from ..data.one_pass import first_sample
from ..data.samples import refused
from ..data.stream import check_in_memory
from ..foundation.error import ConfigError, reason
from ..learning.batch import Batch
from ..learning.blocks import copy_of
from ..learning.condition import Condition, OwnCondition, condition_of
from ..learning.losses import ignored_label
from ..learning.methods import Loss, MethodSpec
from ..learning.random_state import seeded
from ..learning.stage import OptimizerFactory
from ..learning.structure import Output
from .outputs import block_outputs, copied_whole

BROADCAST = "Using a target size"  # PyTorch's warning of outputs and targets of different shapes


@dataclass(frozen=True)
class Trial:
    """What came of it."""

    first: Batch  # of the stream
    outputs: list[Output]  # every block's for it
    condition: Condition | None  # what synthesizers see of the target; None: nothing

    @property
    def classes(self) -> int:
        """Of the labels that the synthesizers see, or numbers; 0: they see none."""
        return 0 if self.condition is None else self.condition.width


def try_out(
    model: nn.Sequential,
    loss_fn: Loss,
    method: MethodSpec,
    stream: Batches,
    eval_set: Dataset | None,
    own_condition: OwnCondition | None = None,
) -> Trial:
    """Run the first batch through a copy of the network and the loss, and a sample of the eval_set.

    From here on the stream knows the labels that the loss takes. Raises `ConfigError`.
    """
    with refused("train_set"):
        first = stream[0]
    network = copied_whole(model)
    outputs = block_outputs(network, first.x)
    output = outputs[-1].tensor
    condition = _condition(method, loss_fn, output, first.target, own_condition)
    labels = Labels.of(loss_fn, output, first.target)
    if labels is None and condition is not None and condition.labels:
        labels = Labels(condition.width)
    with refused("train_set"):
        stream.allow(labels, first)
    _check_loss(loss_fn, output, first.target)
    if eval_set is not None:
        with seeded(stream.seed, EVALUATING, 0):
            _check_eval_set(eval_set, network, loss_fn, labels)
    return Trial(first, outputs, condition)


def _condition(
    method: MethodSpec, loss_fn: Loss, output: Tensor, target: Tensor, own: OwnCondition | None
) -> Condition | None:
    if not method.conditioned:
        return None
    ignored = ignored_label(loss_fn)  # of a loss of labels
    name = getattr(own, "__name__", type(own).__name__)
    try:
        condition = condition_of(output, target, ignored=ignored, classes_first=ignored is not None, own=own)
    except Exception as error:
        took = f"it does not take targets {list(target.shape)} {target.dtype} ({reason(error)})"
        raise ConfigError("condition", name, took) from error
    if own is not None:
        seen = own(target)
        if seen.dim() < 2 or len(seen) != len(target) or not seen.is_floating_point():
            found = f"it gives {list(seen.shape)} {seen.dtype} for {len(target)} samples"
            raise ConfigError(
                "condition", name, f"{found}; allowed: numbers [batch, width] or [batch, *positions, width]"
            )
    return condition


def _check_loss(loss_fn: Loss, output: Tensor, target: Tensor) -> None:
    """Raise `ConfigError` unless the loss of a batch is a mean over it, one number with a gradient."""
    name = type(loss_fn).__name__ if isinstance(loss_fn, nn.Module) else getattr(loss_fn, "__name__", str(loss_fn))
    if isinstance(loss_fn, type):
        raise ConfigError("loss_fn", name, f"it is a class; allowed: an object of it, {name}()")
    if not callable(loss_fn):
        raise ConfigError("loss_fn", name, "allowed: a function of outputs and targets, such as nn.MSELoss()")
    given = f"outputs {list(output.shape)} {output.dtype} and targets {list(target.shape)} {target.dtype}"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", BROADCAST)
            loss = loss_fn(output.detach().clone().requires_grad_(), target)
    except UserWarning:
        allowed = "it would hold every output against every target; allowed: outputs and targets of one shape"
        raise ConfigError("loss_fn", name, f"{given}: {allowed}") from None
    except Exception as error:
        allowed = f"; allowed: {other}" if (other := _instead_of_booleans(loss_fn, output, target)) else ""
        raise ConfigError("loss_fn", name, f"it does not take {given} ({reason(error)}){allowed}") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        found = f"{list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        allowed = "allowed: a mean over the batch, one number, that has a gradient"
        raise ConfigError("loss_fn", name, f"it gives {found} for a batch; {allowed}")
    if is_sum(loss_fn, output.detach(), target, float(loss.detach())):
        found = "it is a sum over the batch: twice the batch, twice the loss"
        raise ConfigError("loss_fn", name, f"{found}; allowed: a mean, such as reduction='mean'")


def _instead_of_booleans(loss_fn: Loss, output: Tensor, target: Tensor) -> str | None:
    """Which targets a loss takes that does not take booleans."""
    for dtype, words in ((output.dtype, "targets that are floats"), (torch.int64, "targets that are integers")):
        with suppress(Exception), torch.no_grad():
            if target.dtype == torch.bool:
                loss_fn(output, target.to(dtype))
                return words
    return None


def is_sum(loss_fn: Loss, output: Tensor, target: Tensor, loss: float) -> bool:
    """Whether the loss of a batch doubles when every sample stands in it twice, where a mean stays as it is."""
    try:
        with torch.no_grad():
            doubled = float(loss_fn(torch.cat((output, output)), torch.cat((target, target))))
    except Exception:
        return False  # it takes no other batch
    return loss != 0 and abs(doubled - 2 * loss) < 0.01 * abs(loss)


def _check_eval_set(eval_set: Dataset, network: nn.Sequential, loss_fn: Loss, labels: Labels | None) -> None:
    with refused("eval_set"):
        check_in_memory(eval_set, labels)
        indices, x, target = first_sample(eval_set)
        if labels is not None:
            labels.check(target, indices)
    try:
        with torch.no_grad():
            loss_fn(network.eval()(x), target)
    except Exception as error:
        given = f"samples {list(x.shape[1:])} {x.dtype}"
        raise ConfigError("eval_set", given, f"the network or the loss does not take them ({reason(error)})") from error


def optimizer_name(optimizer: OptimizerFactory, parameters: Sequence[nn.Parameter] | None = None) -> str:
    """The class of what an optimizer factory makes of a network's parameters. Raises `ConfigError` where it makes none."""
    allowed = "allowed: a function of a stage's parameters, such as partial(torch.optim.Adam, lr=1e-3)"
    name = factory_name(optimizer)
    try:
        made = optimizer([nn.Parameter(torch.zeros(1))] if parameters is None else parameters)
    except Exception as error:
        raise ConfigError("optimizer", name, f"{allowed} ({type(error).__name__}: {error})") from error
    if not isinstance(made, Optimizer):
        raise ConfigError("optimizer", name, f"it gives {type(made).__name__}; {allowed}")
    return type(made).__name__


def factory_name(factory: Callable[..., Any]) -> str:
    """What to call a factory, of optimizers or of heads."""
    for of in (factory, getattr(factory, "func", None)):  # the function of a `functools.partial`
        if isinstance(name := getattr(of, "__name__", None), str):
            return name
    return type(factory).__name__


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


def check_head(head: nn.Module, block: str, h: Tensor, output: Tensor) -> None:
    """Raise `ConfigError` unless an auxiliary head makes of the output h of a block what is shaped like the network's."""
    name = type(head).__name__
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            said = copy.deepcopy(head).eval()(h)
    except Exception as error:
        took = f"it does not take the output of block {block!r}, {list(h.shape)} {h.dtype} ({reason(error)})"
        raise ConfigError("auxiliary_head", name, took) from error
    if not isinstance(said, Tensor) or said.shape != output.shape:
        found = f"{list(said.shape)}" if isinstance(said, Tensor) else type(said).__name__
        allowed = f"it gives {found} after block {block!r}; allowed: {list(output.shape)}, as the network's output"
        raise ConfigError("auxiliary_head", name, allowed)


def check_one_row(stream: Batches, run: nn.Module, *inputs: object) -> None:
    """Raise `ConfigError` where a batch would be of one sample, and a module does not take that: batch norm needs two.

    `inputs`: examples of a module's inputs for one sample. The module, and random numbers, are left as they were.
    """
    if stream.smallest > 1:
        return
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy_of(run)(*inputs)
    except Exception as error:
        takes = f"a layer does not take a batch of one sample ({reason(error)})"
        if "more than 1 value per channel" in str(error):
            takes = "batch norm needs two samples"
        is_last = (stream.samples or 0) % stream.batch_size == 1
        which = f"the last of {stream.samples} would be a batch of its own" if is_last else "there is a batch of one"
        which = f", and {which}" * (stream.batch_size > 1)
        allowed = "at least 2" if stream.batch_size == 1 else "a size that leaves none or more than one"
        raise ConfigError("batch_size", stream.batch_size, f"{takes}{which}; allowed: {allowed}") from error
