"""Do runs of several hosts survive what is promised: workers and hosts that are killed, links that are cut?

Hosts are network namespaces of this machine (`emulated_network.py`: needs root).

  workers   of one run on two hosts, a worker is killed again and again: each is replaced on its host while all others go on
  hosts     torchrun and all its processes on one of two hosts are killed (SIGKILL), and torchrun is started there again: the
            other's (--max-restarts, rendezvous c10d) starts its process again, too; the run goes on from its newest checkpoint
  links     of one run, a host's interface is down for 1 to 20 seconds, again and again: ridden out

The exit status is 1, and a sentence says so, where one was not survived, or something was left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from case import Case, Metric
from emulated_network import EmulatedNetwork, unavailable
from harness import parse_arguments, report

ROOT = Path(__file__).resolve().parents[1]
PATIENCE, GRACE = 120.0, 10.0
INJECTED, SURVIVED, LEFT = Metric("injected", "faults"), Metric("survived", "faults"), Metric("left behind", "things")


class Hosts:
    """A run on two hosts, each under torchrun."""

    def __init__(self, network: EmulatedNetwork, folder: Path, steps: int, torchrun: Sequence[str], **settings: Any):
        self.network, self.folder, self.torchrun = network, folder, torchrun
        self.run_dir = folder / "run"
        self.command = [
            "launch.py",
            "--workers",
            "4",
            "--layers",
            "4",
            "--width",
            "64",
            "--batch-size",
            "100",
            "--quiet",
        ]
        self.command += ["--steps", str(steps), "--run-dir", str(self.run_dir)]
        for name, value in settings.items():
            self.command += [f"--{name.replace('_', '-')}", str(value)]
        self.processes = [self.start(host) for host in range(network.hosts)]

    def start(self, host: int) -> subprocess.Popen[bytes]:
        """torchrun on a host."""
        known = {"host": host, "address": self.network.address(0), "is_host": int(host == 0)}
        where = [word.format(**known) for word in self.torchrun]
        local = ["--local-addr", self.network.address(host)] if "c10d" in " ".join(where) else []
        program = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *where,
            *local,
            "--nproc-per-node",
            "1",
            *self.command,
        ]
        # without the last, PyTorch 2.13's torchrun does not tell one that comes later where the store is (docs/machines.md)
        more = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        variables = {**os.environ, **more}
        with (self.folder / f"host-{host}.txt").open("a") as file:
            command = self.network.command(host, program)
            return subprocess.Popen(command, env=variables, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)

    def said(self, host: int) -> str:
        """What was printed there."""
        return (self.folder / f"host-{host}.txt").read_text()[-3000:]

    def wait_for_checkpoint(self, after: int) -> int:
        """The step of the newest, when there is one after a step."""
        deadline = time.monotonic() + PATIENCE
        while (step := newest(self.run_dir)) <= after:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no checkpoint after step {after}: {self.said(0)}")
            time.sleep(0.2)
        return step

    def pids(self, host: int) -> dict[int, int]:
        """The processes of a host's workers that are alive, by stage."""
        found = {}
        for line in (self.run_dir / "events.jsonl").read_text().splitlines():
            event = json.loads(line)
            if event["kind"] == "ready" and event["worker"] // 2 == host and psutil.pid_exists(event["pid"]):
                found[event["worker"]] = event["pid"]
        return found

    def kill(self, host: int) -> None:
        """torchrun and all below it, at once."""
        process = psutil.Process(self.processes[host].pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                one.kill()
        self.processes[host].wait()

    def end(self) -> list[int]:
        """How each ended; those that do not are killed."""
        deadline, statuses = time.monotonic() + PATIENCE, []
        for host, process in enumerate(self.processes):
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(1.0, deadline - time.monotonic()))
            statuses.append(-1 if process.poll() is None else process.returncode)
            if process.poll() is None:
                self.kill(host)
        return statuses


def newest(run_dir: Path) -> int:
    """The step of the newest checkpoint; -1 where there is none."""
    return max((int(path.stem.split("-")[1]) for path in (run_dir / "checkpoints").glob("step-*.pt")), default=-1)


def left_behind(address: str) -> list[str]:
    """Processes that torchrun has started, or that those have, and that are still there after a while."""
    deadline = time.monotonic() + GRACE
    while True:
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            with suppress(psutil.Error):
                if process.environ().get("MASTER_ADDR") == address and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"process {process.info['pid']} {' '.join(process.info['cmdline'] or ())[:80]}")
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


STATIC = ["--nnodes", "2", "--node-rank", "{host}", "--master-addr", "{address}", "--master-port", "29500"]
ELASTIC = [
    "--nnodes", "2", "--max-restarts", "1000", "--rdzv-backend", "c10d", "--rdzv-id", "faults",
    "--rdzv-endpoint", "{address}:29500", "--rdzv-conf", "is_host={is_host},join_timeout=120",
]  # fmt: skip


def kill_workers(times: int, rng: random.Random, network: EmulatedNetwork, folder: Path) -> tuple[int, str]:
    """One at a time, on either host; returns how many deaths the run counts, and what was wrong."""
    hosts = Hosts(network, folder, 10**6, STATIC, max_restarts=times + 5, snapshot_every=20, checkpoint_every=500)
    hosts.wait_for_checkpoint(0)
    for _ in range(times):
        alive = {**hosts.pids(0), **hosts.pids(1)}
        before = sum(1 for line in (hosts.run_dir / "events.jsonl").read_text().splitlines() if '"ready"' in line)
        os.kill(alive[rng.choice(sorted(alive))], signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while (
            sum(1 for line in (hosts.run_dir / "events.jsonl").read_text().splitlines() if '"ready"' in line) <= before
        ):
            if time.monotonic() > deadline or hosts.processes[0].poll() is not None:
                return 0, f"a worker was not replaced: {hosts.said(0)} {hosts.said(1)}"
            time.sleep(0.05)
        time.sleep(rng.random() * 0.5)
    os.kill(psutil.Process(hosts.processes[0].pid).children()[0].pid, signal.SIGTERM)
    hosts.end()
    summary = json.loads((hosts.run_dir / "summary.json").read_text())
    steps = {worker["steps"] + summary["start"] for worker in summary["workers"]}
    restarts = sum(worker["restarts"] for worker in summary["workers"])
    unequal = f"stages ended at batches {sorted(steps)}" if max(steps) - min(steps) > restarts else ""
    return restarts, unequal


def kill_hosts(times: int, rng: random.Random, network: EmulatedNetwork, folder: Path) -> tuple[int, str]:
    """Host 1, again and again; returns how often the run went on, and what was wrong."""
    hosts = Hosts(network, folder, 10**6, ELASTIC, checkpoint_every=100, link_timeout=5)
    step, survived = hosts.wait_for_checkpoint(0), 0
    for _ in range(times):
        time.sleep(rng.random() * 2)
        hosts.kill(1)
        time.sleep(0.5)
        hosts.processes[1] = hosts.start(1)
        try:
            step = hosts.wait_for_checkpoint(max(step, newest(hosts.run_dir)))
        except TimeoutError as error:
            for host in range(2):
                hosts.kill(host)
            return survived, f"{error} {hosts.said(1)}"
        survived += 1
    for host in range(2):
        hosts.kill(host)
    return survived, ""


def cut_links(times: int, rng: random.Random, network: EmulatedNetwork, folder: Path) -> tuple[int, str]:
    """Host 1's interface goes down; returns how often the run went on, and what was wrong."""
    hosts = Hosts(network, folder, 10**6, STATIC, checkpoint_every=100, link_timeout=60)
    step, survived = hosts.wait_for_checkpoint(0), 0
    for _ in range(times):
        network.down(1)
        time.sleep(1 + rng.random() * 19)
        network.up(1)
        try:
            step = hosts.wait_for_checkpoint(max(step, newest(hosts.run_dir)) + 100)
        except TimeoutError as error:
            return survived, str(error)
        survived += 1
    os.kill(psutil.Process(hosts.processes[0].pid).children()[0].pid, signal.SIGTERM)
    hosts.end()
    summary = json.loads((hosts.run_dir / "summary.json").read_text())
    lost = [worker["lost"] + worker["restarts"] for worker in summary["workers"]]
    return survived, f"gradients lost or workers restarted: {lost}" if any(lost) else ""


PARTS = {"workers": (kill_workers, 50), "hosts": (kill_hosts, 20), "links": (cut_links, 20)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Inject, count, report."""
    options = parse_arguments(__doc__ or "", arguments, add_options, rounds=1)
    if (reason := unavailable()) is not None:
        print(f"host_faults.py: error: {reason}", file=sys.stderr)
        return 2
    rng, found, wrong = random.Random(options.seed), [], []
    for part in options.only:
        inject, times = PARTS[part]
        times = 2 if options.quick else options.times or times
        with EmulatedNetwork(2, delay_ms=2, rate_mbit=1000) as network, tempfile.TemporaryDirectory() as folder:
            survived, problem = inject(times, rng, network, Path(folder))
            left = left_behind(network.address(0))
        wrong += [f"{part}: {problem}"] * bool(problem) + [f"{part}: left behind: {each}" for each in left]
        wrong += [f"{part}: {survived} of {times} survived"] * (survived < times)
        for metric, value in ((INJECTED, times), (SURVIVED, survived), (LEFT, len(left))):
            found.append(Case(part, metric, {"part": part}, {"cdni, two hosts": [float(value)]}, part))
    report("host_faults", options, found)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return int(bool(wrong))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(PARTS), metavar="PARTS", help=", ".join(PARTS)
    )
    parser.add_argument("--times", type=int, metavar="N", help="of each; default: 50, 20, 20")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")


if __name__ == "__main__":
    sys.exit(main())
