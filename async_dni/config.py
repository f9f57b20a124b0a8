"""The settings of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .foundation.error import ConfigError
from .foundation.option import Checked
from .foundation.reference import resolved
from .foundation.steps import read_profile
from .learning.methods import METHODS, MethodSpec
from .learning.synthesizers import SynthesizerChoice, synthesizer_choices
from .settings.arithmetic import Arithmetic
from .settings.data import Data
from .settings.evaluations import Evaluations
from .settings.files import Files
from .settings.hosts import Hosts
from .settings.processes import Processes
from .settings.splitting import Splitting
from .settings.stages import Stages
from .settings.synthesis import Synthesis
from .settings.updates import Updates

NAMES = ("metrics", "augment", "split_points")  # settings that may be given as on the command line, separated by commas


@dataclass(frozen=True)
class TrainerConfig(
    Updates, Evaluations, Data, Files, Hosts, Processes, Arithmetic, Synthesis, Splitting, Stages, Checked
):
    """How a network is trained: what `Trainer` takes beside the model, the loss and the optimizer."""

    def __post_init__(self) -> None:
        for name in NAMES:
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, tuple(value.split(",")))
        super().__post_init__()
        for name in ("run_dir", "resume"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        object.__setattr__(self, "auxiliary_head", resolved(self.auxiliary_head))  # a run may be resumed from elsewhere
        if self.split is not None and len(self.split) != self.workers - 1:
            cuts = f"{len(self.split)} cuts ({','.join(map(str, self.split))})"
            raise ConfigError("split", cuts, f"{self.workers} workers need {self.workers - 1}")
        if self.stage_lr is not None and len(self.stage_lr) != self.workers:
            raise ConfigError("stage_lr", self.stage_lr, f"{self.workers} workers need {self.workers}, one each")
        if self.hosts_split is not None and sum(self.hosts_split) != self.workers:
            given = f"{','.join(map(str, self.hosts_split))} ({sum(self.hosts_split)} in all)"
            raise ConfigError("hosts_split", given, f"there are {self.workers} workers; allowed: as many")
        if self.overflow == "drop":
            for name, why in (
                ("method", f"{self.method} waits for the gradient of each batch" * (self.waits)),
                ("lag", "a fixed lag waits for the gradient of each batch" * (self.lag is not None)),
                ("serial", "one process has no queues" * self.serial),
            ):
                if why:
                    raise ConfigError("overflow", "drop", f"{why}; allowed with --{name} {getattr(self, name)}: block")
        self._check_method(METHODS[self.method])
        if self.serial and self.on_divergence != "stop":
            raise ConfigError(
                "on_divergence", self.on_divergence, "one process has no snapshots; allowed with --serial: stop"
            )
        if self.on_divergence == "restore" and not self.snapshot_every:
            raise ConfigError(
                "on_divergence", "restore", "there is nothing to restore; allowed with --snapshot-every 0: stop, skip"
            )
        if self.profile is not None:
            self._check_profile(self.profile)
        if self.resume is not None and self.run_dir is not None:
            raise ConfigError("run_dir", self.run_dir, f"a resumed run goes on in its own directory, {self.resume}")

    def _check_profile(self, profile: str) -> None:
        """Raise `ConfigError` for a profile of a worker that isn't there."""
        if self.serial:
            raise ConfigError("profile", profile, "one process has no workers; allowed with --serial: none")
        if read_profile(profile)[0] >= self.workers:
            raise ConfigError("profile", profile, f"{self.workers} workers are stages 0 to {self.workers - 1}")

    def _check_method(self, method: MethodSpec) -> None:
        """Raise `ConfigError` for settings that can't go with the method."""
        if not method.synthesizer:
            for name, without in (("synthesizer", None), ("synthesizer_every", 1), ("target_lambda", 0.0)):
                if getattr(self, name) != without:
                    allowed = f"{method.name} has no synthesizers; allowed: {'none' if without is None else without}"
                    raise ConfigError(name, getattr(self, name), allowed)
        if not method.auxiliary_head:
            for name in ("auxiliary_head", "auxiliary_hidden"):
                if given := getattr(self, name):
                    raise ConfigError(name, given, f"{method.name} has no auxiliary heads; allowed: none")
        if self.auxiliary_head is not None and self.auxiliary_hidden:
            allowed = "they are of the default heads, and --auxiliary-head is given; allowed: one of the two"
            raise ConfigError("auxiliary_hidden", self.auxiliary_hidden, allowed)
        if self.target_lambda and self.workers < 3:
            allowed = f"{self.workers} workers have no stage between others, which would mix gradients; allowed: 0.0"
            raise ConfigError("target_lambda", self.target_lambda, allowed)
        if method.lag is not None and self.lag not in (None, method.lag):
            allowed = f"{method.name} waits for the gradient of each batch; allowed: {method.lag}"
            raise ConfigError("lag", self.lag, allowed)
        if self.gradient_check_every and (method.waits or self.workers == 1):
            why = (
                f"{method.name} waits for true gradients" if method.waits else "one worker has the loss's own gradient"
            )
            raise ConfigError("gradient_check_every", self.gradient_check_every, f"{why}; allowed: 0")
        if self.synthesizer is not None:
            self._check_synthesizers(synthesizer_choices(self.synthesizer))
        if method.check is not None:
            method.check(self)

    def _check_synthesizers(self, choices: Sequence[SynthesizerChoice]) -> None:
        """Raise `ConfigError` for synthesizers that can't go with other settings."""
        for choice in choices:
            if self.synthesizer_hidden and not choice.spec.has_hidden:
                allowed = f"the {choice.name} synthesizer has no hidden layers; allowed: none"
                raise ConfigError("synthesizer_hidden", self.synthesizer_hidden, allowed)
        if len(choices) == 1:
            return
        if len(choices) != self.workers - 1:
            allowed = (
                f"{self.workers} workers have {self.workers - 1} boundaries; allowed: one for all, or one for each"
            )
            raise ConfigError("synthesizer", self.synthesizer, allowed)
        if self.split is None:
            allowed = "where each boundary has its own, allowed: with --split, which says where they are"
            raise ConfigError("synthesizer", self.synthesizer, allowed)

    @property
    def waits(self) -> bool:
        """Whether each update waits for the gradient that comes back from the loss."""
        return METHODS[self.method].waits

    @property
    def effective_lag(self) -> int | None:
        """The lag as set; else the method's, if it has one, and that of a serial run 1 where none is set."""
        return METHODS[self.method].lag or (1 if self.serial and self.lag is None else self.lag)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Hidden widths of the synthesizers, with the method's default filled in."""
        if self.synthesizer_hidden is not None:
            return self.synthesizer_hidden
        named = [] if self.synthesizer is None else synthesizer_choices(self.synthesizer)
        return METHODS[self.method].synthesizer_hidden if all(choice.spec.has_hidden for choice in named) else ()
