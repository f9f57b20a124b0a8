"""Hosts meet: each finds the others in the store that torchrun has them share, within a time, or says who did not come.

What stands in the store may be of an earlier group of the same run, which torchrun has started again. So the first host gives
each meeting a name of its own, and answers each of the others by the name that this one has given itself.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from ...foundation.error import ConfigError
from .host_error import HostError
from .torchrun import HostEnvironment
from .wire.gloo import local_address

INTERVAL = 0.05  # seconds between looks into the store
KEY, HERE = "async_dni", "here"


@dataclass(frozen=True)
class Meeting:
    """All hosts have come. `store` is this meeting's own."""

    store: Store
    addresses: list[str]  # by rank
    restarts: int  # the most that torchrun has started one of them again


def meet(environment: HostEnvironment, seconds: float) -> Meeting:
    """Wait until all hosts have come. Raises `HostError` where one does not within so many seconds, and `ConfigError`
    where another was told of another number of hosts."""
    deadline = time.monotonic() + seconds
    try:
        address = local_address(environment.address)
    except OSError as error:
        allowed = f"there is no way to it ({error.strerror}); allowed: the first host's name or address"
        raise ConfigError("MASTER_ADDR", environment.address, allowed) from None
    hello = {
        "name": uuid.uuid4().hex,
        "size": environment.size,
        "address": address,
        "restarts": environment.restarts,
    }
    store = _store(environment, seconds)
    come = _gather if environment.rank == 0 else _join
    try:
        return come(store, environment, hello, deadline, seconds)
    except HostError:
        raise
    except RuntimeError as error:  # of the store
        where = f"{environment.address}:{environment.port}"
        raise HostError(0, where, f"went while hosts met ({_first_line(error)})") from None


def _store(environment: HostEnvironment, seconds: float) -> Store:
    """The first host's store, or its agent's."""
    keeps = environment.rank == 0 and not environment.has_agent_store
    where = f"{environment.address}:{environment.port}"
    try:
        return TCPStore(
            environment.address,
            environment.port,
            is_master=keeps,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
        )
    except (RuntimeError, ValueError) as error:
        if keeps:
            allowed = f"nothing can be opened at {where} ({_first_line(error)}); allowed: an address of this host, a free port"
            raise ConfigError("MASTER_PORT", environment.port, allowed) from None
        what = f"can't be reached within --start-timeout {seconds:g} seconds"
        raise HostError(0, where, what) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _gather(
    store: Store, environment: HostEnvironment, hello: dict[str, object], deadline: float, seconds: float
) -> Meeting:
    """The first host: answer each of the others, and wait for their word that they have the answer."""
    name = hello["name"]
    came: dict[int, dict[str, object]] = {0: hello}
    answered: dict[int, object] = {}
    while len(came) < environment.size:
        for rank in range(1, environment.size):
            if rank in came or not store.check([f"{KEY}/hello/{rank}"]):
                continue
            other = json.loads(store.get(f"{KEY}/hello/{rank}"))
            if answered.get(rank) != other["name"]:
                answered[rank] = other["name"]
                store.set(f"{KEY}/answer/{other['name']}", json.dumps(hello))
            if store.check([word := f"{KEY}/{name}/came/{other['name']}"]):
                if store.get(word).decode() != HERE:
                    _refuse(rank, other, environment)
                came[rank] = other
        missing = next(rank for rank in range(environment.size + 1) if rank not in came)
        if missing < environment.size:
            _wait(deadline, missing, "", f"did not come within --start-timeout {seconds:g} seconds")
    addresses = [str(came[rank]["address"]) for rank in range(environment.size)]
    restarts = max(int(str(each["restarts"])) for each in came.values())
    store.set(f"{KEY}/{name}/all", json.dumps([addresses, restarts]))
    return Meeting(PrefixStore(f"{KEY}/{name}", store), addresses, restarts)


def _join(
    store: Store, environment: HostEnvironment, hello: dict[str, object], deadline: float, seconds: float
) -> Meeting:
    """Another host: ask until the first one answers."""
    where = f"{environment.address}:{environment.port}"
    late = f"did not answer within --start-timeout {seconds:g} seconds"
    store.set(f"{KEY}/hello/{environment.rank}", json.dumps(hello))
    while not store.check([f"{KEY}/answer/{hello['name']}"]):
        _wait(deadline, 0, where, late)
    first = json.loads(store.get(f"{KEY}/answer/{hello['name']}"))
    fits = first["size"] == environment.size
    store.set(f"{KEY}/{first['name']}/came/{hello['name']}", HERE if fits else "not of this size")
    if not fits:
        _refuse(0, first, environment)
    while not store.check([f"{KEY}/{first['name']}/all"]):
        _wait(deadline, 0, where, f"waits for others; not all came within --start-timeout {seconds:g} seconds")
    addresses, restarts = json.loads(store.get(f"{KEY}/{first['name']}/all"))
    return Meeting(PrefixStore(f"{KEY}/{first['name']}", store), addresses, restarts)


def _refuse(rank: int, other: dict[str, object], environment: HostEnvironment) -> NoReturn:
    told = f"host {rank} ({other['address']}) was told of {other['size']} hosts; allowed: the same number on all"
    raise ConfigError("WORLD_SIZE", environment.size, told)


def _wait(deadline: float, rank: int, address: str, what: str) -> None:
    if time.monotonic() > deadline:
        raise HostError(rank, address, what)
    time.sleep(INTERVAL)
