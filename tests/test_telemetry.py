import io
import json
import os
import threading

import pytest

from async_dni.record import telemetry
from async_dni.record.telemetry import PHASES, Interval, Recorder, Telemetry
from async_dni.runtime.fork_server import worker_context

PATIENCE = 60  # seconds until a test that would hang fails instead


class Clock:
    """A clock that stands until told otherwise."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(telemetry, "monotonic", clock)
    monkeypatch.setattr(telemetry, "wall_time", lambda: 0.0)
    monkeypatch.setattr(telemetry, "Interval", lambda: Interval(began=clock.now))
    return clock


def spend(counters, clock, **seconds):
    for phase, duration in seconds.items():
        counters.enter(phase)
        clock.now += duration


def record_until_parent_dies(parent):
    Recorder(Telemetry(), dict, parent.fileno(), None, lambda record: None).start()
    threading.Event().wait(PATIENCE)


def test_time_goes_to_the_phase_that_was_entered(clock):
    counters = Telemetry()
    counters.begin()
    spend(counters, clock, forward=1, update=2, wait_gradient=5)
    spend(counters, clock, forward=3)
    seconds = counters.totals()["seconds"]
    assert seconds == {**dict.fromkeys(PHASES, 0), "forward": 4, "update": 2, "wait_gradient": 5}


def test_busy_and_wait_fractions_are_the_whole_time(clock):
    counters = Telemetry()
    counters.begin()
    spend(counters, clock, wait_activation=1, wait_gradient=1, wait_room=1, forward=2, update=2, learn=2, send=1)
    totals = counters.totals()
    assert totals["wait_fraction"] == pytest.approx(0.3)
    assert totals["busy_fraction"] == pytest.approx(0.7)


def test_what_was_before_the_first_batch_does_not_count(clock):
    counters = Telemetry()
    spend(counters, clock, forward=20, wait_activation=30)
    counters.begin()
    spend(counters, clock, forward=1)
    totals = counters.totals()
    assert totals["started"] == 150
    assert sum(totals["seconds"].values()) == 1


def test_nothing_done_is_no_division_by_zero(clock):
    counters = Telemetry()
    counters.begin()
    totals, record = counters.totals(), counters.record({})
    assert (totals["busy_fraction"], totals["wait_fraction"], totals["mean_lag"]) == (0, 0, None)
    assert (record["loss"], record["lag"], record["synthesizer_loss"]) == (None, None, None)
    assert record["samples_per_second"] == 0


def test_totals_are_of_the_whole_run_and_records_of_their_interval(clock):
    counters = Telemetry()
    counters.begin()
    for made, (loss, lag) in enumerate(((2.0, 1), (4.0, 3)), start=1):
        spend(counters, clock, forward=0.5)
        counters.step(10, loss)
        counters.updated(made)
        counters.learnt(lag, loss * 10)
    first = counters.record({"activation_in": 2})
    spend(counters, clock, update=4)
    counters.step(20, 1.0)
    counters.updated(3)
    counters.learnt(8, 5.0)
    second = counters.record({})
    totals = counters.totals()

    assert (first["step"], first["loss"], first["synthesizer_loss"]) == (2, 3.0, 30.0)
    assert first["lag"] == {"min": 1, "mean": 2, "max": 3}
    assert first["samples_per_second"] == 20
    assert first["queues"] == {"activation_in": 2}
    assert first["seconds"] == {**dict.fromkeys(PHASES, 0), "forward": 1}
    assert (second["step"], second["loss"], second["synthesizer_loss"]) == (3, 1.0, 5.0)
    assert second["lag"] == {"min": 8, "mean": 8, "max": 8}
    assert second["samples_per_second"] == 5
    assert second["seconds"] == {**dict.fromkeys(PHASES, 0), "update": 4}
    assert (totals["steps"], totals["samples"], totals["updates"], totals["synthesizer_updates"]) == (3, 40, 3, 3)
    assert totals["mean_lag"] == 4
    assert totals["seconds"] == {**dict.fromkeys(PHASES, 0), "forward": 1, "update": 4}
    assert totals["ended"] == 105


def test_the_losses_of_stages_that_have_none_are_null(clock):
    counters = Telemetry()
    counters.begin()
    counters.step(10, None)
    counters.learnt(1, None)
    record = counters.record({})
    assert (record["loss"], record["synthesizer_loss"]) == (None, None)
    assert record["lag"]["max"] == 1
    assert counters.totals()["synthesizer_updates"] == 0


def test_training_ends_with_the_last_update(clock):
    counters = Telemetry()
    counters.begin()
    spend(counters, clock, update=1)
    counters.updated(1)
    spend(counters, clock, wait_gradient=7)
    assert counters.totals()["ended"] == 101


def test_a_record_in_the_middle_of_a_phase_splits_its_time(clock):
    counters = Telemetry()
    counters.begin()
    spend(counters, clock, forward=2)
    assert counters.record({})["seconds"]["forward"] == 2
    clock.now += 3
    assert counters.record({})["seconds"]["forward"] == 3
    assert counters.totals()["seconds"]["forward"] == 5


def test_a_record_is_json_and_says_who_wrote_it():
    record = Telemetry().record({"gradient_in": 0})
    assert json.loads(json.dumps(record)) == record
    assert record["pid"] == os.getpid()
    assert record["rss_bytes"] > 0


def test_records_are_written_and_sent_until_stopped_and_the_last_has_everything(monkeypatch):
    monkeypatch.setattr(telemetry, "INTERVAL", 0.001)
    counters, file, sent, enough = Telemetry(), io.StringIO(), [], threading.Event()

    def send(record):
        sent.append(record)
        if len(sent) == 3:
            enough.set()

    recorder = Recorder(counters, lambda: {"activation_in": 1}, None, file, send)
    recorder.start()
    assert enough.wait(PATIENCE)
    counters.step(5, None)
    recorder.stop()
    assert [json.loads(line) for line in file.getvalue().splitlines()] == sent
    assert sent[-1]["step"] == 1
    assert sent[-1]["queues"] == {"activation_in": 1}


def test_a_run_that_ends_at_once_has_a_record():
    sent = []
    recorder = Recorder(Telemetry(), dict, None, None, sent.append)
    recorder.start()
    recorder.stop()
    assert len(sent) >= 1


def test_a_process_ends_when_its_parent_is_gone():
    context = worker_context()
    parent, alive = context.Pipe(duplex=False)
    process = context.Process(target=record_until_parent_dies, args=(parent,), daemon=True)
    process.start()
    try:
        alive.close()
        parent.close()
        process.join(PATIENCE)
        assert process.exitcode == 1
    finally:
        process.kill()
        process.join()
