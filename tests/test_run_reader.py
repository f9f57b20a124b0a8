"""Run directories are read as far as they go: finished, growing, damaged."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from deadly import condemn

from async_dni import METHODS, Trainer, fcn
from async_dni.look.main import main as look
from async_dni.record.journal import Journal
from async_dni.record.problems import Problems
from async_dni.record.progress import Progress
from async_dni.record.reading.json_lines import JsonLines
from async_dni.record.reading.run_reader import RunReader
from async_dni.record.reading.schema import NAMES, fault, schema
from async_dni.record.run_dir import RunDir
from async_dni.view.state import RunState

PLACES = 10
COMMANDS = (["watch", "--once"], ["logs"], ["report", "--samples", "0"], ["compare"], ["trace"])
TEXTS = ["config.json", "metrics.jsonl", "summary.json", "events.jsonl"]
OF_WORKERS = ["workers/1.jsonl", "workers/1.log", "workers/1.spans.jsonl"]
READ = [*TEXTS, "workers/1.jsonl"]  # by the reader, which tells what is wrong with them
BINARY = ["trace.json.gz", "model.pt"]


def closed(form: dict[str, Any]) -> dict[str, Any]:
    """A schema that allows no more than it names, so that what it does not name is found."""
    return {**form, "additionalProperties": False}


def read_all(run: RunReader) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from (("evaluation", line) for line in run.evaluations)
    yield from (("gradient_check", line) for line in run.gradient_checks)
    yield from (("event", line) for line in run.events)
    yield from (("record", line) for records in run.records.values() for line in records)


def train(run_dir: Path, **settings: Any) -> RunReader:
    data = torch.randn(60, 1, 28, 28), torch.arange(60) % 10
    Trainer(fcn(3, 8), workers=3, batch_size=10, run_dir=run_dir, **settings).fit(data, epochs=1, eval_set=data)
    return RunReader(run_dir)


@pytest.mark.parametrize("method", list(METHODS)[:5])
@pytest.mark.parametrize("serial", [False, True], ids=["workers", "serial"])
def test_every_record_has_the_form_that_its_schema_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, serial: bool
) -> None:
    more = {} if METHODS[method].waits else {"gradient_check_every": 3}
    if not serial:
        condemn(monkeypatch, {1: ("forward", 3)})
    run = train(tmp_path / "run", method=method, serial=serial, trace_steps="1:4", snapshot_every=1, **more)
    assert (run.notes, run.state) == ([], "finished")
    found = list(read_all(run))
    forms = {"evaluation", "event", "record"} | ({"gradient_check"} if more else set())
    assert {name for name, _ in found} == forms
    for name, line in found:
        jsonschema.validate(line, closed(schema(name)))
    assert ("restart" in {line["kind"] for line in run.events}) != serial
    assert fault("config", run.config) is fault("summary", run.summary) is None


@pytest.mark.parametrize("name", NAMES)
def test_schemas_are_schemas_and_tell_what_is_missing(name: str) -> None:
    jsonschema.Draft7Validator.check_schema(schema(name))
    assert fault(name, {}) is not None


@pytest.mark.parametrize("name", [*TEXTS, *OF_WORKERS, *BINARY])
def test_a_file_that_is_cut_off_is_shown_as_far_as_it_goes(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    whole = RunReader(finished_run)
    content = (finished_run / name).read_bytes()
    rng = random.Random(name)
    for number, place in enumerate(sorted(rng.sample(range(len(content)), PLACES))):
        run = shutil.copytree(
            finished_run, tmp_path / str(number), ignore=shutil.ignore_patterns("checkpoints", "*.pt")
        )
        (run / name).write_bytes(content[:place])
        read = RunReader(run)
        if name in READ and not content[:place].endswith(b"\n"):
            assert any(Path(name).name in note for note in read.notes) or place == 0
        assert len(read.evaluations) <= len(whole.evaluations)
        assert len(read.records[1]) <= len(whole.records[1])
        RunState.of(read)
        if number % 5 == 0:
            for command, *options in COMMANDS:
                others = [str(finished_run)] if command == "compare" else []
                assert look([command, str(run), *others, *options]) in (0, 2)
            if name == "model.pt":
                assert look(["report", str(run), "--samples", "1"]) == 0
                assert "No pictures of confused samples" in (run / "report.html").read_text()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", [*TEXTS, *OF_WORKERS, *BINARY])
@pytest.mark.parametrize("damage", ["missing", "empty", "garbled", "another's"])
def test_a_file_that_is_damaged_stops_nobody(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    contents = {"empty": b"", "garbled": bytes(range(256)) * 3, "another's": b'{"step": "far", "kind": 3}\n[1]\n'}
    (run / name).unlink() if damage == "missing" else (run / name).write_bytes(contents[damage])
    read = RunReader(run)
    if name in READ and damage not in ("missing", "empty"):
        assert any(Path(name).name in note for note in read.notes)
    for command in ("watch", "logs"):
        assert look([command, str(run)]) == 0
    assert look(["runs", str(tmp_path)]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_newer_form_is_told(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("*.pt"))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "schema": 99, "of_the_future": 1}))
    assert RunReader(run).notes == ["it was written by a newer version (schema 99; known: 1)"]


@pytest.mark.parametrize("command", ["watch", "logs", "report", "trace"])
def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "empty", tmp_path / "file", tmp_path / "nowhere", Path("a" * 300)):
        assert look([command, str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"async_dni {command}: got ")
        assert "a run directory, which has a config.json" in error
        assert error.count("\n") == 1


def test_a_file_that_grows_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = JsonLines(path, lambda line: "event")
    assert lines.more() == []
    event = json.dumps({"time": 1.0, "kind": "begin"}) + "\n"
    with path.open("w") as file:
        file.write(event + event[:10])
        file.flush()
        assert [line["time"] for line in lines.more()] == [1.0]
        assert lines.notes(has_ended=False) == []
        assert lines.notes(has_ended=True) == ["events.jsonl: its last line is cut off, and left out"]
        file.write(event[10:] + "nonsense\n")
        file.flush()
        assert len(lines.more()) == 1
    (note,) = lines.notes(has_ended=True)
    assert note.startswith("events.jsonl: one line is left out; line 3: ")
    path.write_text(event)
    assert len(lines.more()) == 1, "another file in its place is read from its beginning"


def test_of_a_long_file_the_last_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps({"time": n, "kind": "begin"}) + "\n" for n in range(10_000)))
    lines = JsonLines(path, lambda line: "event", tail=True)
    found = [line["time"] for line in lines.more()]
    assert 10 < len(found) < 1_000
    assert found == list(range(10_000 - len(found), 10_000))
    assert lines.notes(has_ended=True) == []
    with path.open("a") as file:
        file.write('{"time": 1, "kind": "end"}\n')
    assert [line["kind"] for line in lines.more()] == ["end"]


def test_a_journal_is_written_by_several_threads(tmp_path: Path) -> None:
    journal = Journal(Progress(), RunDir(tmp_path), Problems(print), 0)

    def tell(first: int) -> None:
        for number in range(first, first + 200):
            journal.on_checkpoint(number)

    threads = [threading.Thread(target=tell, args=(1000 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = JsonLines(tmp_path / "events.jsonl", lambda line: "event").more()
    assert sorted(event["step"] for event in events) == [1000 * k + n for k in range(4) for n in range(200)]
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)


TRAINS = """
import torch, sys
from async_dni import Trainer, fcn
if __name__ == "__main__":
    data = torch.randn(64, 1, 28, 28), torch.arange(64) % 10
    Trainer(fcn(2, 8), workers=2, batch_size=8, run_dir=sys.argv[1]).fit(data, epochs=100_000)
"""


def test_a_run_of_another_process_is_running_until_it_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, run_dir = tmp_path / "trains.py", tmp_path / "run"
    script.write_text(TRAINS)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with subprocess.Popen([sys.executable, str(script), str(run_dir)], env=environment) as process:
        try:
            while not (run_dir / "workers" / "1.jsonl").exists() or not RunReader(run_dir).records[1]:
                assert process.poll() is None
                time.sleep(0.1)
            run = RunReader(run_dir)
            assert run.state == "running"
            before = run.step
            assert look(["watch", "--once", str(run_dir)]) == 0
            shown = capsys.readouterr().out
            while run.step <= before:
                time.sleep(0.1)
                run.refresh()
        finally:
            process.kill()
    assert "cdni" in shown or "step" in shown
    assert "/800,000" in shown
    run.refresh()
    assert run.state == "died"
    assert look(["watch", str(run_dir)]) == 0
    assert "died" in capsys.readouterr().out
    assert look(["logs", "--follow", str(run_dir)]) == 0, "it ends where the run has"
