"""What becomes of a run whose workers are killed, stopped and starved, whose parent dies, and that is asked for nonsense?

  kills       SIGKILL of each worker in each phase, 100 of them spread over a run of cDNI; its test error beside that of a
              run that nobody disturbs
  outage      a worker is killed and comes back 3 seconds later, with --overflow drop: what the others do meanwhile
  hangs       SIGSTOP of a worker at random moments: killed when its heartbeat has stood still for a second
  signals     SIGKILL, SIGTERM, SIGHUP, and Ctrl-C twice, for launch.py, at random moments: exit status, processes and
              shared memory left, the newest checkpoint
  interrupts  Ctrl-C for launch.py at random moments: a second one 200 times, wherever the first found the run and wherever
              its end is by then; a single one 40 times while it starts. Exit status 130, and nothing on standard error but
              a sentence of ours
  bad input   what the tests list of it: a sentence, and exit status 2
  memory      the resident memory of every worker over a run that nobody disturbs
  soak        random faults for half an hour: the resident memory of every process

A fault is survived where the run went on, or ended as it should; lost are updates of the layers, gradients and snapshots'
worth of batches, which the table's second part counts; leaked are processes, files of shared memory, and descriptors.

In the end it says what is missed of what we aim at: all faults survived, nothing left behind, a test error within 0.3 of an
undisturbed run's, 0.9 of the rate of updates upstream of a worker that is away. The exit status is 1 where anything is.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from case import Case, Metric
from fault_injection import Leftovers, Watched, meanwhile, unreleased, watched
from harness import chosen_from, parse_arguments, positive, report

from async_dni import Trainer, TrainResult, fcn, load_dataset
from async_dni.foundation.error import ConfigError
from async_dni.record.checkpoint import load_checkpoint, newest_checkpoint
from async_dni.record.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 3
LAST = WORKERS - 1
UNDISTURBED = "cdni, undisturbed"  # a contender
MOST_ERROR, LEAST_RATE = 0.3, 0.9  # per cent more than undisturbed; of the rate before
PATIENCE = 10.0  # seconds that processes have to end: a busy machine takes some

# what a stage of cDNI does; waits for room and for gradients are rare, and come by chance
ITS_PHASES = {
    0: ("load", "forward", "update", "learn", "send", "snapshot"),
    1: ("wait_activation", "forward", "update", "learn", "send", "snapshot"),
    2: ("wait_activation", "forward", "update", "send", "snapshot"),
}

INJECTED, SURVIVED, LEAKED = (Metric(name, "faults") for name in ("injected", "survived", "leaked"))
ERROR, BEHIND = Metric("test error", "%"), Metric("batches behind", "batches")
REPEATED, LOST = Metric("batches done twice by a stage", "batches"), Metric("gradients lost", "gradients")
QUEUED = Metric("activations in its queue", "messages")
UNRELEASED = Metric("messages left in queues", "messages")
RATE, GROWTH = Metric("rate of updates, against before", "ratio"), Metric("growth of resident memory", "MB/min")
HIGHEST = Metric("highest resident memory", "MB")


class Quiet(Progress):
    """Shows nothing, not even the warnings that a thousand faults make; keeps the workers' resident memory."""

    def __init__(self) -> None:
        self.memory: dict[int, list[tuple[float, float]]] = defaultdict(list)  # of each process: seconds, MB

    def on_record(self, worker: int, record: dict[str, Any]) -> None:
        self.memory[record["pid"]].append((record["time"], record["rss_bytes"] / 2**20))

    def on_warning(self, text: str) -> None:
        pass


@dataclass(frozen=True)
class Bench:
    """What all parts share."""

    data: Any
    test: Any
    options: argparse.Namespace

    def trainer(self, progress: Progress | None = None, **settings: Any) -> Trainer:
        """Of the 3×256 network, a stage a worker."""
        torch.manual_seed(0)
        common: dict[str, Any] = {"workers": WORKERS, "batch_size": 250, "device_map": "cpu", "max_restarts": 10**6}
        return Trainer(fcn(), progress=progress or Quiet(), **{**common, **settings})

    def fit(self, steps: int, evaluates: bool = False, **settings: Any) -> TrainResult:
        """Train on so many batches."""
        return self.trainer(**settings).fit(self.data, steps=steps, eval_set=self.test if evaluates else None)


def error_of(result: TrainResult) -> float:
    """In per cent."""
    if result.test_error is None:
        raise RuntimeError(f"the network was not evaluated: {result.problems}")
    return result.test_error


def case(name: str, settings: dict[str, Any], values: Mapping[Metric, float]) -> list[Case]:
    """One round of one contender, `cdni`, in each metric."""
    return [Case(name, metric, settings, {"cdni": [value]}, name) for metric, value in values.items()]


def left_behind(run: Watched, before: Leftovers) -> dict[Metric, float]:
    """What a run that has ended has left behind."""
    messages = unreleased(run)
    run.supervisor = None
    return {UNRELEASED: messages, LEAKED: Leftovers.now().since(before)}


# Kills.


def kills(bench: Bench) -> list[Case]:
    """SIGKILL of each worker in each phase."""
    count, steps = (17, 1500) if bench.options.quick else (100, 12_000)
    wanted = [(stage, phase) for stage, phases in ITS_PHASES.items() for phase in phases]
    before, survived = Leftovers.now(), 0
    with watched() as run:

        def kill() -> None:
            nonlocal survived
            for number in range(count):
                due = steps * (number + 0.5) / (count + 1)  # spread over the run
                run.wait_for(lambda: run.is_training and run.spec(LAST).heartbeat.step >= due, 600.0, 0.01)  # noqa: B023
                died = run.kill_in(*wanted[number % len(wanted)])
                survived += died and run.wait_for(lambda: is_back(run), 60.0, 0.01)

        with meanwhile(kill):
            result = bench.fit(steps, evaluates=True, snapshot_every=100)
    workers = result.summary["workers"]
    settings = {
        "steps": steps,
        "snapshot_every": 100,
        "deaths": {f"stage {stage}, {phase}": n for (stage, phase), n in sorted(deaths_by_phase(run).items())},
        "restarts": [worker["restarts"] for worker in workers],
    }
    values = {
        INJECTED: count,
        SURVIVED: survived,
        BEHIND: statistics.median(death.behind for death in run.deaths),
        REPEATED: sum(worker["steps"] - steps for worker in workers),
        LOST: sum(worker["lost"] for worker in workers),
        **left_behind(run, before),
    }
    undisturbed = bench.fit(steps, evaluates=True)
    errors = {"cdni": [error_of(result)], UNDISTURBED: [error_of(undisturbed)]}
    return [*case("kills", settings, values), Case("kills", ERROR, settings, errors, "kills")]


def is_back(run: Watched) -> bool:
    """Whether every stage has a worker that is ready."""
    return all(run.worker(stage) is not None for stage in range(WORKERS))


def deaths_by_phase(run: Watched) -> Counter[tuple[int, str]]:
    """How many workers of each stage died in each phase."""
    return Counter((death.stage, death.phase) for death in run.deaths)


# Outages.


def outage(bench: Bench) -> list[Case]:
    """A worker is away for some seconds."""
    return [made for stage in range(WORKERS) for made in _outage(bench, stage)]


def _outage(bench: Bench, stage: int) -> list[Case]:
    seconds = 1.0 if bench.options.quick else 3.0
    rates: list[dict[int, float]] = []
    queued: dict[int, tuple[int, int]] = {}
    survived: list[bool] = []
    before = Leftovers.now()
    with watched(restart_delay=seconds) as run:

        def kill() -> None:
            run.wait_for(lambda: run.is_training and run.spec(LAST).heartbeat.step >= 100, 600.0, 0.01)
            rates.append(rates_over(run, seconds))
            run.send(stage, signal.SIGKILL)
            found = {k: run.spec(k).activation_in.in_flight for k in range(stage + 1, WORKERS)}
            rates.append(rates_over(run, 0.9 * seconds))
            queued.update({k: (number, run.spec(k).activation_in.in_flight) for k, number in found.items()})
            survived.append(run.wait_for(lambda: len(run.deaths) == 1 and is_back(run), 60.0, 0.01))
            time.sleep(seconds)
            rates.append(rates_over(run, seconds))
            os.kill(os.getpid(), signal.SIGINT)  # enough: the run ends in order

        with meanwhile(kill):
            result = bench.fit(10**6, overflow="drop")
    was, during, after = rates
    name = f"outage of stage {stage}, {seconds:g} s"
    settings = {
        "overflow": "drop",
        "away": stage,
        "restarts": [worker["restarts"] for worker in result.summary["workers"]],
    }
    made = case(name, settings, {INJECTED: 1, SURVIVED: sum(survived), **left_behind(run, before)})
    for k in range(WORKERS):
        values = {"during": [during[k] / was[k]], "after": [after[k] / was[k]]}
        made.append(Case(name, Metric(RATE.name, RATE.unit, k), {**settings, "stage": k}, values, name))
    for k, (found, left) in queued.items():
        values = {"at the death": [found], f"{0.9 * seconds:g} s later": [left]}
        made.append(Case(name, Metric(QUEUED.name, QUEUED.unit, k), {**settings, "stage": k}, values, name))
    return made


def rates_over(run: Watched, seconds: float) -> dict[int, float]:
    """Updates a second of each stage."""
    counts = [run.spec(k).heartbeat.updates for k in range(WORKERS)]
    began = time.monotonic()
    run.wait_for(lambda: False, seconds, 0.01)
    passed = time.monotonic() - began
    return {k: (run.spec(k).heartbeat.updates - count) / passed for k, count in enumerate(counts)}


# Hangs.


@contextmanager
def logged() -> Iterator[Path]:
    """A run directory for a while: the stacks of workers that hang go to their logs, not to the terminal."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "run"


def hangs(bench: Bench) -> list[Case]:
    """SIGSTOP of workers at random moments."""
    count, generator, survived = (2 if bench.options.quick else 20), random.Random(0), 0
    before = Leftovers.now()
    with watched() as run:

        def stop() -> None:
            nonlocal survived
            run.wait_for(lambda: run.is_training, 600.0, 0.01)
            for number in range(count):
                time.sleep(generator.uniform(0.05, 1.0))
                stopped = run.send(generator.randrange(WORKERS), signal.SIGSTOP)
                back = run.wait_for(lambda: len(run.deaths) > number and is_back(run), 60.0, 0.01)  # noqa: B023
                survived += stopped and back
            os.kill(os.getpid(), signal.SIGINT)

        with meanwhile(stop), logged() as run_dir:
            bench.fit(10**6, heartbeat_timeout=1.0, run_dir=run_dir)
    values = {INJECTED: count, SURVIVED: survived, **left_behind(run, before)}
    return case("SIGSTOP of a worker", {"heartbeat_timeout": 1.0}, values)


# Signals.


@dataclass(frozen=True)
class Ending:
    """How launch.py ended."""

    status: int
    leaked: int
    checkpoint_loads: bool
    tracebacks: int


SIGNALS = {
    "parent SIGKILL": ((signal.SIGKILL,), {-signal.SIGKILL}),
    "SIGTERM": ((signal.SIGTERM,), {128 + signal.SIGTERM, -signal.SIGTERM}),
    "SIGHUP": ((signal.SIGHUP,), {128 + signal.SIGHUP, -signal.SIGHUP}),
    "Ctrl-C twice": ((signal.SIGINT, signal.SIGINT), {128 + signal.SIGINT, -signal.SIGINT}),
}
"""Signals, and the exit statuses that are right: of a run that was ended in order, or killed before it began."""


def signals(bench: Bench) -> list[Case]:
    """Signals for launch.py, as a user starts it."""
    count, generator, made = (1 if bench.options.quick else 20), random.Random(0), []
    for name, (numbers, right) in SIGNALS.items():
        endings = [launch_and_signal(numbers, generator.uniform(1.0, 8.0), generator) for _ in range(count)]
        survived = sum(e.status in right and e.checkpoint_loads and not e.tracebacks for e in endings)
        settings = {"exit_statuses": dict(Counter(str(e.status) for e in endings))}
        leaked = sum(e.leaked for e in endings)
        made += case(name, settings, {INJECTED: count, SURVIVED: survived, LEAKED: leaked})
    return made


def launch_and_signal(numbers: Sequence[int], seconds: float, generator: random.Random) -> Ending:
    """Start launch.py in a session of its own, as in a terminal, send it signals, and look at what is left."""
    before = Leftovers.now()
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        arguments = ["--epochs", "100", "--checkpoint-every", "20", "--run-dir", str(run_dir)]
        command = [sys.executable, str(ROOT / "launch.py"), *arguments]
        printed = Path(directory) / "stderr"
        with printed.open("w") as file:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True)
        time.sleep(seconds)
        for number in numbers:
            if number == signal.SIGINT:
                os.killpg(process.pid, number)  # a terminal's Ctrl-C goes to all
            else:
                process.send_signal(number)
            time.sleep(generator.uniform(0.0, 0.5))
        process.wait(timeout=120.0)
        leaked = len(left_of_session(process.pid))
        errors = printed.read_text()
        loads = newest_checkpoint_loads(run_dir)
    return Ending(process.returncode, leaked + Leftovers.now().since(before), loads, errors.count("Traceback"))


# Interrupts.


@dataclass(frozen=True)
class Interrupted:
    """How a launch.py that got Ctrl-C ended."""

    status: int
    said: str  # on standard error
    left: list[str]  # processes, and files that only a process that lives needs


WHILE_IT_STARTS, TWICE = "Ctrl-C while it starts", "a second Ctrl-C"
SENTENCES = {
    WHILE_IT_STARTS: {"", "launch.py: ended before the run began\n"},
    TWICE: {
        "",  # it came when nothing was left to be done but to end
        "launch.py: ended at once; what was trained since the last checkpoint is lost\n",
        "launch.py: ended before all was printed\n",
    },
}


def interrupts(bench: Bench) -> list[Case]:
    """Ctrl-C for launch.py at random moments, in processes of its own and in one."""
    made = []
    for name, count in ((WHILE_IT_STARTS, 40), (TWICE, 200)):
        count = 4 if bench.options.quick else count
        with ThreadPoolExecutor(
            4
        ) as executor:  # beside each other: most of it is waiting, and no two take the same course
            ended = list(executor.map(partial(interrupt, twice=name == TWICE), range(count)))
        survived = sum(one.status == 128 + signal.SIGINT and one.said in SENTENCES[name] for one in ended)
        settings = {
            "exit_statuses": dict(Counter(str(one.status) for one in ended)),
            "said": dict(Counter(one.said.strip() for one in ended)),
            "left": [name for one in ended for name in one.left],
        }
        made += case(name, settings, {INJECTED: count, SURVIVED: survived, LEAKED: len(settings["left"])})
    return made


def interrupt(number: int, twice: bool) -> Interrupted:
    """Start launch.py, press Ctrl-C once or twice, and look at how it ended; a run that was quicker is done over."""
    generator = random.Random(number)
    for _ in range(20):
        with tempfile.TemporaryDirectory() as directory:
            ended = _interrupt(Path(directory), number % 2 == 1, twice, generator)
        if ended is not None:
            return ended
    raise RuntimeError("launch.py ends before it can be interrupted")


def _interrupt(directory: Path, serial: bool, twice: bool, generator: random.Random) -> Interrupted | None:
    """None where the process had ended before the last Ctrl-C."""
    temporary, run_dir = directory / "tmp", directory / "run"
    temporary.mkdir()
    arguments = ["--layers", "3", "--width", "16", "--steps", "1000000", "--checkpoint-every", "20"]
    with (directory / "stdout").open("w") as output, (directory / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), *arguments, *["--serial"] * serial, "--run-dir", str(run_dir)],
            env={**os.environ, "TMPDIR": str(temporary)},
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    while process.poll() is None and not handles(process.pid, signal.SIGTERM):
        time.sleep(0.001)
    if twice:
        while process.poll() is None and "starting 3 stages" not in (directory / "stdout").read_text():
            time.sleep(0.01)
    longest = 1.0 if serial and twice else 3.0  # of what there is to be interrupted
    for _ in range(1 + twice):
        time.sleep(generator.uniform(0.0, longest) * generator.random())  # more of them soon
        if process.poll() is not None:
            return None
        os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=120.0)
    left = left_of_session(process.pid)
    for pattern, folder in (("pymp-*", temporary), (f"pym-{process.pid}-*", Path("/dev/shm")), (".*", run_dir)):
        left += map(str, folder.rglob(pattern))
    return Interrupted(process.returncode, (directory / "stderr").read_text(), left)


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, by what Linux tells of it."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def left_of_session(session: int, patience: float = PATIENCE) -> list[str]:
    """What the processes of a session that are there `patience` seconds later were started with; they are killed then.

    One that has ended, and that nobody has asked for its exit status, is not there; who does that for orphans may be slow.
    """
    deadline = time.monotonic() + patience
    while alive := [process for process in psutil.process_iter() if is_of_session(process, session)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.05)
    names = []
    for process in alive:
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            names.append(" ".join(process.cmdline()))
            process.kill()
    return names


def is_of_session(process: psutil.Process, session: int) -> bool:
    """Whether a living process is of a session."""
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def newest_checkpoint_loads(run_dir: Path) -> bool:
    """Whether a run's newest checkpoint is whole; a run that came to none has none to load."""
    if not list((run_dir / "checkpoints").glob("step-*.pt")):
        return True
    try:
        load_checkpoint(newest_checkpoint(run_dir))
    except ConfigError:
        return False
    return True


# Memory.


def memory(bench: Bench) -> list[Case]:
    """Resident memory of a run that nobody disturbs."""
    steps = 1000 if bench.options.quick else 20_000
    progress = Quiet()
    before = Leftovers.now()
    result = bench.trainer(progress).fit(bench.data, steps=steps)
    made = case("memory", {"steps": steps}, {LEAKED: Leftovers.now().since(before)})
    for k, worker in enumerate(result.summary["workers"]):
        samples = progress.memory[worker["pid"]]
        made.append(growth("memory", {"steps": steps}, k, samples))
        half, settings = len(samples) // 2, {"steps": steps, "stage": k}
        halves = {"first half": samples[: half + 1], "second half": samples[half:]}
        highest = {name: [max(megabytes for _, megabytes in part)] for name, part in halves.items()}
        made.append(Case("memory", Metric(HIGHEST.name, HIGHEST.unit, k), settings, highest, "memory"))
    return made


def growth(name: str, settings: dict[str, Any], stage: int | None, samples: Sequence[tuple[float, float]]) -> Case:
    """The slope of resident memory over its second half of the time, when all that is needed is there."""
    late = samples[len(samples) // 2 :]
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope * 60 if len(late) > 1 else 0.0
    found = {"megabytes": round(late[-1][1], 1) if late else None, "samples": len(late)}
    return Case(
        name, Metric(GROWTH.name, GROWTH.unit, stage), {**settings, **found, "stage": stage}, {"cdni": [slope]}, name
    )


def soak(bench: Bench) -> list[Case]:
    """Random faults, for long; workers come and go, so their memory is taken by stage."""
    minutes = bench.options.minutes or (0.25 if bench.options.quick else 30.0)
    generator, injected, survived = random.Random(0), Counter[str](), 0
    samples: dict[int | None, list[tuple[float, float]]] = defaultdict(list)
    before = Leftovers.now()
    with watched() as run:

        def look() -> None:
            samples[None].append((time.time(), psutil.Process().memory_info().rss / 2**20))
            for stage in range(WORKERS):
                pid = run.worker(stage)
                if pid is not None and psutil.pid_exists(pid):
                    samples[stage].append((time.time(), psutil.Process(pid).memory_info().rss / 2**20))

        def disturb() -> None:
            nonlocal survived
            run.wait_for(lambda: run.is_training, 600.0, 0.01)
            end = time.monotonic() + 60 * minutes
            while time.monotonic() < end and not run.ended.is_set():
                time.sleep(generator.uniform(1.0, 8.0))
                look()
                number, stage = (
                    generator.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP]),
                    generator.randrange(WORKERS),
                )
                deaths = len(run.deaths)
                if run.send(stage, number):
                    injected[signal.Signals(number).name] += 1
                    survived += run.wait_for(lambda: len(run.deaths) > deaths and is_back(run), 60.0, 0.01)  # noqa: B023
            os.kill(os.getpid(), signal.SIGINT)

        with meanwhile(disturb), logged() as run_dir:
            result = bench.fit(10**8, heartbeat_timeout=2.0, evaluates=True, run_dir=run_dir)
    settings = {"minutes": minutes, "faults": dict(injected), "steps": result.summary["steps"]}
    values = {
        INJECTED: injected.total(),
        SURVIVED: survived,
        **left_behind(run, before),
        ERROR: error_of(result),
    }
    return [*case("soak", settings, values), *(growth("soak", settings, k, found) for k, found in samples.items())]


# Bad input.


def bad_input(bench: Bench) -> list[Case]:
    """What the tests list, by the tests."""
    command = [sys.executable, "-m", "pytest", "-rN", "--no-header", "tests/test_bad_inputs.py"]
    with tempfile.TemporaryDirectory() as directory:
        junit = Path(directory) / "junit.xml"
        subprocess.run([*command, f"--junitxml={junit}"], cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        from xml.etree import ElementTree  # its own output

        suite = next(ElementTree.parse(junit).getroot().iter("testsuite"))
    count = int(suite.get("tests", 0))
    failed = sum(int(suite.get(kind, 0)) for kind in ("failures", "errors", "skipped"))
    return case("bad input", {"tests": "tests/test_bad_inputs.py"}, {INJECTED: count, SURVIVED: count - failed})


def missed(measured: Sequence[Case]) -> list[str]:
    """What is not as we aim at, a sentence each."""
    values = {(case.name, case.metric): {name: rounds[0] for name, rounds in case.rounds.items()} for case in measured}
    found = []
    for case in measured:
        name, metric, value = case.name, case.metric, values[case.name, case.metric]
        if metric == SURVIVED and value["cdni"] < values[name, INJECTED]["cdni"]:
            found.append(f"{name}: survived {value['cdni']:g} of {values[name, INJECTED]['cdni']:g} faults")
        if metric in (LEAKED, UNRELEASED) and value["cdni"] > 0:
            found.append(f"{name}: {metric.name}: {value['cdni']:g}")
        if metric == ERROR and value["cdni"] > value.get(UNDISTURBED, math.inf) + MOST_ERROR:
            found.append(f"{name}: test error {value['cdni']:.2f} %, undisturbed {value[UNDISTURBED]:.2f} %")
        is_upstream = metric.name == RATE.name and case.settings["stage"] < case.settings["away"]
        if is_upstream and value["during"] < LEAST_RATE:
            found.append(f"{name}: stage {metric.stage} at {value['during']:.2f} of its rate")
    return found


PARTS: dict[str, Callable[[Bench], list[Case]]] = {
    "kills": kills,
    "outage": outage,
    "hangs": hangs,
    "signals": signals,
    "interrupts": interrupts,
    "bad input": bad_input,
    "memory": memory,
    "soak": soak,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    parser.add_argument("--only", type=chosen_from(list(PARTS)), metavar="PART,…", help="these parts; default: all")
    parser.add_argument("--minutes", type=positive(float), help="of the soak; default: 30, with --quick a quarter")


def main(arguments: Sequence[str] | None = None) -> None:
    """Inject and report."""
    options = parse_arguments(__doc__ or "", arguments, add_options)
    # whatever started this may ignore them, as a shell does for what it runs in the background, and processes inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    bench = Bench(*load_dataset("mnist"), options)
    bench.fit(10)  # what a process opens once, and keeps
    measured = [made for part in options.only or list(PARTS) for made in PARTS[part](bench)]
    report("faults", options, measured)
    for sentence in (sentences := missed(measured)):
        print(f"missed: {sentence}")
    sys.exit(1 if sentences else 0)


if __name__ == "__main__":
    main()
