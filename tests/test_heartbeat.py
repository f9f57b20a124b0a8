"""Heartbeats: what a worker says of itself, as others see it, and after its death."""

from __future__ import annotations

import os
import signal

import pytest
from test_snapshots import in_another_process

from async_dni.record.heartbeat import PHASES, Heartbeat
from async_dni.record.telemetry import Telemetry
from async_dni.runtime.transport.shared_memory import SharedMemory

COUNTERS = ("steps", "samples", "updates", "synthesizer_updates", "dropped", "skipped", "lost")


@pytest.fixture(params=[False, True], ids=["own", "shared"])
def heartbeat(request: pytest.FixtureRequest) -> Heartbeat:
    return Heartbeat(SharedMemory() if request.param else None, step=3)


def test_at_first(heartbeat: Heartbeat) -> None:
    assert (heartbeat.beats, heartbeat.step, heartbeat.started_ns) == (0, 3, 0)
    assert heartbeat.phase in PHASES
    assert not any(getattr(heartbeat, name) for name in COUNTERS)


def test_every_phase_is_a_beat_also_when_it_is_the_same(heartbeat: Heartbeat) -> None:
    for beats, phase in enumerate([*PHASES, PHASES[-1]], start=1):
        heartbeat.enter(phase)
        assert (heartbeat.beats, heartbeat.phase) == (beats, phase)


def test_unknown_phase_is_refused(heartbeat: Heartbeat) -> None:
    with pytest.raises(KeyError):
        heartbeat.enter("idle")


def test_words_do_not_share_a_place(heartbeat: Heartbeat) -> None:
    names = ("beats", "step", "end", "started_ns", *COUNTERS)
    for value, name in enumerate(names, start=10**12):
        setattr(heartbeat, name, value)
    assert [getattr(heartbeat, name) for name in names] == list(range(10**12, 10**12 + len(names)))
    heartbeat.enter("learn")
    assert heartbeat.beats == 10**12 + 1
    assert heartbeat.lost == 10**12 + len(names) - 1


def beat_and_die(heartbeat: Heartbeat) -> None:
    telemetry = Telemetry(heartbeat=heartbeat)
    telemetry.begin()
    for made in (1, 2, 3):
        telemetry.enter("forward")
        telemetry.updated(made)
        telemetry.step(5, None)
    heartbeat.step = 7
    telemetry.skipped()
    telemetry.lost()
    telemetry.enter("send")
    os.kill(os.getpid(), signal.SIGKILL)


def test_counts_outlive_the_worker_and_are_gone_on_from() -> None:
    heartbeat, started = Heartbeat(SharedMemory()), []
    for lives in (1, 2):
        assert in_another_process(beat_and_die, heartbeat) == -signal.SIGKILL
        assert (heartbeat.step, heartbeat.phase, heartbeat.beats) == (7, "send", 4 * lives)
        counts = {
            "steps": 3,
            "samples": 15,
            "updates": 3,
            "skipped": 1,
            "lost": 1,
            "synthesizer_updates": 0,
            "dropped": 0,
        }
        assert {name: getattr(heartbeat, name) for name in COUNTERS} == {k: lives * v for k, v in counts.items()}
        started.append(heartbeat.started_ns)
    assert started[0] == started[1] > 0, "training began with the first worker"
    totals = Telemetry(heartbeat=heartbeat).totals()
    assert (totals["steps"], totals["samples"], totals["lost"]) == (6, 30, 2)
