"""What evaluations are to find, and what the best of them is known by: gathered, and tried out on a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Dataset

from ..foundation.error import ConfigError, reason
from ..learning.losses import ignored_label
from ..learning.metrics import METRICS, Metric
from ..learning.metrics.metric import takes_labels
from ..network.trial import Trial
from ..record.early_stopping import ERROR, LOSS, EarlyStopping
from ..record.scores.collected import as_number
from .job import Job


def make_metrics(job: Job, trial: Trial, eval_set: Dataset | None) -> dict[str, Any]:
    """Those that have a name, and a user's own. Raises `ConfigError` where one does not take the network's outputs."""
    ignored = ignored_label(job.loss_fn)
    named = {name: METRICS[name].make(ignored) for name in job.config.metrics}
    for name, metric in job.metrics.items():
        if not isinstance(name, str) or not name or name in (LOSS, ERROR, *METRICS):
            allowed = f"allowed: names other than {', '.join((LOSS, ERROR, *METRICS))}"
            raise ConfigError("metrics", name, allowed)
        if not callable(metric) and not isinstance(metric, Metric):
            allowed = f"{type(metric).__name__} is neither a function of outputs and targets nor has update, compute and reset"
            raise ConfigError("metrics", name, allowed)
    metrics = {**named, **job.metrics}
    if metrics and eval_set is None:
        raise ConfigError("metrics", tuple(metrics), "they are of an eval_set, and none is given; allowed: none")
    output, target = trial.outputs[-1].tensor, trial.first.target
    for name, metric in metrics.items():
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                _try(metric, output.detach(), target)
        except Exception as error:
            found = f"outputs {list(output.shape)} and targets {list(target.shape)} {target.dtype}"
            allowed = f"it finds no number in {found} ({reason(error)})"
            raise ConfigError("metrics", name, allowed) from error
    return metrics


def _try(metric: Any, output: Any, target: Any) -> None:
    if not isinstance(metric, Metric):
        as_number(metric(output, target))
        return
    metric.reset()
    metric.update(output, target)
    as_number(metric.compute())
    metric.reset()


def make_early_stopping(job: Job, trial: Trial, metrics: Mapping[str, Any], eval_set: Dataset | None) -> EarlyStopping:
    """By what the settings name. Raises `ConfigError` where no evaluation has it, or there are none."""
    patience, name = job.config.early_stopping, job.config.early_stopping_metric
    if patience and (eval_set is None or not job.config.eval_every):
        why = "there is no eval_set" if eval_set is None else "there is one evaluation, at the end (--eval-every 0)"
        raise ConfigError("early_stopping", patience, f"{why}; allowed: 0")
    known = [LOSS, *([ERROR] if takes_labels(trial.outputs[-1].tensor, trial.first.target) else []), *metrics]
    if name not in known:
        raise ConfigError("early_stopping_metric", name, f"allowed: {', '.join(known)}")
    return EarlyStopping(patience, name, name in metrics and _higher_is_better(name, metrics[name]))


def _higher_is_better(name: str, metric: Any) -> bool:
    if name in METRICS:
        return METRICS[name].higher_is_better
    higher = getattr(metric, "higher_is_better", None)  # as metrics of torchmetrics have it
    if not isinstance(higher, bool):
        allowed = (
            "it does not say what is better; allowed: one with an attribute higher_is_better that is True or False "
            f"(of a function, {name}.higher_is_better = True)"
        )
        raise ConfigError("early_stopping_metric", name, allowed)
    return higher
