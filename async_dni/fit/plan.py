"""The second step of a run: the network is cut into stages, each with its synthesizer, or its head."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from ..data.samples import refused
from ..learning.autocast import widened
from ..learning.blocks import copy_of
from ..learning.divergence import DivergenceError
from ..learning.stage import StageSpec
from ..learning.structure import Output, Structure, layout_of, mapped
from ..learning.updates.habits import Habits
from ..network.cost import count_costs, measure_costs
from ..network.partition import balance, check_shared, partition
from ..network.step import try_steps
from ..network.trial import Trial, check_one_row
from .boundaries import Made, make_boundaries
from .habits import check_habits, make_habits
from .heads import first_row, with_heads
from .job import Job
from .prepare import Prepared


@dataclass(frozen=True)
class Plan:
    """The stages of a run."""

    split: list[int]  # the index of each stage's first block, but for the first stage
    stages: list[StageSpec]
    outputs: list[Output]  # each stage's

    @property
    def layers(self) -> list[list[str]]:
        """Names of each stage's blocks."""
        return [stage.layers for stage in self.stages]


def make_plan(job: Job, prepared: Prepared) -> Plan:
    """Cut the network: where the settings say, else where the checkpoint was cut, else balanced. Raises `ConfigError`."""
    outputs, checkpoint = prepared.trial.outputs, prepared.checkpoint
    trial = prepared.trial if job.config.autocast is None else in_float32(prepared.trial)
    prepared = dataclasses.replace(prepared, trial=trial)
    model = trained_copy(prepared.model, job.config.channels_last)
    made = with_heads(job, model, trial, make_boundaries(job, model, trial))
    spec = _any_stage(job, model, prepared)
    split = _split(job, spec, made, prepared)
    check_shared(model, split)
    lasts = [*(cut - 1 for cut in split), len(model) - 1]  # each stage's last block
    habits = make_habits(job, prepared.stream.steps)
    states = checkpoint.stage_states(split) if checkpoint is not None else [None] * len(lasts)
    inputs: list[Structure] = [trial.first.x, *(trial.outputs[last].structure for last in lasts)]
    stages = [
        dataclasses.replace(
            made[lasts[k]].boundary(job, trial, lasts[k], job.devices[k]).applied(spec),
            index=k,
            module=module,
            synthesizer=made[lasts[k]].synthesizer,
            state=states[k],
            input_layout=layout_of(inputs[k]),
            habits=habits[k].typed(outputs[lasts[k]]),
            compiled_for=mapped(torch.zeros_like, inputs[k]) if job.config.compile else None,
        )
        for k, module in enumerate(partition(model, split))
    ]
    for last in lasts[:-1]:
        for synthesizer, h, labels in made[last].examples(trial, last):
            assert synthesizer is not None
            check_one_row(prepared.stream, synthesizer, h[:1], None if labels is None else labels[:1])
        if (head := made[last].auxiliary_head) is not None:
            check_one_row(prepared.stream, head, first_row(trial, last))
    check_habits(stages)
    try_steps(stages, trial.first)
    return Plan(split, stages, [outputs[last] for last in lasts])


def in_float32(trial: Trial) -> Trial:
    """With outputs of half precision, by autocast, as those see them that predict gradients."""
    outputs = [dataclasses.replace(output, structure=mapped(widened, output.structure)) for output in trial.outputs]
    return dataclasses.replace(trial, outputs=outputs)


def trained_copy(model: nn.Sequential, channels_last: bool = False) -> nn.Sequential:
    """A copy for training. A network in evaluation mode as a whole is put into training mode; blocks of one that is not
    stay as they are, so that what a user has frozen stays so."""
    copied = copy_of(model)
    if channels_last:
        copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied if model.training else copied.train()


def _any_stage(job: Job, model: nn.Sequential, prepared: Prepared) -> StageSpec:
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
        target_lambda=config.target_lambda,
        lag=config.effective_lag,
        synthesizer_lr=config.synthesizer_lr,
        matmul_precision=config.matmul_precision,
        clip_grad_norm=config.clip_grad_norm,
        checks_gradients=config.on_divergence == "skip",
        classes=prepared.trial.classes,
        input_layout=layout_of(prepared.trial.first.x),
        habits=Habits(autocast=config.autocast),
    )


def _split(job: Job, spec: StageSpec, made: Sequence[Made], prepared: Prepared) -> list[int]:
    config, blocks, trial, checkpoint = job.config, list(spec.module), prepared.trial, prepared.checkpoint
    if config.split is not None:
        return list(config.split)
    if config.workers in (1, len(blocks)):
        return list(range(1, config.workers))
    if checkpoint is not None and len(checkpoint.split) == config.workers - 1:
        return checkpoint.split
    synthesizers = [each.synthesizer for each in made]
    # with a lag, the result is to depend on the seed alone, so cuts not on time
    if config.effective_lag is None:
        with refused("train_set"), suppress(DivergenceError):  # a worker will tell where it diverged
            boundaries = [each.boundary(job, trial, block) for block, each in enumerate(made)]
            threads = job.threads
            try_steps([spec], trial.first)  # what is measured makes steps, too
            # what is loaded in processes of its own costs stage 0 nothing
            load = (lambda: trial.first) if config.loader_workers else lambda: prepared.stream[0]
            costs = measure_costs(spec, blocks, synthesizers, load, threads, boundaries)
            return balance(*costs, config.workers)
    conditions = [each.conditions for each in made]
    heads = [each.auxiliary_head for each in made]
    costs = count_costs(blocks, synthesizers, trial.outputs, trial.first, conditions, config.synthesizer_every, heads)
    return balance(*costs, config.workers)
