"""What a cut after each block would bring with it: synthesizers, one for each part of the output that carries a gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..foundation.error import ConfigError, reason
from ..learning.blocks import named_blocks
from ..learning.condition import Condition, layout_of_features
from ..learning.precision import matmul_precision
from ..learning.synthesizers import SYNTHESIZERS, SynthesizerChoice, synthesizer_choices
from ..learning.synthesizers.choice import default_choice
from ..learning.synthesizers.synthesizer import CHANNELS_FIRST, VECTOR
from ..network.cost import Boundary
from ..network.memory import check_fits
from ..network.precision_choice import choose_precision
from ..network.trial import Trial, check_synthesizer
from .job import Job

# what the last dimension of these layers' outputs counts: features; and what the first of those counts: channels
FEATURES_LAST = (nn.Linear, nn.Embedding, nn.MultiheadAttention, nn.RNNBase, nn.LayerNorm)
CHANNELS_COME_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)

Example = tuple[nn.Module | None, Tensor, Tensor | None]
"""A synthesizer, and what it gets for a batch: h `[batch, *features]`, and what it sees of the target."""

NONE: Example = (None, torch.empty(0), None)


@dataclass(frozen=True)
class Made:
    """The synthesizers after a block, and what each sees of the target; or an auxiliary head (`heads.py`)."""

    synthesizer: nn.Module | None = None  # an nn.ModuleList, where the output has several carrying parts
    conditions: tuple[Condition | None, ...] = (None,)
    dims: tuple[int, ...] = (0,)  # which dimension of each carrying part counts the samples
    auxiliary_head: nn.Module | None = None

    def examples(self, trial: Trial, block: int) -> list[Example]:
        """Each synthesizer, with what it gets for the first batch."""
        if self.synthesizer is None:
            return []
        parts = [part.movedim(dim or 0, 0) for part, dim in trial.outputs[block].carrying]
        each = list(self.synthesizer) if isinstance(self.synthesizer, nn.ModuleList) else [self.synthesizer]
        seen = [None if condition is None else condition(trial.first.target) for condition in self.conditions]
        return list(zip(each, parts, seen, strict=True))

    def boundary(self, job: Job, trial: Trial, block: int, device: str = "cpu") -> Boundary:
        """With the precision that its largest synthesizer multiplies in, in a stage on `device`."""
        given = job.config.synthesizer_matmul_precision
        largest = max(self.examples(trial, block), key=lambda example: example[1].numel(), default=NONE)
        return Boundary(choose_precision(given, *largest, device), self.conditions, self.dims, self.auxiliary_head)


def make_boundaries(job: Job, model: nn.Sequential, trial: Trial) -> list[Made]:
    """What comes after each block; nothing after the last. Raises `ConfigError`."""
    dims = [tuple(dim or 0 for _, dim in output.carrying) for output in trial.outputs]
    made = [Made(conditions=(None,) * len(of_block), dims=of_block) for of_block in dims]
    if not job.method.synthesizer:
        conditions = [
            tuple(_condition(trial, model, i, part, VECTOR) for part, _ in output.carrying)
            for i, output in enumerate(trial.outputs)
        ]
        return [Made(None, seen, of_block) for seen, of_block in zip(conditions, dims, strict=True)]
    for number, block in enumerate(possible_cuts(job, model)):
        made[block] = _make(job, model, trial, block, number)
    return made


def possible_cuts(job: Job, model: nn.Sequential) -> Sequence[int]:
    """The blocks after which a stage may end, but for the last."""
    if job.config.workers == 1:
        return []
    return range(len(model) - 1) if job.config.split is None else [cut - 1 for cut in job.config.split]


@contextmanager
def weights_of(job: Job, block: int, place: int) -> Iterator[None]:
    """Weights made inside depend on the seed, the block and the place of the part of its output, not on other cuts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.config.seed * 1_000_003 + 1 + block + 1009 * place)
        yield


def _make(job: Job, model: nn.Sequential, trial: Trial, block: int, number: int) -> Made:
    name = named_blocks(model)[block][0]
    synthesizers, conditions = [], []
    for place, (part, dim) in enumerate(trial.outputs[block].carrying):
        if dim is None:
            found = f"its output {list(part.shape)} {part.dtype} is the same for every batch"
            allowed = f"{job.method.name} synthesizes gradients a sample; allowed: integers or booleans, or the methods that wait"
            raise ConfigError("model", f"block {name!r}", f"{found}, and {allowed}")
        h = part.movedim(dim, 0)
        with weights_of(job, block, place):
            synthesizer, condition = _synthesizer(job, model, trial, block, h, number)
        synthesizers.append(synthesizer)
        conditions.append(condition)
    whole = synthesizers[0] if len(synthesizers) == 1 else nn.ModuleList(synthesizers)
    return Made(whole, tuple(conditions), tuple(dim or 0 for _, dim in trial.outputs[block].carrying))


def _synthesizer(
    job: Job, model: nn.Sequential, trial: Trial, block: int, h: Tensor, number: int
) -> tuple[nn.Module, Condition | None]:
    """That of an output `[batch, *features]` of a block, and what it sees of the target."""
    features, config = tuple(h.shape[1:]), job.config
    if job.synthesizer is not None:
        condition = _condition(trial, model, block, h, None)
        width = 0 if condition is None else condition.width
        with _refused(getattr(job.synthesizer, "__name__", "a function"), "(features, classes)"):
            synthesizer = job.synthesizer(features, width)
        is_own = True
    else:
        choice = _choice(job, model, trial, block, h, number)
        condition = _condition(trial, model, block, h, choice.spec.layout)
        width = 0 if condition is None else condition.width
        hidden = _hidden(job, choice, features)
        make = partial(choice.make, features, hidden, width)
        with _refused(choice.name, "(features, hidden, classes)"):
            check_fits(make, "synthesizer_hidden", hidden, f"a synthesizer for an output {list(features)}")
            synthesizer = make()
        is_own = config.synthesizer is not None
    if isinstance(synthesizer, nn.Module):
        synthesizer = synthesizer.to(h.dtype)
    if is_own:
        labels = None if condition is None else condition(trial.first.target)
        with matmul_precision(config.synthesizer_matmul_precision or "highest", h.device):
            check_synthesizer(synthesizer, named_blocks(model)[block][0], h, labels)
    return synthesizer, condition


def _hidden(job: Job, choice: SynthesizerChoice, features: Sequence[int]) -> tuple[int, ...]:
    """Hidden widths, as given; else as many as the method's, which are for vectors: of positions, as wide as an output has
    channels, since each is computed at every position."""
    if job.config.synthesizer_hidden is not None or choice.spec.layout == VECTOR:
        return job.config.hidden
    channels, _ = layout_of_features(features, choice.spec.layout == CHANNELS_FIRST)
    return (channels,) * len(job.config.hidden)


def _choice(job: Job, model: nn.Sequential, trial: Trial, block: int, h: Tensor, number: int) -> SynthesizerChoice:
    """The one that the settings name for this boundary, else by the shape of the output."""
    if job.config.synthesizer is None:
        first = has_channels_first(model, block, h, trial.first.target)
        condition = _condition(trial, model, block, h, None)
        seen = None if condition is None else condition(trial.first.target)
        by_position = seen is not None and seen.dim() > (2 if seen.is_floating_point() else 1)
        return default_choice(h.shape[1:], job.config.hidden, SYNTHESIZERS, first, by_position)
    choices = synthesizer_choices(job.config.synthesizer)
    return choices[number] if len(choices) > 1 else choices[0]


def _condition(trial: Trial, model: nn.Sequential, block: int, h: Tensor, layout: str | None) -> Condition | None:
    """What is seen of the target beside an output `[batch, *features]` by what takes it for `layout`."""
    if trial.condition is None:
        return None
    first = has_channels_first(model, block, h, trial.first.target) if layout is None else layout == CHANNELS_FIRST
    positions = () if layout == VECTOR else layout_of_features(h.shape[1:], first)[1]
    return trial.condition.fitted(positions, trial.first.target)


def has_channels_first(model: nn.Sequential, block: int, h: Tensor, target: Tensor) -> bool:
    """Whether an output `[batch, *features]` is of `[channels, *positions]`, else of `[*positions, features]`.

    By the positions of the target, where it has these; else by the newest layer before that tells; else by its dimensions.
    """
    features, positions = tuple(h.shape[1:]), tuple(target.shape[1:])
    if (
        positions
        and len(positions) == len(features) - 1
        and (features[1:] == positions) != (features[:-1] == positions)
    ):
        return features[1:] == positions
    for layer in reversed([layer for _, each in named_blocks(model)[: block + 1] for layer in each.modules()]):
        if isinstance(layer, CHANNELS_COME_FIRST):
            return True
        if isinstance(layer, FEATURES_LAST):
            return False
    return len(features) >= 3


@contextmanager
def _refused(name: str, arguments: str) -> Iterator[None]:
    """What can't be made of these arguments is refused."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError("synthesizer", name, f"it can't be made of {arguments} ({reason(error)})") from error
