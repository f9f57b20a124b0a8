"""A host that is not the first, as it sees that one: it tells it what its workers report, and does what it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..cuts.whole import Gathered
from ..events import Cut, to_bytes
from ..listener import Listener, WorkerError
from .first_host import FailedElsewhereError
from .group import Group
from .mirror import Mirror
from .outside import Kept, Outside
from .wire.conversation import Message


class SentCuts(Gathered):
    """Sends the stages' parts of cuts to the first host, where they are put together."""

    def __init__(self, group: Group, stages: int) -> None:
        self.stages, self.newest, self._group = stages, 0, group

    def add(self, stage: int, cut: Cut) -> None:
        self._group.send(0, "cut", cut.state, stage=stage, step=cut.step, holds=cut.kind.value, is_final=cut.is_final)


class OtherHost(Outside):
    """`run_dir`: where this host's workers write, while they do."""

    def __init__(self, group: Group, run_dir: Path) -> None:
        self.group, self.watched = group, (group.inbox,)
        self.done: Message | None = None  # what the run came to
        self.may_begin = self.has_ended = False
        self._mirror = Mirror(run_dir, lambda name, content: group.send(0, "file", content, name=name))

    def listener(self, warn: Any) -> Listener:
        """Who tells the first host what workers report; `warn(sentence)` says here that one was started again."""
        send = self.group.send

        def on_restart(stage: int, text: str) -> None:
            warn(text)
            send(0, "restart", stage=stage, told=text)

        return Listener(
            on_start=self._mirror.start,
            on_record=lambda stage, record: send(0, "record", stage=stage, record=record),
            on_ready=lambda stage, pid: send(0, "worker ready", stage=stage, pid=pid),
            on_restart=on_restart,
            on_failure=lambda kept: None,
        )

    def look(self) -> None:
        for _, message in self.group.take():
            match message.kind:
                case "begin":
                    self.may_begin = True
                case "done":
                    self.group.end_links()
                    self.done, self.has_ended = message, True
                case "failed":
                    values = message.values
                    raise FailedElsewhereError(values["stage"], values["message"], values["details"])

    def on_ready(self) -> None:
        self.group.send(0, "ready")

    def on_stop(self) -> None:
        self.group.send(0, "stop")

    def on_finished(self, totals: list[dict[str, Any]], deaths: list[list[str]]) -> None:
        self._mirror.finish()
        self.group.send(0, "finished", totals=totals, deaths=deaths)

    def on_failure(self, error: Exception, kept: Kept) -> Kept:
        self._mirror.finish()  # a traceback, say
        if isinstance(error, WorkerError) and not isinstance(error, FailedElsewhereError):
            self.group.send(0, "failed", stage=error.stage, message=str(error), details=error.details)
        states = {stage: to_bytes(state) for stage, (_, state) in kept.items()}
        stages = [[stage, kept[stage][0], len(state)] for stage, state in states.items()]
        self.group.send(0, "snapshots", b"".join(states.values()), stages=stages)
        return {}
