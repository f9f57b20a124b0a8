"""The commands that look at runs: logs, runs, compare."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from async_dni.look.main import main as look
from async_dni.record.logs.line import Line, formatted, read
from async_dni.record.logs.merged import LogFile

OUTPUT = pytest.CaptureFixture[str]


def test_a_line_is_read_as_it_was_written(tmp_path: Path) -> None:
    line = read(formatted(3, 240, "60,874 samples/s  worker 7"))
    assert line is not None
    assert (line.worker, line.step, line.level, line.text) == (3, 240, "INFO", "60,874 samples/s  worker 7")
    assert read("Traceback (most recent call last):") is None


def test_what_layers_print_belongs_to_the_line_before(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    file = LogFile(path, 0)
    assert file.more() == file.rest() == []
    path.write_text(formatted(0, 1, "one") + "\nprinted\n" + formatted(0, 2, "two") + "\nhalf a l")
    assert [line.text for line in file.more()] == ["one\nprinted"]
    with path.open("a") as more:
        more.write("ine\n" + formatted(0, 3, "three") + "\n")
    assert [(line.step, line.text) for line in file.more()] == [(2, "two\nhalf a line")]
    assert [line.text for line in file.rest()] == ["three"]
    path.write_text("2020 an older form\n" + formatted(0, 1, "one") + "\n")
    assert [line.text for line in LogFile(path, 0).more()] == ["2020 an older form"]


def steps_of(output: str) -> list[tuple[str, str, int]]:
    """Time, who, step of each line that begins something."""
    return [
        (when, who.strip(), int(step))
        for when, who, step in re.findall(r"^([\d:.]{12}) (worker \d|run     ) +(\d+) ", output, re.M)
    ]


def test_logs_are_merged_by_time(finished_run: Path, capsys: OUTPUT) -> None:
    assert look(["logs", str(finished_run)]) == 0
    found = steps_of(capsys.readouterr().out)
    assert [when for when, _, _ in found] == sorted(when for when, _, _ in found)
    assert {who for _, who, _ in found} == {"run", "worker 0", "worker 1", "worker 2"}
    assert look(["logs", str(finished_run), "--worker", "1", "--since", "30"]) == 0
    found = steps_of(capsys.readouterr().out)
    assert found
    assert {who for _, who, _ in found} == {"worker 1"}
    assert min(step for _, _, step in found) >= 30
    assert look(["logs", str(finished_run), "--level", "warning"]) == 0
    assert not steps_of(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--worker", "3"], "--worker: got 3; workers of this run: 0, 1, 2"),
        (["--level", "loud"], "--level: got loud; allowed: DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        (["--worker", "x"], "argument --worker: invalid int value: 'x'"),
    ],
)
def test_lines_that_cannot_be_had_are_refused(
    finished_run: Path, capsys: OUTPUT, options: list[str], message: str
) -> None:
    try:
        status = look(["logs", str(finished_run), *options])
    except SystemExit as ended:
        status = int(ended.code or 0)
    assert status == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def runs(finished_run: Path, tmp_path: Path) -> Path:
    """Two runs, one with less error, a damaged one and a directory that is none."""
    for name, method, error in (("a", "cdni", 9.5), ("b", "delayed", 2.5), ("c", "cdni", 5.0)):
        run = shutil.copytree(finished_run, tmp_path / "runs" / name, ignore=shutil.ignore_patterns("*.pt"))
        for file, what in (("config.json", {"method": method}), ("summary.json", {"test_error": error})):
            (run / file).write_text(json.dumps({**json.loads((run / file).read_text()), **what}))
    (tmp_path / "runs" / "c" / "config.json").write_text('{"meth')
    (tmp_path / "runs" / "none").mkdir()
    return tmp_path / "runs"


def names(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines()[1:] if not line.startswith("!")]


def test_runs_are_found_sorted_and_filtered(runs: Path, capsys: OUTPUT) -> None:
    assert look(["runs", str(runs), "--sort", "error"]) == 0
    output = capsys.readouterr().out
    assert names(output) == ["b", "c", "a"]
    assert re.search(r"^c !", output, re.M), "damage is marked"
    assert look(["runs", str(runs), "--sort", "error", "--reverse", "--filter", "method=cdni"]) == 0
    assert names(capsys.readouterr().out) == ["a"], "of a damaged one the method is not known"
    assert look(["runs", str(runs), "--json", "--sort", "run"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["run"], row["error"], bool(row["notes"])) for row in rows] == [
        ("a", 9.5, False),
        ("b", 2.5, False),
        ("c", 5.0, True),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sort", "colour"], "--sort: got colour; allowed: run, method,"),
        (["--filter", "colour=3"], "--filter: got colour=3; allowed: COLUMN=VALUE"),
        (["--filter", "method"], "--filter: got method; allowed: COLUMN=VALUE"),
    ],
)
def test_runs_by_what_they_have_not_are_refused(runs: Path, capsys: OUTPUT, options: list[str], message: str) -> None:
    assert look(["runs", str(runs), *options]) == 2
    assert message in capsys.readouterr().err
    assert look(["runs", str(runs / "nowhere")]) == 2


def test_runs_are_compared(runs: Path, capsys: OUTPUT, tmp_path: Path) -> None:
    assert look(["compare", str(runs / "a"), str(runs / "b"), "--csv", str(tmp_path / "table.csv")]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^method +cdni +delayed", output, re.M)
    assert "batch_size" not in output, "it is the same"
    assert re.search(r"^test error +9.5 +2.5", output, re.M)
    assert "test error after as many batches" in output
    rows = list(csv.reader((tmp_path / "table.csv").read_text().splitlines()))
    assert rows[0] == ["figure", "by", "at", "a", "b"]
    assert {row[1] for row in rows[1:]} == {"step", "wall_seconds"}
    assert look(["compare", str(runs / "a"), str(runs / "b"), "--csv", str(tmp_path / "no" / "table.csv")]) == 2
    assert "--csv: got" in capsys.readouterr().err


def test_lines_say_when(capsys: OUTPUT) -> None:
    assert read("2026-11-26 25:99:57,123 INFO    worker 1  step 2  no such time") is None
    assert isinstance(read("2026-11-26 13:02:57,123 INFO    worker 1  step 240  x"), Line)
