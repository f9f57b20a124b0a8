"""Runs of several hosts: processes as torchrun starts them, over this machine's own address; and over networks of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import on_host
import psutil
import pytest
import torch

from async_dni import Trainer
from async_dni.record.checkpoint import list_checkpoints
from benchmarks.emulated_network import EmulatedNetwork, unavailable

HERE = Path(__file__).resolve().parent
PROGRAM, PATIENCE = HERE / "on_host.py", 180
Where = Callable[[int], list[str]]


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


class Run:
    """Hosts that were started, each a process."""

    def __init__(self, command: Sequence[str], size: int, folder: Path, where: Where | None = None, **variables: str):
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size), **variables}
        paths = os.pathsep.join([str(HERE.parent), str(HERE)])
        common = {**os.environ, **told, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        self.outputs = [folder / f"host-{rank}.txt" for rank in range(size)]
        self.processes = []
        for rank in range(size):
            with self.outputs[rank].open("w") as file:
                whole = [*(where(rank) if where else []), *command]
                environment = {**common, "RANK": str(rank)}
                self.processes.append(
                    subprocess.Popen(whole, env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=HERE.parent)
                )

    def wait(self) -> list[tuple[int, str]]:
        """How each ended, and what it said."""
        try:
            return [(self._wait(process), self.said(rank)) for rank, process in enumerate(self.processes)]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        return process.wait(PATIENCE)

    def said(self, rank: int) -> str:
        return self.outputs[rank].read_text()

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Until something is so, which comes about before the run is over."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline, self.said(0)
            assert self.processes[0].poll() is None, self.said(0)
            time.sleep(0.05)


def start(folder: Path, size: int, where: Where | None = None, **asked: Any) -> Run:
    asked = {"workers": 3, "batch_size": on_host.ROWS, "out": str(folder), **asked}
    variables = asked.pop("variables", {})
    folder.mkdir(exist_ok=True)
    return Run([sys.executable, str(PROGRAM), json.dumps(asked)], size, folder, where, **variables)


def trained(folder: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / f"{rank}.pt")["model"]
    return state


def alone(steps: int = 12, **settings: Any) -> dict[str, torch.Tensor]:
    """What the same training comes to in one process."""
    network = on_host.network({"workers": 3}, 0, "")
    data = on_host.data(100)
    trainer = Trainer(network, workers=3, batch_size=on_host.ROWS, serial=True, **settings)
    model: dict[str, torch.Tensor] = trainer.fit(data, steps=steps).model.state_dict()
    return model


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


BITS = [(2, {"method": "backprop"}), (3, {"method": "cdni", "lag": 3}), (2, {"method": "delayed", "lag": 2})]


@pytest.mark.parametrize(("size", "settings"), BITS, ids=["backprop", "cdni", "delayed"])
def test_hosts_compute_what_one_process_does_to_the_bit(size: int, settings: dict[str, Any], tmp_path: Path) -> None:
    ended = start(tmp_path, size, hosts_split=[2, 1] if size == 2 else None, **settings).wait()
    assert [status for status, _ in ended] == [0] * size, ended
    expected = alone(**settings)
    for rank in range(size):
        assert_same(trained(tmp_path, rank), expected)
        assert ended[rank][1].endswith("trained 1 True\n")


def test_a_run_goes_on_with_other_hosts_as_if_it_had_not_been_ended(tmp_path: Path) -> None:
    settings = {"method": "cdni", "lag": 2}
    first = start(tmp_path, 2, run_dir=str(tmp_path / "run"), steps=7, **settings).wait()
    assert [status for status, _ in first] == [0, 0], first
    then = start(tmp_path, 3, resume=str(tmp_path / "run"), steps=15, **settings).wait()
    assert [status for status, _ in then] == [0, 0, 0], then
    assert "going on from step 7" in then[0][1]
    assert_same(trained(tmp_path), alone(steps=15, **settings))


def test_the_first_hosts_weights_are_everyones_and_its_directory_has_what_all_did(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    asked = {"method": "cdni", "lag": 1, "weights": [0, 1], "hosts_split": [1, 2], "run_dir": str(run_dir)}
    ended = start(tmp_path, 2, trace_steps="2:9", **asked).wait()
    assert [status for status, _ in ended] == [0, 0], ended
    assert_same(trained(tmp_path), alone(method="cdni"))
    summary = json.loads((run_dir / "summary.json").read_text())
    assert [worker["host"] for worker in summary["workers"]] == [0, 1, 1]
    assert json.loads((run_dir / "config.json").read_text())["used"]["hosts"] == ["127.0.0.1", "127.0.0.1"]
    for stage in range(3):
        assert "finished" in (run_dir / "workers" / f"{stage}.log").read_text()
        records = (run_dir / "workers" / f"{stage}.jsonl").read_text().splitlines()
        assert json.loads(records[-1])["step"] == 12
    assert (run_dir / "trace.json.gz").is_file()
    assert not list(run_dir.glob("**/.*"))


def test_a_worker_that_is_killed_on_another_host_is_replaced_there(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    asked = {"deadly": 1, "hosts_split": [1, 2], "snapshot_every": 2, "run_dir": str(run_dir), "steps": 30}
    ended = start(tmp_path, 2, **asked).wait()
    assert [status for status, _ in ended] == [0, 0], ended
    workers = json.loads((run_dir / "summary.json").read_text())["workers"]
    assert [worker["restarts"] for worker in workers] == [0, 1, 0]
    assert "stage 1 was killed by SIGKILL" in workers[1]["deaths"][0]
    assert [worker["steps"] for worker in workers] == [30, 30, 30]
    assert "(on host 1, 127.0.0.1)" in (run_dir / "events.jsonl").read_text()


def test_a_worker_that_raises_ends_the_run_on_all_with_one_sentence(tmp_path: Path) -> None:
    asked = {"deadly": 1, "whom": "raises", "run_dir": str(tmp_path / "run"), "steps": 40, "snapshot_every": 2}
    ended = start(tmp_path, 2, hosts_split=[1, 2], **asked).wait()
    for rank, (status, said) in enumerate(ended):
        assert status == 1
        assert "failed: stage 1 raised ArithmeticError: of its own (block 1) on batch" in said
        assert said.endswith(" (on host 1, 127.0.0.1)\n") == (rank == 0)
    assert list_checkpoints(tmp_path / "run" / "checkpoints"), ended  # of the stages' last snapshots, of both hosts
    assert "ArithmeticError: of its own" in (tmp_path / "run" / "workers" / "1.log").read_text()


@pytest.mark.parametrize(
    "size", [{}, {"wide": 512, "batch_size": 4096, "samples": 8192}], ids=["small", "large activations"]
)
def test_a_host_that_dies_is_named_with_what_is_left(size: dict[str, int], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    asked = {"deadly": 1, "whom": "host", "checkpoint_every": 2, "run_dir": str(run_dir), "method": "backprop"}
    ended = start(tmp_path, 3, steps=40, **asked, **size).wait()
    assert [status for status, _ in ended] == [1, -signal.SIGKILL, 1], ended
    gone = "failed: host 1 (127.0.0.1) has gone: its connection was closed"
    assert f"{gone}; --resume {run_dir} goes on from step-" in ended[0][1]
    assert gone in ended[2][1]
    for left in Path("/tmp").glob("async-dni-host-*"):  # of the host that was killed; the next removes it
        assert not psutil.pid_exists(int(left.name.split("-")[3]))


def test_a_host_with_other_settings_is_refused_on_all(tmp_path: Path) -> None:
    ended = start(tmp_path, 2, differs={"1": {"queue_capacity": 5}}).wait()
    sentence = "refused: queue_capacity: got 5; that is on host 1 (127.0.0.1); allowed, as on host 0: 4\n"
    assert ended == [(2, f"{sentence}"), (2, sentence)]


def test_a_signal_on_another_host_ends_the_run_early_on_all(tmp_path: Path) -> None:
    run = start(tmp_path, 2, slow=0.02, steps=100_000, run_dir=str(tmp_path / "run"))
    run.wait_until(lambda: "stage 2  blocks" in run.said(0))
    os.kill(run.processes[1].pid, signal.SIGTERM)
    (first, said), (second, _) = run.wait()
    assert (first, second) == (0, 128 + signal.SIGTERM)
    assert "an early end was asked for on host 1, 127.0.0.1" in said
    assert list_checkpoints(tmp_path / "run" / "checkpoints")


def test_torchrun_starts_the_group_again_and_it_goes_on_by_itself(tmp_path: Path) -> None:
    """One of two hosts is killed; torchrun starts both again, and what comes of it is what would have come without."""
    out = tmp_path / "out"
    out.mkdir()
    asked = {"workers": 3, "batch_size": on_host.ROWS, "out": str(out), "method": "cdni", "lag": 2, "steps": 40}
    asked |= {"deadly": 1, "whom": "host", "checkpoint_every": 1, "run_dir": str(tmp_path / "run"), "slow": 0.05}
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "2",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, str(PROGRAM), json.dumps(asked)], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torchrun has started this run again (1): going on with" in done.stdout
    assert_same(trained(out), alone(steps=40, method="cdni", lag=2))


# Over networks of its own.


@pytest.mark.skipif(unavailable() is not None, reason=f"no emulated network: {unavailable()}")
@pytest.mark.parametrize(("seconds", "rides_out"), [(2.0, True), (60.0, False)], ids=["short", "long"])
def test_a_link_that_is_cut(seconds: float, rides_out: bool, tmp_path: Path) -> None:
    with EmulatedNetwork(2, delay_ms=4, rate_mbit=1000) as network:
        variables = {"MASTER_ADDR": network.address(0), "MASTER_PORT": "29500"}
        asked = {"slow": 0.02, "steps": 300, "run_dir": str(tmp_path / "run"), "checkpoint_every": 20}
        asked |= {"link_timeout": 30.0 if rides_out else 3.0, "queue_capacity": 2}
        run = start(tmp_path, 2, lambda rank: network.command(rank, []), variables=variables, **asked)
        run.wait_until(lambda: bool(list_checkpoints(tmp_path / "run" / "checkpoints")))
        network.down(1)
        if rides_out:
            time.sleep(seconds)
            network.up(1)
        ended = run.wait()
    if rides_out:
        assert [status for status, _ in ended] == [0, 0], ended
        workers = json.loads((tmp_path / "run" / "summary.json").read_text())["workers"]
        assert [worker["steps"] for worker in workers] == [300] * 3
        assert [worker["lost"] for worker in workers] == [0] * 3
    else:
        assert [status for status, _ in ended] == [1, 1]
        said = f"failed: host 1 ({network.address(1)}) has said nothing for 3 seconds; --resume {tmp_path / 'run'} goes on from"
        assert said in ended[0][1]
        assert f"failed: host 0 ({network.address(0)}) has said nothing for 3 seconds" in ended[1][1]
