import ctypes
import gc
import os
import random
import signal
import threading
import time
from collections import deque
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from async_dni.runtime.fork_server import worker_context
from async_dni.runtime.transport.doorbell import Doorbell
from async_dni.runtime.transport.shared_memory import SharedMemory
from async_dni.runtime.transport.tensor_queue import TensorQueue, TensorSpec

ROWS = 5
SPECS = (TensorSpec(ROWS, (3, 7), torch.float32), TensorSpec(ROWS, (), torch.int64))
PATIENCE = 30  # seconds until a test that would hang fails instead
schedules = settings(deadline=None, derandomize=True, max_examples=150)


@contextmanager
def bells(count):
    doorbells = [Doorbell() for _ in range(count)]
    try:
        yield doorbells
    finally:
        for doorbell in doorbells:
            doorbell.close()


@contextmanager
def a_queue(capacity, specs=SPECS, memory=None):
    with bells(2) as (producer, consumer):
        yield TensorQueue(memory or SharedMemory(), capacity, specs, producer, consumer)


@contextmanager
def running(target, *args):
    process = worker_context().Process(target=target, args=args, daemon=True)
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        process.close()


def content(number, rows=ROWS, specs=SPECS):
    """Tensors that no other message has."""
    generator = torch.Generator().manual_seed(number)
    return [torch.randint(2**20, (rows, *spec.shape), generator=generator).to(spec.dtype) for spec in specs]


def assert_content(message, number, rows=ROWS, specs=SPECS):
    assert message.index == number
    assert message.weight_version == number + 1000
    assert len(message.tensors) == len(specs)
    for tensor, expected in zip(message.tensors, content(number, rows, specs), strict=True):
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)


def rows_of(number):
    """Every third batch is small."""
    return 1 + number % ROWS if number % 3 == 2 else ROWS


def rings(doorbell):
    """Whether the doorbell was rung, waiting for nothing; takes the rings."""
    rung = bool(doorbell._poll.poll(0))
    doorbell.wait(0)
    return rung


def work(rng):
    """A random amount of it."""
    for _ in range(rng.choice([0, 0, 1, 5, 40])):
        torch.ones(40, 40) @ torch.ones(40, 40)


# Processes


def echo(inbox, outbox, doorbell, seed):
    """Send every message back, until the last."""
    torch.set_num_threads(1)
    rng = random.Random(seed)
    while True:
        message = inbox.take()
        if message is None:
            doorbell.wait(PATIENCE)
            continue
        work(rng)
        while not outbox.has_room():
            doorbell.wait(PATIENCE)
        outbox.put(message.index, message.weight_version, *message.tensors)
        inbox.release()
        if not message.tensors:
            return


def take_and_hold(queue, doorbell, count, taken):
    """Take some messages and release none."""
    held = []
    while len(held) < count:
        message = queue.take()
        if message is None:
            doorbell.wait(PATIENCE)
        else:
            held.append(message)
    taken.send([message.index for message in held])
    threading.Event().wait()


def consume(queue, doorbell, results):
    """Report and release every message, until the last."""
    while True:
        message = queue.take()
        if message is None:
            doorbell.wait(PATIENCE)
            continue
        results.send((message.index, [tensor.tolist() for tensor in message.tensors]))
        queue.release()
        if not message.tensors:
            return


def ring_once(doorbell):
    doorbell.ring()


def receive(connection):
    assert connection.poll(PATIENCE), "nothing came"
    return connection.recv()


# Schedules of one process, against a deque


@given(
    capacity=st.integers(1, 4),
    schedule=st.lists(st.sampled_from(["put", "put", "take", "take", "release", "release"]), max_size=60),
    rows=st.lists(st.integers(1, ROWS), min_size=60, max_size=60),
)
@schedules
def test_a_queue_is_a_bounded_deque(capacity, schedule, rows):
    with a_queue(capacity) as queue:
        waiting, held, put = deque(), deque(), 0
        for action in schedule:
            if action == "put" and len(waiting) + len(held) < capacity:
                queue.put(put, put + 1000, *content(put, rows[put]))
                waiting.append(put)
                put += 1
            elif action == "put":
                with pytest.raises(BufferError, match="full"):
                    queue.put(put, put + 1000, *content(put))
            elif action == "take" and waiting:
                number = waiting.popleft()
                held.append((number, queue.take()))
            elif action == "take":
                assert queue.take() is None
            elif held:
                queue.release()
                held.popleft()
            else:
                with pytest.raises(BufferError, match="no message is taken"):
                    queue.release()
            for number, message in held:  # in place: nobody may have written there
                assert_content(message, number, rows[number])
            assert len(queue) == len(waiting)
            assert queue.has_room() == (len(waiting) + len(held) < capacity)


@given(capacity=st.integers(1, 4), messages=st.integers(0, 9), seed=st.integers(0, 1000))
@schedules
def test_a_stream_arrives_whole_and_in_order_before_its_end(capacity, messages, seed):
    rng, arrived, put = random.Random(seed), [], 0
    with a_queue(capacity) as queue:
        while len(arrived) <= messages:
            if rng.random() < 0.5 and put <= messages and queue.has_room():
                queue.put(put, put + 1000, *(content(put, rows_of(put)) if put < messages else ()))
                put += 1
            if rng.random() < 0.5 and (message := queue.take()) is not None:
                arrived.append(message.index)
                assert_content(message, message.index, rows_of(message.index), SPECS if message.tensors else ())
                assert bool(message.tensors) == (message.index < messages)
                queue.release()
        assert queue.take() is None
        assert arrived == list(range(messages + 1))


@given(
    capacity=st.integers(1, 4),
    rows=st.integers(1, 9),
    shapes=st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bfloat16]),
    before=st.integers(0, 7),
)
@schedules
def test_every_tensor_starts_on_a_cache_line_and_shares_none(capacity, rows, shapes, dtype, before):
    specs = [TensorSpec(rows, tuple(shape), dtype) for shape in shapes]
    memory = worker_context()  # whose arrays start on 8-byte boundaries
    other = memory.RawArray(ctypes.c_byte, 8 * before + 1)  # what the queue's memory comes after
    with a_queue(capacity, specs, memory) as queue:
        spans = []
        for number in range(capacity):
            queue.put(number, number + 1000, *content(number, rows, specs))
        for _ in range(capacity):
            for tensor in queue.take().tensors:
                assert tensor.data_ptr() % 64 == 0
                assert tensor.is_contiguous()
                spans.append((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes))
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    del other


# Messages


def test_messages_are_in_place_until_released():
    with a_queue(1) as queue:  # of two slots
        queue.put(0, 1000, *content(0))
        message = queue.take()
        address = message.tensors[0].data_ptr()
        queue.release()
        queue.put(1, 1001, *content(1))
        assert torch.equal(message.tensors[0], content(0)[0])
        queue.take()
        queue.release()
        queue.put(2, 1002, *content(2))
        assert queue.take().tensors[0].data_ptr() == address
        assert torch.equal(message.tensors[0], content(2)[0])


def test_the_last_message_is_remembered_while_the_next_is_filled():
    with a_queue(1) as queue:
        assert queue.last_index is None
        queue.put(7, 1000, *content(0))
        queue.take()
        queue.release()
        queue._words[queue._header(1)] = 8  # a producer that dies here has not put message 8
        assert queue.last_index == 7


def test_a_message_holds_copies_of_the_producers_tensors():
    with a_queue(2) as queue:
        tensors = content(0)
        queue.put(0, 1000, *tensors)
        for tensor in tensors:
            tensor.zero_()
        assert_content(queue.take(), 0)


def test_tensors_need_not_be_contiguous_nor_without_a_graph():
    with a_queue(1, [TensorSpec(4, (3,), torch.float32)]) as queue:
        tensor = torch.randn(3, 4, requires_grad=True).t()
        with torch.no_grad():
            queue.put(0, 0, tensor)
        (taken,) = queue.take().tensors
        assert torch.equal(taken, tensor)
        assert not taken.requires_grad


def test_a_message_says_when_it_was_sent():
    with a_queue(1) as queue:
        before = time.monotonic()
        queue.put(0, 0, *content(0))
        assert before - 1e-6 <= queue.take().sent_at <= time.monotonic() + 1e-6


def test_indices_and_versions_are_kept_to_64_bits():
    with a_queue(1) as queue:
        queue.put(2**62, 2**61, *content(0))
        message = queue.take()
        assert (message.index, message.weight_version) == (2**62, 2**61)


def test_a_spec_is_that_of_the_tensor():
    spec = TensorSpec.like(torch.zeros(2, 3, 4, dtype=torch.float64), rows=7)
    assert spec == TensorSpec(7, (3, 4), torch.float64)
    assert spec.nbytes == 704  # 672 rounded up to cache lines


def test_a_queue_begins_empty_though_memory_is_used_again():
    for _ in range(2):
        with a_queue(2) as queue:
            assert len(queue) == 0
            assert queue.take() is None
            queue.put(0, 1000, *content(0))
        del queue
        gc.collect()


# Errors


@pytest.mark.parametrize(
    "tensors",
    [
        (torch.zeros(ROWS, 3, 6), torch.zeros(ROWS, dtype=torch.int64)),
        (torch.zeros(ROWS, 21), torch.zeros(ROWS, dtype=torch.int64)),
        (torch.zeros(ROWS, 3, 7, dtype=torch.float64), torch.zeros(ROWS, dtype=torch.int64)),
        (torch.zeros(ROWS, 3, 7), torch.zeros(ROWS, dtype=torch.int32)),
        (torch.zeros(ROWS + 1, 3, 7), torch.zeros(ROWS + 1, dtype=torch.int64)),
        (torch.zeros(ROWS, 3, 7), torch.zeros(ROWS - 1, dtype=torch.int64)),
        (torch.zeros(ROWS, 3, 7),),
        (torch.zeros(ROWS, 3, 7), torch.zeros(ROWS, dtype=torch.int64), torch.zeros(ROWS)),
        (torch.tensor(1.0), torch.zeros(ROWS, dtype=torch.int64)),
    ],
    ids=["shape", "flat", "dtype", "second-dtype", "too-many-rows", "rows-differ", "too-few", "too-many", "scalar"],
)
def test_a_message_that_does_not_fit_is_refused_and_nothing_is_sent(tensors):
    with a_queue(1) as queue:
        with pytest.raises(ValueError):  # noqa: PT011 - zip's own where the number of tensors differs
            queue.put(0, 0, *tensors)
        assert len(queue) == 0
        assert queue.take() is None
        assert queue.has_room()
        assert not rings(queue._consumer)
        queue.put(1, 1001, *content(1))
        assert_content(queue.take(), 1)


def test_an_error_says_what_was_expected_and_what_came():
    with a_queue(1) as queue, pytest.raises(ValueError, match=r"batch 8.*up to 5 rows of \[3, 7\].*got \[5, 2\]"):
        queue.put(8, 0, torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64))


def test_a_put_that_finds_no_room_changes_nothing():
    with a_queue(1) as queue:
        queue.put(0, 1000, *content(0))
        with pytest.raises(BufferError, match="queue of 1 is full"):
            queue.put(1, 1001, *content(1))
        assert_content(queue.take(), 0)
        with pytest.raises(BufferError):  # it is taken, but not released
            queue.put(1, 1001, *content(1))
        assert queue.take() is None


# Doorbells


def test_a_put_rings_the_consumer_and_a_release_the_producer():
    with a_queue(1) as queue:
        queue.put(0, 0, *content(0))
        assert rings(queue._consumer)
        assert not rings(queue._producer)
        queue.take()
        assert not rings(queue._producer)
        queue.release()
        assert rings(queue._producer)
        assert not rings(queue._consumer)


def test_rings_before_a_wait_are_not_lost_and_are_taken_together():
    with bells(1) as (doorbell,):
        for _ in range(3):
            doorbell.ring()
        waiter = threading.Thread(target=doorbell.wait, args=(10 * PATIENCE,), daemon=True)
        waiter.start()
        waiter.join(PATIENCE)
        assert not waiter.is_alive()
        assert not rings(doorbell)


def test_a_ring_wakes_who_waits():
    with bells(1) as (doorbell,):
        waiter = threading.Thread(target=doorbell.wait, args=(10 * PATIENCE,), daemon=True)
        waiter.start()
        doorbell.ring()
        waiter.join(PATIENCE)
        assert not waiter.is_alive()


def test_a_ring_from_another_process_arrives():
    with bells(1) as (doorbell,), running(ring_once, doorbell) as process:
        process.join(PATIENCE)
        assert process.exitcode == 0
        assert rings(doorbell)


def test_a_ring_into_a_full_pipe_does_not_block():
    with bells(1) as (doorbell,):
        for _ in range(70_000):  # a pipe holds 65,536
            doorbell.ring()
        assert rings(doorbell)


def test_a_wait_ends_without_a_ring():
    with bells(1) as (doorbell,):
        doorbell.wait(0.01)
        doorbell.wait(0)


# Two processes


@pytest.mark.parametrize("capacity", [1, 3])
def test_a_stream_comes_back_from_another_process(capacity):
    messages, rng = 60, random.Random(capacity)
    with bells(2) as (mine, theirs):
        down = TensorQueue(SharedMemory(), capacity, SPECS, mine, theirs)
        up = TensorQueue(SharedMemory(), capacity, SPECS, theirs, mine)
        with running(echo, down, up, theirs, capacity + 1) as process:
            sent = came = 0
            while came <= messages:
                if sent <= messages and down.has_room():
                    down.put(sent, sent + 1000, *(content(sent, rows_of(sent)) if sent < messages else ()))
                    sent += 1
                elif (message := up.take()) is not None:
                    assert_content(message, came, rows_of(came), SPECS if came < messages else ())
                    work(rng)
                    up.release()
                    came += 1
                else:
                    mine.wait(1)
                    assert process.is_alive() or len(up), f"the echo ended after {came} messages"
            process.join(PATIENCE)
            assert process.exitcode == 0
        assert up.take() is None
        assert down.has_room()


def test_messages_of_a_killed_consumer_are_taken_again_by_the_next():
    context = worker_context()
    with a_queue(3) as queue:
        for number in range(3):
            queue.put(number, number + 1000, *content(number))
        receiver, sender = context.Pipe(duplex=False)
        with receiver, sender, running(take_and_hold, queue, queue._consumer, 2, sender) as process:
            assert receive(receiver) == [0, 1]
            os.kill(process.pid, signal.SIGKILL)
            process.join(PATIENCE)
            assert process.exitcode == -signal.SIGKILL
            assert not queue.has_room()
            with pytest.raises(BufferError):
                queue.put(3, 1003, *content(3))

        receiver, sender = context.Pipe(duplex=False)
        with receiver, sender, running(consume, queue, queue._consumer, sender) as process:
            for number in range(3):
                assert receive(receiver) == (number, [tensor.tolist() for tensor in content(number)])
            while not queue.has_room():
                queue._producer.wait(PATIENCE)
            queue.put(3, 1003)
            assert receive(receiver) == (3, [])
            process.join(PATIENCE)
            assert process.exitcode == 0


def test_what_is_put_into_a_closed_queue_goes_nowhere():
    with a_queue(1) as queue:
        queue.put(0, 1000, *content(0))
        assert not queue.has_room()
        queue.close()
        assert queue.has_room()
        queue.put(1, 1001, *content(1))
        assert queue.last_index == 0
        assert queue.in_flight == 1


def test_what_a_killed_consumer_had_released_does_not_come_again():
    context = worker_context()
    with a_queue(2) as queue:
        for number in range(5):
            while not queue.has_room():
                queue.take()
                queue.release()
            queue.put(number, number + 1000, *content(number))
        receiver, sender = context.Pipe(duplex=False)
        for count in (1, 2):  # each is killed with what it holds
            with running(take_and_hold, queue, queue._consumer, count, sender) as process:
                assert receive(receiver) == [3, 4][:count]
                os.kill(process.pid, signal.SIGKILL)
                process.join(PATIENCE)
        receiver.close()
        sender.close()
