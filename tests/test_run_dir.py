import json
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from async_dni import ConfigError
from async_dni.foundation.atomic_file import write_atomically
from async_dni.foundation.cores import usable_cores
from async_dni.learning.precision import rounds_to_bfloat16
from async_dni.record.run_dir import RunDir, append_json_line, environment, read_json_lines, write_json


@pytest.fixture
def umask():
    """Set the umask, and put it back."""
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_names_of_files(tmp_path):
    run_dir = RunDir(tmp_path)
    assert run_dir.config == tmp_path / "config.json"
    assert run_dir.metrics == tmp_path / "metrics.jsonl"
    assert run_dir.summary == tmp_path / "summary.json"
    assert run_dir.model == tmp_path / "model.pt"
    assert run_dir.log(2) == tmp_path / "workers" / "2.log"
    assert run_dir.records(2) == tmp_path / "workers" / "2.jsonl"


@pytest.mark.parametrize("path", ["new", "deep/below/new", "."])
def test_a_new_or_an_empty_directory_is_made_ready_for_workers(path, tmp_path):
    run_dir = RunDir(tmp_path / path)
    run_dir.create()
    run_dir.log(0).touch()
    run_dir.records(0).touch()


def at_once(number, do):
    """Call a function in so many threads that begin together; returns what it returned, or raised."""
    barrier = threading.Barrier(number)

    def begin(_):
        barrier.wait()
        try:
            return do()
        except ConfigError as error:
            return error

    with ThreadPoolExecutor(number) as executor:
        return list(executor.map(begin, range(number)))


def test_runs_that_begin_at_once_have_a_directory_each(tmp_path):
    # two of three that were started within a second ended with status 2, for all had looked at the same name
    number, run_dirs = 32, []

    def create():
        run_dir = RunDir.new(tmp_path / "runs")
        run_dir.path = tmp_path / "runs" / "20260101-000000"  # in the same second
        run_dir.check()
        run_dir.create()
        run_dirs.append(run_dir)

    assert at_once(number, create) == [None] * number
    names = {"20260101-000000", *(f"20260101-000000-{k}" for k in range(2, number + 1))}
    assert {run_dir.path.name for run_dir in run_dirs} == names
    assert {path.name for path in (tmp_path / "runs").iterdir()} == names


@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_that_is_given_to_many_runs_is_one_run_s(exists, tmp_path):
    path = tmp_path / "run"
    if exists:
        path.mkdir()
    ends = at_once(16, lambda: RunDir(path).create())
    refused = [end for end in ends if end is not None]
    assert len(refused) == 15
    assert {error.setting for error in refused} == {"run_dir"}


def test_a_new_directory_is_not_made_before_the_run_begins(tmp_path):
    RunDir.new(tmp_path / "runs").check()
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").touch()
    for refuses in (RunDir.new(tmp_path / "runs").check, RunDir.new(tmp_path / "runs").create):
        with pytest.raises(ConfigError, match="can't be"):
            refuses()


def test_a_relative_path_is_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RunDir(Path("runs/new")).create()
    assert (tmp_path / "runs" / "new" / "workers").is_dir()


def test_checking_changes_nothing(tmp_path):
    RunDir(tmp_path / "deep" / "new").check()
    assert not list(tmp_path.iterdir())


def a_directory_with_a_file(path):
    path.mkdir()
    (path / "model.pt").touch()
    return path


def a_file(path):
    path.touch()
    return path


def below_a_file(path):
    path.touch()
    return path / "new"


def a_broken_link(path):
    path.symlink_to(path / "nowhere")
    return path


@pytest.mark.parametrize("occupied", [a_directory_with_a_file, a_file, below_a_file, a_broken_link])
def test_a_path_that_is_taken_is_refused_and_left_alone(occupied, tmp_path):
    run_dir = RunDir(occupied(tmp_path / "taken"))
    before = sorted(tmp_path.rglob("*"))
    for refuses in (run_dir.check, run_dir.create):
        with pytest.raises(ConfigError) as caught:
            refuses()
        assert caught.value.setting == "run_dir"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_directory_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(ConfigError, match="can't be written"):
        RunDir(tmp_path / "new").check()


def test_a_run_that_is_gone_on_with_keeps_its_files(tmp_path):
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    run_dir.log(0).write_text("before")
    run_dir.create(resuming=True)
    assert run_dir.log(0).read_text() == "before"


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't be made"):
        RunDir(tmp_path / "file" / "new").create(resuming=True)


def test_config_holds_the_settings_and_what_they_ran_on(tmp_path):
    run_dir = RunDir(tmp_path)
    run_dir.write_config({"workers": 3, "run_dir": tmp_path, "split": (1, 2)})
    config = json.loads(run_dir.config.read_text())
    assert config["workers"] == 3
    assert config["run_dir"] == str(tmp_path)
    assert config["split"] == [1, 2]
    assert config["environment"]["torch"] == torch.__version__


def test_metrics_are_a_line_an_evaluation(tmp_path):
    run_dir = RunDir(tmp_path)
    evaluations = [{"step": 1, "test_error": 2.5}, {"step": 2, "note": "line\nbreak \u2028 ∂"}]
    for evaluation in evaluations:
        run_dir.append_metrics(evaluation)
    assert read_json_lines(run_dir.metrics) == evaluations
    assert run_dir.metrics.read_text().count("\n") == 2


def test_a_model_is_loaded_with_weights_only(tmp_path):
    state = torch.nn.Linear(2, 3).state_dict()
    RunDir(tmp_path).write_model(state)
    loaded = torch.load(RunDir(tmp_path).model, weights_only=True)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_json_file_is_replaced_whole(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"long": "x" * 1000})
    write_json(path, {"short": 1})
    assert json.loads(path.read_text()) == {"short": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half of the new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    seen = []

    def write(file):
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())

    write_atomically(path, write)
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_that_the_umask_gives(mask, tmp_path, umask):
    umask(mask)
    write_json(tmp_path / "summary.json", {})
    (tmp_path / "plain").touch()
    assert mode(tmp_path / "summary.json") == mode(tmp_path / "plain")
    assert umask(mask) == mask


def test_a_line_is_appended_to_what_is_there(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"first": 1}\n')
    append_json_line(path, {"second": 2})
    assert read_json_lines(path) == [{"first": 1}, {"second": 2}]


def test_the_environment_is_json_and_names_the_versions():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == torch.__version__
    assert found["cores"] == usable_cores()
    assert found["bfloat16_256x256"] == rounds_to_bfloat16(256, 256)


def test_outside_a_checkout_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["git_commit"] is None
