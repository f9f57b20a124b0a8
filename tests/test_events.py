"""The event pipe: whole events, in order, whatever the sender's state."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading

import pytest

from async_dni.runtime.events import Cut, EventReceiver, Ready, Recorded, send_event


@pytest.fixture
def pipe():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    yield EventReceiver(receiver), sender
    receiver.close()
    sender.close()


def test_events_come_in_order(pipe) -> None:
    receiver, sender = pipe
    events = [Ready(1), Recorded({"step": 2}), Ready(3)]
    for event in events:
        send_event(sender, event)
    assert list(receiver.receive()) == events
    assert list(receiver.receive()) == []
    assert not receiver.closed


def test_an_event_larger_than_the_pipe_comes_whole(pipe) -> None:
    receiver, sender = pipe
    cut = Cut(7, True, False, os.urandom(3_000_000))
    thread = threading.Thread(target=send_event, args=(sender, cut))
    thread.start()
    received: list[object] = []
    while not received:
        multiprocessing.connection.wait([receiver])
        received += receiver.receive()
    thread.join()
    assert received == [cut]


def test_half_an_event_is_not_waited_for(pipe) -> None:
    receiver, sender = pipe
    message = pickle.dumps(Ready(5))
    whole = len(message).to_bytes(8, "little") + message
    for byte in whole[:-1]:
        os.write(sender.fileno(), bytes([byte]))
        assert list(receiver.receive()) == []
    os.write(sender.fileno(), whole[-1:])
    assert list(receiver.receive()) == [Ready(5)]


def test_what_a_dead_sender_left_is_received_and_half_an_event_dropped(pipe) -> None:
    receiver, sender = pipe
    send_event(sender, Ready(1))
    os.write(sender.fileno(), (100).to_bytes(8, "little") + b"half")
    sender.close()
    assert list(receiver.receive()) == [Ready(1)]
    assert receiver.closed


def test_a_sender_is_told_that_the_receiver_has_gone(pipe) -> None:
    receiver, sender = pipe
    receiver.close()
    with pytest.raises(BrokenPipeError):
        send_event(sender, Ready(1))
