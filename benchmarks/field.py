"""Who takes part in whole trainings of a workload, as the command line says: for the benchmarks that tune."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from contenders import add_contender_option, named
from harness import listed, positive, refuse
from training import Racer, racers
from workloads import WORKLOADS, Data, Workload, add_data_options


def loaded(options: argparse.Namespace) -> tuple[Workload, Data]:
    """The workload and its data; little of it with --quick."""
    workload = WORKLOADS[options.workload]
    data = workload.load(options.fashion, options.text)
    return workload, data.first(2000, 1000) if options.quick else data


def field_of(
    script: str, options: argparse.Namespace, workload: Workload, data: Data, beginnings: Sequence[str]
) -> dict[str, Racer]:
    """Those whose names begin as --contenders says, and those of --contender; ends the program where there is none such.

    By default those that begin as `beginnings` say, and are not compiled.
    """
    more = dict(options.contender)
    workers = options.workers or [workload.workers]
    field = racers(workload, workers, len(workload.make(data, 0)), named(workload, more))
    for start in options.contenders or ():
        if not any(name.startswith(start) for name in field):
            refuse(script, "--contenders", start, ", ".join(field))
    own = tuple(f"{name.replace(',', '')} (" for name in more)
    chosen = {name: one for name, one in field.items() if name.startswith((*(options.contenders or beginnings), *own))}
    if options.contenders:
        return chosen
    return {name: one for name, one in chosen.items() if not name.endswith(" compiled)") and " compiled " not in name}


def add_field_options(parser: argparse.ArgumentParser, beginnings: Sequence[str]) -> None:
    """The workload and its contenders."""
    parser.add_argument("--workload", choices=WORKLOADS, help="default: 20x256, with --quick 3x256")
    counts = listed(positive(int))
    parser.add_argument("--workers", type=counts, metavar="N,N,…", help="of ours; default: the workload's number")
    parser.add_argument(
        "--contenders",
        "--only",
        type=lambda text: [start.strip() for start in text.split(",")],
        metavar="NAMES",
        help=f"the beginnings of their names, separated by commas; default: {','.join(beginnings)}, not compiled",
    )
    add_data_options(parser)
    add_contender_option(parser)
