"""Hosts meet, agree and part: threads of this process that are hosts, over gloo and a store on this machine."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from async_dni import ConfigError, HostError
from async_dni.runtime.hosts.group import Group, Hosts, RefusedError, joined
from async_dni.runtime.hosts.meeting import KEY, _store, meet
from async_dni.runtime.hosts.place import Place, check_split, shared_out
from async_dni.runtime.hosts.torchrun import HostEnvironment
from async_dni.runtime.hosts.wire.conversation import Message
from async_dni.runtime.hosts.wire.gloo import interface_of, local_address

PATIENCE = 30.0


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def environments(size: int, **others: Any) -> list[HostEnvironment]:
    port = free_port()
    return [HostEnvironment(rank, size, "127.0.0.1", port, **others) for rank in range(size)]


def each(do: Callable[[HostEnvironment], object], hosts: list[HostEnvironment]) -> list[object]:
    """What it returns or raises for each, in threads at the same time."""
    found: list[object] = [None] * len(hosts)

    def run(place: int) -> None:
        try:
            found[place] = do(hosts[place])
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(hosts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def together(do: Callable[[Hosts], object], size: int = 2, link_timeout: float = PATIENCE) -> list[object]:
    """What it returns or raises on each host of a group."""

    def run(environment: HostEnvironment) -> object:
        with joined(environment, PATIENCE, link_timeout) as hosts:
            return do(hosts)

    return each(run, environments(size))


# torchrun's variables.

SAID = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}


def test_what_torchrun_says_is_read() -> None:
    more = {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "4"}
    read = HostEnvironment.read({**SAID, **more, "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert read == HostEnvironment(1, 3, "here", 29500, 1, 2, 4, True)
    assert HostEnvironment.read(SAID) == HostEnvironment(1, 3, "here", 29500)


@pytest.mark.parametrize("missing", SAID)
def test_without_torchrun_there_is_nothing_to_read(missing: str) -> None:
    assert HostEnvironment.read({**SAID, missing: ""}) is None


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("RANK", "one", "RANK: got one; allowed: a whole number of at least 0"),
        ("RANK", "3", "RANK: got 3; WORLD_SIZE is 3; allowed: 0 to 2"),
        ("WORLD_SIZE", "0", "WORLD_SIZE: got 0; allowed: a whole number of at least 1"),
        ("MASTER_PORT", "http", "MASTER_PORT: got http; allowed: a whole number of at least 0"),
    ],
)
def test_variables_that_say_no_number_are_refused(name: str, value: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        HostEnvironment.read({**SAID, name: value})
    assert str(refusal.value) == sentence


# Stages for each.


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(0.1, 100.0), min_size=1, max_size=8), st.integers(0, 40))
def test_stages_are_shared_out_by_speed(speeds: list[float], more: int) -> None:
    workers = len(speeds) + more
    counts = shared_out(workers, speeds)
    assert sum(counts) == workers
    assert min(counts) >= 1
    for faster, count in zip(speeds, counts, strict=True):
        for slower, other in zip(speeds, counts, strict=True):
            assert count >= other or faster <= slower or other == 1 or abs(count - other) <= 1
    places = [Place(counts, rank) for rank in range(len(counts))]
    assert [stage for place in places for stage in place.stages] == list(range(workers))
    assert all(places[0].host_of(stage) == place.rank for place in places for stage in place.stages)


def test_twice_as_fast_has_twice_as_many() -> None:
    assert shared_out(6, [2.0, 1.0]) == (4, 2)
    assert shared_out(4, [1.0, 1.04]) == (2, 2)
    assert Place((2, 3), rank=1, local_size=2).workers_beside == 6


@pytest.mark.parametrize(
    ("split", "hosts", "workers", "sentence"),
    [
        (None, 3, 2, "workers: got 2; there are 3 hosts; allowed: at least one worker for each"),
        ((1, 2), 3, 3, "hosts_split: got 1,2; there are 3 hosts; allowed: a number for each"),
    ],
)
def test_workers_that_cannot_be_shared_out(split: Any, hosts: int, workers: int, sentence: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_split(split, hosts, workers)
    assert str(refusal.value) == sentence


# The meeting.


@pytest.mark.parametrize("size", [2, 4])
def test_all_meet(size: int) -> None:
    hosts = [HostEnvironment(**{**vars(one), "restarts": one.rank}) for one in environments(size)]
    meetings = each(lambda environment: meet(environment, PATIENCE), hosts)
    assert [(meeting.addresses, meeting.restarts) for meeting in meetings] == [(["127.0.0.1"] * size, size - 1)] * size


def test_a_host_that_never_comes_is_named() -> None:
    here, there, _ = environments(3)
    first, second = each(lambda environment: meet(environment, 0.5), [here, there])
    assert isinstance(first, HostError)
    assert str(first) == "host 2 did not come within --start-timeout 0.5 seconds"
    assert "waits for others; not all came within --start-timeout 0.5 seconds" in str(second)


def test_a_first_host_that_never_comes_is_named() -> None:
    _, there = environments(2)
    with pytest.raises(
        HostError, match=rf"^host 0 \(127\.0\.0\.1:{there.port}\) can't be reached within --start-timeout 1 "
    ):
        meet(there, 1.0)


def test_hosts_that_were_told_of_other_numbers_refuse_each_other() -> None:
    here, there = environments(2)
    there = HostEnvironment(1, 3, there.address, there.port)
    first, second = each(lambda environment: meet(environment, PATIENCE), [here, there])
    assert str(first) == "WORLD_SIZE: got 2; host 1 (127.0.0.1) was told of 3 hosts; allowed: the same number on all"
    assert str(second) == "WORLD_SIZE: got 3; host 0 (127.0.0.1) was told of 2 hosts; allowed: the same number on all"


def test_a_port_that_is_taken_is_refused() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"^MASTER_PORT: got {port}; nothing can be opened at 127\.0\.0\.1:{port} "
        ):
            meet(HostEnvironment(0, 2, "127.0.0.1", port), 1.0)


def test_an_address_without_a_way_to_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*asked: object, **how: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError) as refusal:
        meet(HostEnvironment(1, 2, "there", 29500), 1.0)
    allowed = "there is no way to it (Name or service not known); allowed: the first host's name or address"
    assert str(refusal.value) == f"MASTER_ADDR: got there; {allowed}"


def test_what_an_earlier_group_has_left_in_the_store_is_no_host() -> None:
    here, there = environments(2)
    left = _store(here, PATIENCE)  # as torchrun's agent keeps it
    left.set(f"{KEY}/hello/1", '{"name": "of a dead one", "size": 5, "address": "there", "restarts": 0}')
    hosts = [HostEnvironment(**{**vars(one), "has_agent_store": True}) for one in (here, there)]
    meetings = each(lambda environment: meet(environment, PATIENCE), hosts)
    assert [meeting.addresses for meeting in meetings] == [["127.0.0.1"] * 2] * 2


def test_the_interface_is_the_one_that_leads_there() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert local_address("127.0.0.1") == "127.0.0.1"


# The group.


def test_each_hears_what_each_says() -> None:
    def talk(hosts: Hosts) -> object:
        said = hosts.exchange("facts", bytes([hosts.rank]), rank=hosts.rank)
        plan = hosts.of_first("plan", lambda: Message("plan", {"split": [1, 2]}, b"state"))
        again = hosts.exchange("facts", rank=10 * hosts.rank)
        return (
            [(message.values["rank"], message.body) for message in said],
            (plan.values, plan.body),
            [message.values["rank"] for message in again],
        )

    heard = ([(0, b"\0"), (1, b"\1"), (2, b"\2")], ({"split": [1, 2]}, b"state"), [0, 10, 20])
    assert together(talk, 3) == [heard] * 3


def test_alone_there_is_nobody_to_ask() -> None:
    with joined(None, 1.0, 1.0) as hosts:
        assert [message.values for message in hosts.exchange("facts", rank=0)] == [{"rank": 0}]
        assert hosts.of_first("plan", lambda: Message("plan", {"split": []})).values == {"split": []}
        assert hosts.place(3) == Place((3,))
        assert hosts.restarts == 0
    with joined(HostEnvironment(0, 1, "here", 1, restarts=2), 1.0, 1.0) as hosts:
        assert (hosts.size, hosts.restarts) == (1, 2)


@pytest.mark.parametrize("refusing", [0, 1, 2])
def test_what_one_host_refuses_all_refuse(refusing: int) -> None:
    def look(hosts: Hosts) -> object:
        if hosts.rank == refusing:
            raise ConfigError("data_dir", "there", "allowed: a folder")
        return hosts.exchange("facts")

    found = together(look, 3)
    assert all(isinstance(error, ConfigError) for error in found)
    for rank, error in enumerate(found):
        where = "" if rank == refusing else f" (on host {refusing}, 127.0.0.1)"
        assert str(error) == f"data_dir: got there; allowed: a folder{where}"
        assert isinstance(error, RefusedError) == (rank != refusing)


def test_a_host_that_goes_without_a_word_is_named_on_all() -> None:
    def look(hosts: Hosts) -> object:
        assert isinstance(hosts, Group)
        if hosts.rank == 2:
            hosts.transport.close()
            raise SystemError
        return hosts.exchange("facts")

    first, second, third = together(look, 3)
    assert str(first) == str(second) == "host 2 (127.0.0.1) has gone: its connection was closed"
    assert isinstance(first, HostError)
    assert isinstance(second, HostError)
    assert isinstance(third, SystemError)


def test_a_host_that_raises_something_of_its_own_is_missed() -> None:
    def look(hosts: Hosts) -> object:
        if hosts.rank == 1:
            raise MemoryError
        return hosts.exchange("facts")

    first, second = together(look)
    assert str(first) == "host 1 (127.0.0.1) has ended before the run was over"
    assert isinstance(second, MemoryError)


def test_clocks_are_brought_together() -> None:
    clocks = together(lambda hosts: hosts.clock)
    for clock in clocks:
        assert abs(clock.monotonic_ns) < 50e6  # one machine's: as far apart as a message may take
        assert abs(clock.seconds) < 0.05


def test_a_program_may_have_groups_one_after_the_other() -> None:
    torch.manual_seed(0)
    for _ in range(2):
        assert together(lambda hosts: len(hosts.exchange("facts"))) == [2, 2]


# What comes, and the end.


def test_what_came_before_a_host_was_lost_is_taken_first() -> None:
    def talk(hosts: Hosts) -> object:
        assert isinstance(hosts, Group)
        if not hosts.is_first:
            hosts.send(0, "snapshots")
            return None  # and parts, before it should
        while hosts._came.qsize() < 2:
            hosts.inbox.wait(0.1)
        assert [message.kind for _, message in hosts.take()] == ["snapshots"]
        with pytest.raises(HostError, match="has ended before the run was over"):
            hosts.take()
        assert hosts.take() == []
        return "all seen"

    assert together(talk) == ["all seen", None]


def test_a_second_group_can_meet_where_the_first_one_did() -> None:
    """The first host's store has gone with its group, though nothing has collected what refers to itself."""
    hosts = environments(2)

    def run(environment: HostEnvironment) -> object:
        with joined(environment, PATIENCE, PATIENCE) as group:
            return [message.values["rank"] for message in group.exchange("who", rank=group.rank)]

    gc.collect()
    gc.disable()
    try:
        assert each(run, hosts) == [[0, 1]] * 2
        assert each(run, hosts) == [[0, 1]] * 2
    finally:
        gc.enable()


def test_signs_of_life_go_out_as_often_as_a_link_timeout_that_is_learnt_later_says() -> None:
    def listen(hosts: Hosts) -> object:
        assert isinstance(hosts, Group)
        hosts.set_link_timeout(1.0)
        (conversation,) = hosts.conversations.values()
        before, deadline = conversation.heard, time.monotonic() + PATIENCE
        while conversation.heard < before + 6 and time.monotonic() < deadline:
            time.sleep(0.05)
        return conversation.heard >= before + 6 or "silent"

    assert together(listen, link_timeout=600.0) == [True, True]
