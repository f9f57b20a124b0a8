"""What the hosts of a run agree on before it begins: directories, settings and data, weights, who has which stages.

Of one host, all of this is what it is given.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..foundation.cores import usable_cores
from ..foundation.error import ConfigError
from ..foundation.version import VERSION
from ..learning.blocks import copy_of
from ..learning.structure import parts_of
from ..network.speed import forward_passes_a_second
from ..record.checkpoint import newest_checkpoint
from ..runtime.events import from_bytes, to_bytes
from ..runtime.hosts.group import Hosts, RefusedError
from ..runtime.hosts.place import Place, check_split, shared_out
from ..runtime.hosts.wire.conversation import Message
from ..runtime.machine.device import assign_devices
from .job import Job
from .plan import Plan, make_plan
from .prepare import Prepared
from .restart import gone_on_with, is_alive

OWN = {"run_dir", "resume", "data_dir", "quiet"}  # settings that hosts need not share
FOLDER = "async-dni-host-"


@contextmanager
def located(job: Job, runs: Path | None, hosts: Hosts) -> Iterator[tuple[Job, Path | None]]:
    """The job with this host's directories, and where runs are that nobody has named.

    The first host's are those that the settings name. Another's are in a folder for temporary files, with a copy of the
    checkpoint that is gone on from; what its workers write there is sent to the first host.
    """
    if hosts.is_first:
        job, runs = gone_on_with(job, runs, hosts)
        hosts.of_first("checkpoint", lambda: _checkpoint(job))
        yield job, runs
        return
    _remove_left_folders()
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
    try:
        message = hosts.of_first("checkpoint", lambda: Message(""))
        config = dataclasses.replace(job.config, resume=None, run_dir=folder / "run")
        if message.body:
            path = folder / "run" / "checkpoints" / message.values["name"]
            path.parent.mkdir(parents=True)
            path.write_bytes(message.body)
            config = dataclasses.replace(job.config, resume=path, run_dir=None)
        yield dataclasses.replace(job, config=config), None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _checkpoint(job: Job) -> Message:
    """What a run goes on from, for the other hosts."""
    if job.config.resume is None:
        return Message("checkpoint")
    path = newest_checkpoint(job.config.resume)
    try:
        return Message("checkpoint", {"name": path.name}, path.read_bytes())
    except OSError as error:
        raise ConfigError("resume", path, f"it can't be read ({error.strerror})") from None


def _remove_left_folders() -> None:
    """Those of processes that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        pid = path.name.removeprefix(FOLDER).split("-")[0]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def agreed(job: Job, prepared: Prepared, settings: dict[str, Any], hosts: Hosts) -> tuple[Job, Prepared]:
    """The job with its stages shared out, and the network with the first host's weights. Raises `ConfigError` where hosts
    were given different things."""
    config = job.config
    if hosts.size == 1:
        return job, prepared
    check_split(config.hosts_split, hosts.size, config.workers)
    cores = max(1, usable_cores() // job.place.local_size)
    speed = 1.0
    if config.hosts_split is None:
        speed = forward_passes_a_second(prepared.model, prepared.trial.first.x, cores)
    said = hosts.exchange("facts", facts=_facts(job, prepared, settings), weights=_checksum(prepared), speed=speed)
    _compare([message.values["facts"] for message in said], hosts.addresses)
    if len({message.values["weights"] for message in said}) > 1:
        prepared = _with_weights_of_first(prepared, hosts)
    counts = config.hosts_split or shared_out(config.workers, [message.values["speed"] for message in said])
    counts = tuple(hosts.of_first("counts", lambda: Message("counts", {"counts": counts})).values["counts"])
    place = dataclasses.replace(job.place, counts=counts, rank=hosts.rank)
    here = _devices_here(config.device_map, place, config.workers)
    devices = [device for message in hosts.exchange("devices", devices=here) for device in message.values["devices"]]
    return dataclasses.replace(job, place=place, devices=devices), prepared


def _devices_here(device_map: str, place: Place, workers: int) -> list[str]:
    """Of a list, which has one for each worker of the run, this host's; else each host's own."""
    named = device_map.split(",")
    if len(named) == 1:
        before = sum(place.counts[place.rank - place.local_rank : place.rank])  # of those on this machine
        return assign_devices(device_map, len(place.stages), before)
    if len(named) != workers:
        raise ConfigError("device_map", device_map, f"{len(named)} devices for {workers} workers; give one a worker")
    return assign_devices(",".join(named[k] for k in place.stages), len(place.stages))


def _facts(job: Job, prepared: Prepared, settings: dict[str, Any]) -> dict[str, Any]:
    """What must be the same on all hosts, by a name that a person knows."""
    given = {**dataclasses.asdict(job.config), **settings}
    blocks = [f"{name} {list(value.shape)}" for name, value in _weights(prepared).items()]
    return {
        "async_dni": VERSION,
        "torch": torch.__version__.split("+")[0],
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: str(value) for name, value in sorted(given.items()) if name not in OWN},
        "steps": str(prepared.stream.steps),
        "train_set": f"{prepared.stream.samples} samples, first batch {_checksum_of(_first(prepared))}",
        "model": f"{len(blocks)} tensors, {zlib.crc32(' '.join(blocks).encode()):08x}",
        "optimizer": str(prepared.identity["optimizer"]),
    }


def _first(prepared: Prepared) -> list[Tensor]:
    return [*parts_of(prepared.trial.first.x), prepared.trial.first.target]


def _checksum(prepared: Prepared) -> str:
    """Of the network's weights."""
    return _checksum_of(list(_weights(prepared).values()))


def _weights(prepared: Prepared) -> dict[str, Tensor]:
    """Parameters and buffers, without what else a module may keep in its state."""
    return {name: value for name, value in prepared.model.state_dict().items() if isinstance(value, Tensor)}


def _checksum_of(tensors: Sequence[Tensor]) -> str:
    found = 0
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().view(-1)
        found = zlib.crc32(flat.view(torch.uint8).numpy().data if flat.numel() else b"", found)
    return f"{found:08x}"


def _compare(facts: Sequence[dict[str, str]], addresses: Sequence[str]) -> None:
    """Raise `RefusedError`, the same on all hosts, for the first thing in which one differs from the first host."""
    for rank, other in enumerate(facts):
        for name, value in facts[0].items():
            if (found := other.get(name)) != value:
                allowed = f"that is on host {rank} ({addresses[rank]}); allowed, as on host 0: {value}"
                raise RefusedError(name, found, allowed)


def _with_weights_of_first(prepared: Prepared, hosts: Hosts) -> Prepared:
    message = hosts.of_first("weights", lambda: Message("weights", {}, to_bytes(_weights(prepared))))
    if hosts.is_first:
        return prepared
    model = copy_of(prepared.model)
    model.load_state_dict({**model.state_dict(), **from_bytes(message.body)})
    return dataclasses.replace(prepared, model=model)


def agreed_plan(job: Job, prepared: Prepared, hosts: Hosts) -> Plan:
    """The network cut where the first host cuts it; the first, which may measure, does so while the others wait."""
    if hosts.is_first:
        plan = make_plan(job, prepared)
        hosts.of_first("split", lambda: Message("split", {"split": plan.split}))
        return plan
    split = tuple(hosts.of_first("split", lambda: Message("")).values["split"])
    config = dataclasses.replace(job.config, split=split or None)
    return make_plan(dataclasses.replace(job, config=config), prepared)
