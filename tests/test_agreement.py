"""What hosts agree on before a run, and what becomes of a run that torchrun has started again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from async_dni import ConfigError, Trainer
from async_dni.fit.agreement import FOLDER, _checksum_of, _compare, _devices_here, _remove_left_folders
from async_dni.fit.job import Job
from async_dni.fit.restart import gone_on_with
from async_dni.network.speed import forward_passes_a_second
from async_dni.record.run_dir import RunDir
from async_dni.runtime.hosts.group import Hosts
from async_dni.runtime.hosts.mirror import Mirror, append
from async_dni.runtime.hosts.place import Place
from async_dni.runtime.hosts.torchrun import HostEnvironment

FACTS = {"async_dni": "0.1.0", "torch": "2.13.0", "lag": "None"}


@pytest.mark.parametrize(
    ("differs", "sentence"),
    [
        ({"torch": "2.12.1"}, "torch: got 2.12.1; that is on host 2 (10.0.0.3); allowed, as on host 0: 2.13.0"),
        ({"lag": "3"}, "lag: got 3; that is on host 2 (10.0.0.3); allowed, as on host 0: None"),
    ],
)
def test_what_differs_is_named_with_the_host(differs: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        _compare([FACTS, FACTS, {**FACTS, **differs}], ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    assert str(refusal.value) == sentence
    _compare([FACTS, FACTS], ["", ""])


def test_checksums_are_of_all_bytes() -> None:
    a, b = torch.arange(6.0), torch.arange(6.0)
    assert _checksum_of([a, b]) == _checksum_of([b, a])
    b[5] = 5.5
    assert _checksum_of([a]) != _checksum_of([b])
    assert _checksum_of([a, b]) != _checksum_of([b, a])
    assert _checksum_of([a.bfloat16(), torch.empty(0)]) == _checksum_of([a.bfloat16()])


def test_each_host_has_its_part_of_a_list_of_devices() -> None:
    place = Place((1, 2), rank=1)
    assert _devices_here("cpu", place, 3) == ["cpu", "cpu"]
    assert _devices_here("cuda:7,cpu,cpu", place, 3) == ["cpu", "cpu"]  # the first is the other host's
    with pytest.raises(ConfigError, match="2 devices for 3 workers"):
        _devices_here("cpu,cpu", place, 3)
    with pytest.raises(ConfigError, match="'tpu' is not here"):
        _devices_here("cpu,cpu,tpu", place, 3)


def test_measuring_a_network_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    before, threads, drawn = (
        model.state_dict()["1.running_mean"].clone(),
        torch.get_num_threads(),
        torch.get_rng_state(),
    )
    speed = forward_passes_a_second(model, torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), 2)
    assert speed > 0
    assert torch.equal(model.state_dict()["1.running_mean"], before)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), drawn)


def test_folders_of_hosts_that_were_killed_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f"{FOLDER}{pid}-x" / "run").mkdir(parents=True)
    _remove_left_folders()
    assert [path.name for path in tmp_path.iterdir()] == [f"{FOLDER}{os.getpid()}-x"]


def test_hosts_of_one_machine_share_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    places = [Place((3, 1, 2, 2), rank, local_rank, 2) for rank, local_rank in enumerate([0, 1, 0, 1])]
    found = [_devices_here("cuda", place, 8) for place in places]
    assert found == [["cuda:0", "cuda:1", "cuda:2"], ["cuda:3"], ["cuda:0", "cuda:1"], ["cuda:2", "cuda:3"]]


# Started again.


def job(**settings: object) -> Job:
    return Trainer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), workers=2, **settings).job  # type: ignore[arg-type]


def hosts(restarts: int) -> Hosts:
    return Hosts(HostEnvironment(0, 1, "here", 1, restarts=restarts))


def test_without_torchrun_nothing_changes(tmp_path: Path) -> None:
    assert gone_on_with(job(), tmp_path, Hosts())[0].config == job().config


def test_a_run_without_a_name_has_the_same_when_it_is_started_again(tmp_path: Path) -> None:
    first, again = (gone_on_with(job(), tmp_path, hosts(restarts))[0].config.run_dir for restarts in (0, 1))
    assert first == again
    assert first is not None
    assert first.parent == tmp_path
    assert first.name.endswith(f"-{os.getppid()}")
    (first / "workers").mkdir(parents=True)  # it died before it wrote its settings
    assert gone_on_with(job(), tmp_path, hosts(1))[0].config.run_dir == first
    assert not first.exists()


def begin(run_dir: Path) -> None:
    """As a start does that comes to no checkpoint."""
    (run_dir / "checkpoints").mkdir(parents=True)
    RunDir(run_dir).write_config({})


@pytest.mark.parametrize("job_id", ["none", "job-7"])
def test_another_runs_directory_is_left_alone(job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that an earlier torchrun has begun in, or nobody's: the first start refused it, and torchrun started again."""
    run_dir = tmp_path / "run"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-6")
    begin(run_dir)
    (run_dir / "checkpoints" / "step-000000007.pt").touch()
    text = (run_dir / "config.json").read_text()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", job_id)
    for left in (text.replace(f"-{os.getppid()}", "-0"), "no JSON", "{}"):
        (run_dir / "config.json").write_text(left)
        config = gone_on_with(job(run_dir=run_dir), None, hosts(1))[0].config
        assert (config.run_dir, config.resume) == (run_dir, None)
        assert list(tmp_path.iterdir()) == [run_dir]
    (run_dir / "config.json").write_text(text)  # of the same agent
    assert gone_on_with(job(run_dir=run_dir), None, hosts(1))[0].config.resume == run_dir


def test_started_again_a_run_goes_on_from_its_checkpoint_or_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    run_dir = tmp_path / "run"
    (tmp_path / "run-before-restart-1").touch()  # of another time
    begin(run_dir)
    begun = gone_on_with(job(run_dir=run_dir), None, hosts(1))[0].config
    assert (begun.run_dir, begun.resume) == (run_dir, None)
    assert (tmp_path / "run-before-restart-2" / "checkpoints").is_dir()
    begin(run_dir)
    (run_dir / "checkpoints" / "step-000000007.pt").touch()
    gone_on = gone_on_with(job(run_dir=run_dir), None, hosts(2))[0].config
    assert (gone_on.run_dir, gone_on.resume) == (None, run_dir)
    assert gone_on_with(job(run_dir=run_dir), None, hosts(0))[0].config.resume is None


# Files of other hosts.


def test_files_are_sent_as_they_grow_and_put_where_they_belong(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "workers").mkdir(parents=True)
    (there / "workers" / "3.log").write_text("before\n")
    mirror = Mirror(here, lambda name, content: append(there, name, content))
    log = here / "workers" / "3.log"
    log.write_text("one\n")
    mirror._look()
    with log.open("a") as file:
        file.write("two\n")
    (here / "workers" / ".half").write_text("no")
    mirror.finish()
    assert (there / "workers" / "3.log").read_text() == "before\none\ntwo\n"
    assert sorted(path.name for path in (there / "workers").iterdir()) == ["3.log"]


@pytest.mark.parametrize("name", ["../escaped", "/etc/motd", "a/b", ""])
def test_no_file_is_written_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    with pytest.raises((ValueError, OSError)):
        append(tmp_path, name, b"x")
