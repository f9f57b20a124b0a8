"""The second step of a run: the network is cut into stages, each with its synthesizer."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..data.batches import Batches
from ..data.samples import refused
from ..foundation.error import ConfigError, reason
from ..learning.blocks import named_blocks
from ..learning.divergence import DivergenceError
from ..learning.precision import matmul_precision
from ..learning.stage import StageSpec
from ..learning.synthesizers import make_synthesizer
from ..network.cost import count_costs, measure_costs
from ..network.memory import check_fits
from ..network.partition import balance, check_shared, partition
from ..network.precision_choice import choose_precision
from ..network.trial import Trial, check_last_batch, check_synthesizer
from ..record.checkpoint import Checkpoint
from ..runtime.machine.device import threads_per_worker
from .job import Job


@dataclass(frozen=True)
class Plan:
    """The stages of a run."""

    split: list[int]  # the index of each stage's first block, but for the first stage
    stages: list[StageSpec]
    outputs: list[Tensor]  # an example of each stage's, [batch, *features]

    @property
    def layers(self) -> list[list[str]]:
        """Names of each stage's blocks."""
        return [stage.layers for stage in self.stages]


def make_plan(job: Job, stream: Batches, trial: Trial, checkpoint: Checkpoint | None) -> Plan:
    """Cut the network: where the settings say, else where the checkpoint was cut, else balanced. Raises `ConfigError`."""
    model = copy.deepcopy(job.model).cpu()
    makes = enumerate(trial.outputs[:-1]) if job.method.synthesizer else ()
    made = [_make_synthesizer(job, i, h, trial) for i, h in makes]
    synthesizers = made + [None] * (len(model) - len(made))  # one after each block, but for the last
    spec = _any_stage(job, model, trial)
    split = _split(job, spec, synthesizers, stream, trial, checkpoint)
    check_shared(model, split)
    lasts = [*(cut - 1 for cut in split), len(model) - 1]  # each stage's last block
    states = checkpoint.stage_states(split) if checkpoint is not None else [None] * len(lasts)
    stages = [
        dataclasses.replace(
            spec,
            index=k,
            module=module,
            synthesizer=synthesizers[lasts[k]],
            synthesizer_matmul_precision=_precision(job, synthesizers, trial, lasts[k], job.devices[k]),
            state=states[k],
        )
        for k, module in enumerate(partition(model, split))
    ]
    check_last_batch(stream, [stage.synthesizer for stage in stages if stage.synthesizer is not None])
    return Plan(split, stages, [trial.outputs[last] for last in lasts])


def _any_stage(job: Job, model: nn.Sequential, trial: Trial) -> StageSpec:
    """What all stages have in common; the first, of the whole network, without a synthesizer."""
    config = job.config
    return StageSpec(
        index=0,
        num_stages=config.workers,
        module=model,
        optimizer=job.optimizer,
        loss_fn=job.loss_fn,
        method=job.method,
        synthesizer=None,
        synthesizer_every=config.synthesizer_every,
        lag=config.effective_lag,
        synthesizer_lr=config.synthesizer_lr,
        matmul_precision=config.matmul_precision,
        clip_grad_norm=config.clip_grad_norm,
        checks_gradients=config.on_divergence == "skip",
        classes=trial.classes,
    )


def _split(
    job: Job,
    spec: StageSpec,
    synthesizers: Sequence[nn.Module | None],
    stream: Batches,
    trial: Trial,
    checkpoint: Checkpoint | None,
) -> list[int]:
    config, blocks = job.config, list(spec.module)
    if config.split is not None:
        return list(config.split)
    if config.workers in (1, len(blocks)):
        return list(range(1, config.workers))
    if checkpoint is not None and len(checkpoint.split) == config.workers - 1:
        return checkpoint.split
    # with a lag, the result is to depend on the seed alone, so cuts not on time
    if config.effective_lag is None:
        with refused("train_set"), suppress(DivergenceError):  # a worker will tell where it diverged
            precisions = [_precision(job, synthesizers, trial, block) for block in range(len(blocks))]
            threads = threads_per_worker(config)
            # what is loaded in processes of its own costs stage 0 nothing
            load = (lambda: trial.first) if config.loader_workers else lambda: stream[0]
            costs = measure_costs(spec, blocks, synthesizers, load, threads, precisions)
            return balance(*costs, config.workers)
    every = config.synthesizer_every
    costs = count_costs(blocks, synthesizers, trial.outputs, trial.first.x, trial.classes, every)
    return balance(*costs, config.workers)


@contextmanager
def _refused(name: str, arguments: str) -> Iterator[None]:
    """What can't be made of these arguments is refused."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError("synthesizer", name, f"it can't be made of {arguments} ({reason(error)})") from error


def _precision(
    job: Job, synthesizers: Sequence[nn.Module | None], trial: Trial, block: int, device: str = "cpu"
) -> str:
    """That of the synthesizer after a block, in a stage on `device`."""
    labels = trial.first.target if trial.classes else None
    given = job.config.synthesizer_matmul_precision
    return choose_precision(given, synthesizers[block], trial.outputs[block], labels, device)


def _make_synthesizer(job: Job, block: int, h: Tensor, trial: Trial) -> nn.Module:
    """The synthesizer of a cut after a block; its weights depend on the seed and the block, not on other cuts."""
    features, classes = tuple(h.shape[1:]), trial.classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.config.seed * 1_000_003 + 1 + block)
        if job.synthesizer is not None:
            with _refused(getattr(job.synthesizer, "__name__", "a function"), "(features, classes)"):
                synthesizer = job.synthesizer(features, classes)
        else:
            hidden, name = job.config.hidden, job.config.synthesizer
            make = partial(make_synthesizer, features, hidden, classes, name)
            with _refused(name or "the default", "(features, hidden, classes)"):
                check_fits(make, "synthesizer_hidden", hidden, f"a synthesizer for an output {list(features)}")
                synthesizer = make()
            if name is None:
                return synthesizer
    labels = trial.first.target if classes else None
    with matmul_precision(job.config.synthesizer_matmul_precision or "highest", h.device):
        check_synthesizer(synthesizer, named_blocks(job.model)[block][0], h, labels)
    return synthesizer
