"""The first host of a run, as it sees the others: it records what their workers report, and says when to begin and to end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ...record.run_dir import RunDir
from ...record.schedule import CutKind
from ..cuts.whole import WholeCuts
from ..events import Cut, from_bytes
from ..listener import Listener, WorkerError
from . import mirror
from .group import Group
from .host_error import HostError
from .outside import Kept, Outside
from .wire.conversation import Message


class FailedElsewhereError(WorkerError):
    """A worker of another host failed; that host has said so."""


class FirstHost(Outside):
    """`tell(sentence)`: something that a person should know; `end_early()` asks for an early end."""

    def __init__(
        self,
        group: Group,
        listener: Listener,
        cuts: WholeCuts,
        run_dir: RunDir | None,
        tell: Callable[[str], None],
        end_early: Callable[[], None],
    ) -> None:
        self.group, self.listener, self.cuts, self.run_dir = group, listener, cuts, run_dir
        self.tell, self.end_early = tell, end_early
        self.watched = (group.inbox,)
        self.totals: dict[int, list[dict[str, Any]]] = {}  # by host
        self.deaths: dict[int, list[list[str]]] = {}
        self._others = set(range(1, group.size))
        self._ready: set[int] = set()
        self._is_here_ready = False
        self._kept: dict[int, Kept] = {}

    def look(self) -> None:
        came = deque(self.group.take())
        try:
            while came:
                self._handle(*came.popleft())
        finally:
            self.group.put_back(came)

    def _handle(self, host: int, message: Message) -> None:
        values = message.values
        match message.kind:
            case "record":
                self.listener.on_record(values["stage"], values["record"])
            case "file":
                self._keep_file(values["name"], message.body)
            case "cut":
                kind = CutKind(values["holds"])
                self.cuts.add(values["stage"], Cut(values["step"], kind, values["is_final"], message.body))
            case "worker ready":
                self.listener.on_ready(values["stage"], values["pid"])
            case "restart":
                self.listener.on_restart(values["stage"], f"{values['told']} (on {self._name(host)})")
            case "ready":
                self._ready.add(host)
                self._begin()
            case "stop":
                self.tell(f"an early end was asked for on {self._name(host)}")
                self.end_early()
            case "finished":
                self.totals[host], self.deaths[host] = values["totals"], values["deaths"]
            case "snapshots":
                self._kept[host] = read_snapshots(message)
            case "failed":
                text = f"{values['message']} (on {self._name(host)})"
                raise FailedElsewhereError(values["stage"], text, values["details"])

    def _name(self, host: int) -> str:
        return f"host {host}, {self.group.addresses[host]}"

    def _keep_file(self, name: str, content: bytes) -> None:
        if self.run_dir is not None:
            try:
                mirror.append(self.run_dir.path, name, content)
            except OSError as error:
                self.tell(f"{name} can't be written ({error.strerror})")

    @property
    def may_begin(self) -> bool:  # type: ignore[override]
        """Whether all workers are ready."""
        return self._is_here_ready and self._ready >= self._others

    def on_ready(self) -> None:
        self._is_here_ready = True
        self._begin()

    def _begin(self) -> None:
        if self.may_begin:
            self.group.send_all("begin")

    def on_finished(self, totals: list[dict[str, Any]], deaths: list[list[str]]) -> None:
        self.totals[0], self.deaths[0] = totals, deaths

    @property
    def has_ended(self) -> bool:  # type: ignore[override]
        """Whether all workers of all hosts have told what they came to."""
        return self.totals.keys() >= self._others

    def on_failure(self, error: Exception, kept: Kept) -> Kept:
        """Tell the others, and wait a while for the snapshots of their stages."""
        stage, details = (error.stage, error.details) if isinstance(error, WorkerError) else (0, "")
        self.group.send_all("failed", stage=stage, message=str(error), details=details)
        heard_at, passed, awaited = time.monotonic(), -1, set(self._others)
        while True:
            if passed != self.group.passed:
                heard_at, passed = time.monotonic(), self.group.passed
            try:
                self.look()
            except FailedElsewhereError:
                continue  # the same, or another at the same time
            except HostError as lost:
                awaited.discard(lost.host)
                continue  # what it said before comes now
            if self._kept.keys() >= awaited or time.monotonic() > heard_at + self.group.link_timeout:
                break
            self.group.inbox.wait(0.5)
        for host in sorted(awaited - self._kept.keys()):
            self.tell(f"the last snapshots of {self._name(host)} did not come")
        return {**kept, **{stage: each for stages in self._kept.values() for stage, each in stages.items()}}


def read_snapshots(message: Message) -> Kept:
    """Of what `OtherHost` sends: steps and states, by stage."""
    kept: Kept = {}
    start = 0
    for stage, step, size in message.values["stages"]:
        kept[stage] = step, from_bytes(message.body[start : start + size])
        start += size
    return kept
