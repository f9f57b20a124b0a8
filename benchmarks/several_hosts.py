"""How fast do two hosts train one network, over links of a delay and a bandwidth, and how fast is what one would take instead?

Hosts are network namespaces of this machine, a core each (`emulated_network.py`: needs root, and two cores); 20x256, half of the
layers on each; the same batch, optimizer (fused Adam) and cut for all that are cut.

  cdni, one host        the same two workers on one host, with a core each: what a link costs is the ratio to it
  cdni                  over a link; with the capacity of queues that docs/machines.md gives for the delay
  cdni, capacity 4      with the default capacity
  DDP                   DistributedDataParallel over gloo, half of each batch on each host
  GPipe, 1F1B           torch.distributed.pipelining over gloo, by number of microbatches
  locked, one host      backpropagation on one host, with one core, which needs no link

--part delay: without a limit of bandwidth, for each of --delays. --part rivals: for each of --rates, at --delay. --part emulated:
64 stages over 8 hosts, which sleep 100 ms each way, beside 8 stages of one host, and 64 of one. --part race: the
time to a test error, ours over the link of the first of --rates, and locked on one host with one core; what a rival over the link
needs is a formula: locked's steps, at the rate that --rival-rate says (of --part rivals).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import rivals
from case import Case, Measured, Metric
from courses import Course, Point, last_error, times_to, why_missing
from emulated_network import EmulatedNetwork, unavailable
from harness import Contender, UnavailableError, compare, listed, parse_arguments, positive, report
from host_process import EVERY
from rivals import GPIPE, ONE_F_ONE_B, Plain
from training import Locked, Setting, Training
from workloads import WORKLOADS, whole_batches

from async_dni import Trainer

SCRIPT, HERE = "several_hosts.py", Path(__file__).resolve().parent
WORKLOAD, HOSTS = "20x256", 2
THROUGHPUT = Metric("throughput", "samples/s")
HOST = Metric("the first host's own process, links included", "ms of a core a batch")
METRICS = {THROUGHPUT: "samples_per_second", HOST: "ms_of_the_host"}
TIMEOUT = 300.0
OURS = "cdni"


def capacity_for(delay_ms: float, seconds_a_batch: float) -> int:
    """Batches that a queue has to hold so that nobody waits for a link: those of a round trip, and the default for the rest."""
    return 4 + math.ceil(delay_ms / 1e3 / seconds_a_batch)


class Bench:
    """Measurements of a workload over one network, or none."""

    def __init__(self, split: Sequence[int], seconds: float, network: EmulatedNetwork | None, first_steps: int) -> None:
        self.split, self.seconds, self.network, self.first_steps = list(split), seconds, network, first_steps
        self.workload = WORKLOADS[WORKLOAD]

    def contender(self, name: str, kind: str, hosts: int = HOSTS, microbatches: int = 0, **settings: Any) -> Contender:
        """Its warm-up finds how many steps take about the time that is asked for."""
        steps = [self.first_steps]

        def train() -> Measured:
            asked = {"contender": kind, "workload": WORKLOAD, "steps": steps[0], "split": self.split}
            asked |= {"settings": settings, "microbatches": microbatches}
            found = self.run(asked, hosts)
            return {metric: found[key] for metric, key in METRICS.items() if key in found}

        def warm_up() -> float:
            rate = train()[THROUGHPUT]
            steps[0] = max(self.first_steps, math.ceil(rate * self.seconds / self.workload.batch_size))
            return rate

        return Contender(name, train, warm_up, kind if microbatches else None)

    def run(self, asked: dict[str, Any], hosts: int) -> dict[str, Any]:
        """What the first of so many hosts prints. Raises `UnavailableError` where one fails."""
        program = [sys.executable, str(HERE / "host_process.py"), json.dumps(asked)]
        processes = []
        for rank in range(hosts):
            variables = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
            command = program
            if self.network is not None and hosts > 1:
                command = self.network.command(rank, program, core=rank)
                variables |= {"RANK": str(rank), "WORLD_SIZE": str(hosts), "MASTER_PORT": "29500"}
                variables |= {
                    "MASTER_ADDR": self.network.address(0),
                    "GLOO_SOCKET_IFNAME": self.network.interface(rank),
                }
            elif hosts > 1:  # on this machine's own address
                variables |= {
                    "RANK": str(rank),
                    "WORLD_SIZE": str(hosts),
                    "MASTER_PORT": "29533",
                    "MASTER_ADDR": "127.0.0.1",
                }
            elif asked["contender"] == "locked":
                command = ["taskset", "-c", "0", *program]
            pipe = subprocess.PIPE
            processes.append(subprocess.Popen(command, env=variables, stdout=pipe, stderr=pipe, text=True, cwd=HERE))
        try:
            ended = [process.communicate(timeout=TIMEOUT) for process in processes]
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"did not end within {TIMEOUT:g} seconds") from None
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if processes[0].returncode or not ended[0][0].strip():
            said = (ended[0][1].strip() or "it said nothing").splitlines()[-1]
            raise UnavailableError(said[:200])
        found: dict[str, Any] = json.loads(ended[0][0].strip().splitlines()[-1])
        return found


def measure(options: argparse.Namespace) -> list[Case]:
    """The parts that are asked for."""
    workload = WORKLOADS[WORKLOAD]
    data = workload.load()
    model = workload.make(data, seed=0)
    train_set = whole_batches(data.train_set, workload.batch_size)
    cut = Trainer(model, optimizer=rivals.adam, workers=HOSTS, batch_size=workload.batch_size, threads_per_worker=1)
    split = cut.cut(train_set)[0]
    found: list[Case] = []
    with ExitStack() as stack:
        if options.part == "race":
            return measure_race(options, split)
        if options.part == "emulated":
            return measure_emulated(options)
        if options.part != "rivals":
            found += measure_delays(options, split, stack)
        if options.part != "delay":
            for rate in options.rates:
                with EmulatedNetwork(HOSTS, delay_ms=options.delay, rate_mbit=rate) as network:
                    found += measure_rivals(options, Bench(split, options.seconds, network, options.first_steps), rate)
    return found


def measure_delays(options: argparse.Namespace, split: Sequence[int], stack: ExitStack) -> list[Case]:
    """One host, and two over links of each delay, taking turns."""
    bench = partial(Bench, split, options.seconds)
    alone = bench(None, options.first_steps)
    contenders = [alone.contender(f"{OURS}, one host", OURS, hosts=1)]
    batch = WORKLOADS[WORKLOAD].batch_size / 16_000  # seconds, about; a capacity needs no more
    for number, delay in enumerate(options.delays):
        network = stack.enter_context(EmulatedNetwork(HOSTS, delay_ms=delay, net=f"10.77.{number}"))
        over = bench(network, options.first_steps)
        contenders.append(over.contender(f"{OURS}, {delay:g} ms", OURS, queue_capacity=capacity_for(delay, batch)))
        if delay:
            contenders.append(over.contender(f"{OURS}, {delay:g} ms, capacity 4", OURS))
    settings = {**WORKLOADS[WORKLOAD].settings(), "split": list(split), "delays_ms": options.delays}
    reference = f"{OURS}, {options.delays[0]:g} ms"
    measured = compare(
        f"{WORKLOAD}, two hosts", settings, contenders, options.rounds, reference, warm_up=not options.quick
    )
    for case in (each for each in measured if each.metric == THROUGHPUT):
        for name in list(case.rounds):
            if "capacity" not in name and name != f"{OURS}, one host":
                case.add_ratio(name, f"{OURS}, one host")
            if name not in (reference, f"{OURS}, one host"):
                case.add_ratio(name, reference)
    return measured


def measure_rivals(options: argparse.Namespace, bench: Bench, rate: float) -> list[Case]:
    """Ours and theirs over one link."""
    batch = WORKLOADS[WORKLOAD].batch_size / 16_000
    capacity = capacity_for(options.delay, batch)
    contenders = [
        bench.contender(OURS, OURS, queue_capacity=capacity),
        bench.contender("locked, one host", "locked", hosts=1),
        bench.contender("DDP", "DDP"),
    ]
    for schedule in (GPIPE, ONE_F_ONE_B):
        for number in (2, 4, 8)[: 1 if options.quick else None]:
            contenders.append(bench.contender(f"{schedule}, {number} microbatches", schedule, microbatches=number))
    settings = {**WORKLOADS[WORKLOAD].settings(), "rate_mbit": rate, "delay_ms": options.delay, "capacity": capacity}
    title = f"{WORKLOAD}, two hosts, {rate:g} Mbit/s, {options.delay:g} ms"
    measured = compare(
        title, settings, contenders, options.rounds, OURS, warm_up=not options.quick, best_of_families=True
    )
    for case in (each for each in measured if each.metric == THROUGHPUT):
        rivals_there = [name for name in case.rounds if name not in (OURS, "locked, one host")]
        case.add_ratio_to_best(OURS, "rival over the link", rivals_there)
    return measured


def measure_race(options: argparse.Namespace, split: Sequence[int]) -> list[Case]:
    """Whole trainings, a seed a round."""
    workload, steps = WORKLOADS[WORKLOAD], 60 if options.quick else 1500
    capacity, rate = capacity_for(options.delay, workload.batch_size / 16_000), options.rates[0]
    training = Training(workload, workload.load(), EVERY)
    locked, rounds = Locked(Plain(1)), range(options.rounds)
    name, alone = f"{OURS}, two hosts, {rate:g} Mbit/s, {options.delay:g} ms", "locked, one host, one core"
    courses: dict[str, list[Course]] = {name: [], alone: []}
    asked = {"contender": OURS, "workload": WORKLOAD, "steps": steps, "split": list(split)}
    with EmulatedNetwork(HOSTS, delay_ms=options.delay, rate_mbit=rate) as network:
        bench = Bench(split, options.seconds, network, steps)
        for seed in rounds:
            settings = {"queue_capacity": capacity}
            found = bench.run({**asked, "settings": settings, "race": [5e-4, "constant", 2.0, seed]}, HOSTS)["course"]
            courses[name].append([Point(*point) for point in found])
            courses[alone].append(locked.train(training, Setting(2e-3, "onecycle", steps), seed))
            print(f"race: seed {seed}: {[last_error(each[-1]) for each in courses.values()]} %", file=sys.stderr)
    settings = {**workload.settings(), "capacity": capacity, "steps": steps, "rival_rate": options.rival_rate}
    cases = []
    for target in (3.0, 2.5, 2.0):
        case = Case(f"{WORKLOAD}, a race", Metric(f"time to {target:g} %", "s"), settings, {}, WORKLOAD)
        for each, found in courses.items():
            if (times := times_to(target, found)) is None:
                case.missing[each] = why_missing(target, found)
            else:
                case.rounds[each] = times
        reached = [next((p.step for p in course if p.error <= target), None) for course in courses[alone]]
        if options.rival_rate and None not in reached:
            needed = statistics.median(step for step in reached if step is not None)
            case.formulas["rival over the link"] = needed * workload.batch_size / options.rival_rate
        cases.append(case)
    error = Case(f"{WORKLOAD}, a race", Metric(workload.figure, "%"), settings, {}, WORKLOAD)
    for each, found in courses.items():
        error.rounds[each] = [last_error(course) for course in found]
        error.curves[each] = [[(p.seconds, p.error) for p in course] for course in found]
    return [*cases, error]


def measure_emulated(options: argparse.Namespace) -> list[Case]:
    """Many stages that sleep, on many hosts: are they as fast as a few?"""
    per_host, hosts, steps = (2, 2, 12) if options.quick else (8, 8, 60)
    bench = Bench([], options.seconds, None, steps)

    def run(stages: int, hosts: int) -> Measured:
        asked = {
            "contender": OURS,
            "workload": "",
            "steps": steps,
            "split": list(range(1, stages)),
            "milliseconds": 100.0,
        }
        shared = [stages // hosts] * hosts if hosts > 1 else None
        return {THROUGHPUT: bench.run({**asked, "settings": {"hosts_split": shared}}, hosts)["samples_per_second"]}

    alone, many, all_of_them = (
        f"{per_host} stages, 1 host",
        f"{per_host * hosts} stages, {hosts} hosts",
        per_host * hosts,
    )
    contenders = [
        Contender(many, partial(run, all_of_them, hosts)),
        Contender(alone, partial(run, per_host, 1)),
        Contender(f"{all_of_them} stages, 1 host", partial(run, all_of_them, 1)),
    ]
    measured = compare("emulated stages", {"ms": 100.0}, contenders, options.rounds, many, warm_up=False)
    for case in measured:
        case.formulas["one stage alone"] = 8 / 0.2
    return measured


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument("--part", choices=("delay", "rivals", "emulated", "race"), help="default: the first two")
    parser.add_argument(
        "--rival-rate", type=positive(float), metavar="N", help="samples/s of the best rival, for --part race"
    )
    delays: Callable[[str], list[float]] = listed(float)
    parser.add_argument("--delays", type=delays, default=[0, 10, 50, 100], metavar="MS,…", help="default: 0,10,50,100")
    parser.add_argument("--rates", type=listed(float), default=[1000, 100], metavar="MBIT,…", help="default: 1000,100")
    parser.add_argument("--delay", type=float, default=20.0, metavar="MS", help="of --part rivals; default: 20")
    parser.add_argument("--seconds", type=positive(float), default=8.0, help="of each measurement; default: 8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options)
    if (reason := unavailable()) is not None:
        print(f"{SCRIPT}: error: {reason}", file=sys.stderr)
        sys.exit(2)
    options.first_steps = 10 if options.quick else 40
    if options.quick:
        options.delays, options.rates = options.delays[:2], options.rates[:1]
    began = time.monotonic()
    report("several_hosts", options, measure(options))
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
