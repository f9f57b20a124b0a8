"""Links between hosts, and what hosts tell each other: over a network that takes messages over in an order that a seed fixes."""

from __future__ import annotations

import copy
import itertools
import select
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue

import pytest
import torch
from local_transport import LocalTransport, Network

from async_dni.runtime.hosts.wire.conversation import PIECE, Conversation, Message
from async_dni.runtime.hosts.wire.link import Link, LinkEnd
from async_dni.runtime.hosts.wire.watch import Watch
from async_dni.runtime.transport.doorbell import Doorbell
from async_dni.runtime.transport.shared_memory import SharedMemory
from async_dni.runtime.transport.tensor_queue import TensorQueue, TensorSpec

ROWS, PATIENCE = 4, 30.0
DOWN = (TensorSpec(ROWS, (3,), torch.float32), TensorSpec(ROWS, (), torch.int64))
UP = (TensorSpec(ROWS, (3,), torch.float32),)


@dataclass
class Host:
    """The worker's ends of the queues of a link, and what it was told of the peer."""

    out: TensorQueue | None
    into: TensorQueue | None
    bell: Doorbell  # the worker's
    link: Link
    lost: SimpleQueue[str] = field(default_factory=SimpleQueue)

    def take(self) -> object:
        """The next message, when it is there."""
        assert self.into is not None
        deadline = time.monotonic() + PATIENCE
        while (message := self.into.take()) is None:
            assert time.monotonic() < deadline, "nothing came"
            self.bell.wait(0.1)
        return message

    def wait_for_room(self) -> None:
        assert self.out is not None
        deadline = time.monotonic() + PATIENCE
        while not self.out.has_room():
            assert time.monotonic() < deadline, "no slot was given back"
            self.bell.wait(0.1)


@contextmanager
def two_hosts(
    capacity: int, seed: int = 0, beat: float = 1.0, gradients: bool = True, opened: tuple[int, ...] = (0, 1)
) -> Iterator[tuple[Network, Host, Host]]:
    """A link between two: host 0's stage sends activations, host 1's gradients."""
    with ExitStack() as stack:
        network = stack.enter_context(Network(2, seed))
        hosts = []
        for rank in range(2):
            bell, links_bell = stack.enter_context(closing(Doorbell())), Doorbell()
            memory = SharedMemory()
            out = into = None
            if rank == 0 or gradients:
                out = TensorQueue(memory, capacity, UP if rank else DOWN, producer=bell, consumer=links_bell)
            if rank == 1 or gradients:
                into = TensorQueue(memory, capacity, DOWN if rank else UP, producer=links_bell, consumer=bell)
            lost: SimpleQueue[str] = SimpleQueue()
            transport = LocalTransport(network, rank)
            link = Link(transport, 1 - rank, LinkEnd(out, into, links_bell), beat, lambda _, why, q=lost: q.put(why))
            hosts.append(Host(out, into, bell, link, lost))
        for rank in opened:
            hosts[rank].link.open()
        yield network, hosts[0], hosts[1]
        for host in hosts:
            host.link.end()
        for rank in range(2):
            network.lose(rank)
        for host in hosts:
            host.link.close()


def rows_of(index: int) -> int:
    """Of a batch: some are short."""
    return ROWS if index % 3 else 1 + index % ROWS


def activation(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = rows_of(index)
    return torch.full((rows, 3), float(index)) + torch.arange(3.0), torch.full((rows,), index)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_messages_come_once_whole_and_in_order_both_ways(capacity: int, seed: int) -> None:
    with two_hosts(capacity, seed) as (network, first, second):
        assert first.out is not None
        assert second.out is not None
        assert second.into is not None
        assert first.into is not None
        learnt = []

        def answer() -> None:
            assert second.out is not None
            assert second.into is not None
            for index in range(40):
                message = second.take()
                assert message.index == index
                assert [part.tolist() for part in message.tensors] == [part.tolist() for part in activation(index)]
                assert len(second.into) <= capacity
                second.wait_for_room()
                if index % 5 == 4:
                    second.out.put(index, 7)  # none comes
                else:
                    second.out.put(index, 7, -message.tensors[0])
                second.into.release()

        other = threading.Thread(target=answer)
        other.start()
        for index in range(40):
            while not first.out.has_room():
                _learn(first, learnt)
            assert first.out.in_flight < capacity
            first.out.put(index, index, *activation(index))
        while len(learnt) < 40:  # one that waits goes on taking gradients
            _learn(first, learnt)
        other.join()
        assert learnt == [[] if i % 5 == 4 else (-activation(i)[0]).tolist() for i in range(40)]
        assert first.lost.empty()
        assert second.lost.empty()


def _learn(host: Host, learnt: list[object]) -> None:
    assert host.into is not None
    if (message := host.into.take()) is None:
        host.bell.wait(0.1)
        return
    assert message.index == len(learnt)
    learnt.append(message.tensors[0].tolist() if message.tensors else [])
    host.into.release()


@pytest.mark.parametrize("capacity", [1, 3])
def test_a_slot_is_given_back_only_when_the_consumer_has_given_back_its_own(capacity: int) -> None:
    with two_hosts(capacity) as (_, first, second):
        assert first.out is not None
        assert second.into is not None
        for index in range(capacity):
            first.out.put(index, 0, *activation(index))
        taken = [second.take() for _ in range(capacity)]
        assert [message.index for message in taken] == list(range(capacity))
        time.sleep(0.05)
        assert not first.out.has_room()
        second.into.release()
        first.wait_for_room()
        assert first.out.in_flight == capacity - 1
        assert first.out.last_index == capacity - 1


def test_what_a_consumer_had_in_hand_is_there_for_the_one_in_its_place() -> None:
    with two_hosts(3) as (_, first, second):
        assert first.out is not None
        for index in range(3):
            first.out.put(index, 0, *activation(index))
        second.take()
        assert second.into is not None
        second.into.release()
        second.take()
        heir = copy.copy(second.into)  # as a worker that is started again has it
        heir.__setstate__(second.into.__getstate__())
        assert heir.take().index == 1
        heir.release()
        first.wait_for_room()


def test_a_closed_queue_is_closed_for_the_producer() -> None:
    with two_hosts(1) as (_, first, second):
        assert first.out is not None
        assert second.into is not None
        first.out.put(0, 0, *activation(0))
        second.take()
        second.into.close()
        first.wait_for_room()
        assert first.out.is_closed
        first.out.put(1, 0, *activation(1))  # goes nowhere


def test_without_gradients_activations_go_down() -> None:
    with two_hosts(2, gradients=False) as (_, first, second):
        assert first.out is not None
        assert second.into is not None
        for index in range(6):
            first.wait_for_room()
            first.out.put(index, 0, *activation(index))
            assert second.take().index == index
            second.into.release()


def test_nothing_is_sent_that_was_not_posted_for() -> None:
    """No more data waits for a receive than what the sender's ring holds beyond the receiver's: nothing, here."""
    with two_hosts(3) as (network, first, second):
        assert first.out is not None
        deadline = time.monotonic() + PATIENCE
        while network.messages < 2 and time.monotonic() < deadline:  # both ends are there
            time.sleep(0.01)
        network.most_unreceived = 0
        for index in range(3):
            first.out.put(index, 0, *activation(index))
            second.take()
        assert network.most_unreceived == 0


def test_a_peer_that_goes_is_told_by_name() -> None:
    with two_hosts(2) as (network, first, _):
        network.lose(1)
        assert first.lost.get(timeout=PATIENCE) == "has gone"


def test_a_peer_with_nothing_to_send_shows_that_it_is_there() -> None:
    with two_hosts(2, beat=0.05) as (network, first, second):
        deadline = time.monotonic() + PATIENCE
        while network.messages < 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert network.messages >= 20  # signs of life, and nothing else
        assert first.lost.empty()
        assert second.lost.empty()


def test_after_the_end_nobody_is_lost() -> None:
    with two_hosts(2) as (network, first, second):
        first.link.end()
        network.lose(1)
        for thread in first.link._threads:
            thread.join(0.2)
        assert first.lost.empty()


def test_after_the_end_it_still_shows_that_it_is_there() -> None:
    with two_hosts(2, beat=0.05) as (network, first, second):
        first.link.end()
        second.link.end()
        before, deadline = network.messages, time.monotonic() + PATIENCE
        while network.messages < before + 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert network.messages >= before + 20


def test_threads_that_nothing_wakes_do_not_hold_the_end_up() -> None:
    """As where a peer died with a message half on its way, which gloo waits for for ever."""
    with two_hosts(2) as (_, first, second):
        first.link.close()
        assert any(thread.is_alive() for thread in first.link._threads)
        second.link.close()


def test_a_closed_doorbell_rings_nobody() -> None:
    bell = Doorbell()
    bell.close()
    with closing(Doorbell()) as other:  # which has the descriptors
        bell.ring()
        bell.close()
        bell.wait(0)
        assert not select.select([other.fileno()], [], [], 0)[0]


# Conversations.


@contextmanager
def talking(seed: int = 0, beat: float = 1.0, opened: tuple[int, ...] = (0, 1)) -> Iterator[list[object]]:
    with Network(2, seed) as network:
        heard: list[SimpleQueue[Message]] = [SimpleQueue(), SimpleQueue()]
        lost: SimpleQueue[tuple[int, str]] = SimpleQueue()
        ends = [
            Conversation(
                LocalTransport(network, rank),
                1 - rank,
                beat,
                lambda _, message, rank=rank: heard[rank].put(message),
                lambda peer, why: lost.put((peer, why)),
            )
            for rank in range(2)
        ]
        for rank in opened:
            ends[rank].open()
        yield [network, ends, heard, lost]
        for end in ends:
            end.end()
        for rank in range(2):
            network.lose(rank)
        for rank in opened:
            ends[rank].close()


@pytest.mark.parametrize("seed", range(3))
def test_messages_of_any_size_come_whole_and_in_order(seed: int) -> None:
    sizes = [0, 1, PIECE - 20, PIECE, PIECE + 1, 3 * PIECE + 5, 0]
    bodies = [bytes([number]) * size for number, size in enumerate(sizes)]
    with talking(seed) as (_, ends, heard, _lost):
        for number, body in enumerate(bodies):
            ends[0].send("cut", body, number=number, named="é")
            ends[1].send("ready", number=number)
        for number, body in enumerate(bodies):
            message = heard[1].get(timeout=PATIENCE)
            assert (message.kind, message.values, message.body) == ("cut", {"number": number, "named": "é"}, body)
            assert heard[0].get(timeout=PATIENCE).values == {"number": number}
        ends[0].say_bye(PATIENCE)
        assert heard[1].get(timeout=PATIENCE).kind == "bye"


def test_one_who_has_nothing_to_say_shows_that_it_is_there() -> None:
    with talking(beat=0.05) as (network, _ends, _heard, lost):
        deadline = time.monotonic() + PATIENCE
        while network.messages < 12 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert network.messages >= 12
        assert lost.empty()


# Silence.


class Speaking:
    def __init__(self) -> None:
        self.count = itertools.count()

    @property
    def heard(self) -> int:
        return next(self.count)


class Silent:
    heard = 7


def test_who_says_nothing_is_lost_once_and_who_speaks_is_not() -> None:
    lost: SimpleQueue[tuple[int, str]] = SimpleQueue()
    watch = Watch(0.2, lambda peer, why: lost.put((peer, why)))
    watch.add(1, Speaking())
    watch.add(2, Silent())
    assert lost.get(timeout=PATIENCE) == (2, "has said nothing for 0.2 seconds")
    time.sleep(0.5)
    watch.close()
    assert lost.empty()
