"""All hosts of a run, from the moment that they have met until they part; the first talks with each of the others.

    with joined(HostEnvironment.read(), …) as hosts:
        everyone = hosts.exchange("facts", speed=…)         # what each host has said, by rank
        plan = hosts.of_first("plan", lambda: Message(…))   # what the first one says, on all

A program that torchrun has not started is one host, which talks with nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

from ...foundation.clock import Clock
from ...foundation.error import ConfigError
from ..transport.doorbell import Doorbell
from .host_error import HostError
from .meeting import meet
from .place import Place, shared_out
from .time_agreement import agree_on_time
from .torchrun import HostEnvironment
from .wire.conversation import BYE, Conversation, Message
from .wire.gloo import GlooTransport
from .wire.link import Link, LinkEnd
from .wire.transport import Transport
from .wire.watch import Watch

BEATS = 6  # signs of life in the time after which a silent host is taken for dead
GRACE = 3.0  # seconds in which hosts that give up hear from each other why


class Hosts:
    """One host, alone."""

    rank, size = 0, 1
    addresses: Sequence[str] = ()  # by rank; of one alone, none is known
    clock = Clock()

    def __init__(self, environment: HostEnvironment | None = None) -> None:
        self.environment = environment

    @property
    def restarts(self) -> int:
        """How often torchrun has started this group again."""
        return 0 if self.environment is None else self.environment.restarts

    def place(self, workers: int) -> Place:
        """This host's among them, before it is known how many of the workers it has."""
        counts, environment = shared_out(workers, [1.0] * self.size), self.environment
        if environment is None:
            return Place(counts)
        return Place(counts, self.rank, environment.local_rank, environment.local_size)

    @property
    def is_first(self) -> bool:
        """Whether this is the host that records and evaluates."""
        return self.rank == 0

    def exchange(self, kind: str, body: bytes = b"", **values: Any) -> list[Message]:
        """What each host says, by rank. All must say something of that kind."""
        return [Message(kind, values, body)]

    def of_first(self, kind: str, make: Callable[[], Message]) -> Message:
        """What the first host says: `make` is called there."""
        return make()

    def open_links(self, ends: Mapping[int, LinkEnd]) -> None:
        """Join queues to those of the hosts beside this one, by their ranks."""

    def end_links(self) -> None:
        """Nothing more goes through them."""

    def set_link_timeout(self, seconds: float) -> None:
        """From now on a host that is silent for so long is lost; all hosts call it at about the same time."""


class RefusedError(ConfigError):
    """Another host was refused, and has said so; or all hosts see the same, and need not be told."""


class ToldError(HostError):
    """A host is lost; the first host has said so."""


class Group(Hosts):
    """This host among others."""

    def __init__(self, environment: HostEnvironment, start_timeout: float, link_timeout: float) -> None:
        super().__init__(environment)
        meeting = meet(environment, start_timeout)
        self.rank, self.size = environment.rank, environment.size
        self.addresses, self._restarts, self.link_timeout = meeting.addresses, meeting.restarts, link_timeout
        try:
            self.transport: Transport = GlooTransport(
                meeting.store, self.rank, self.size, environment.address, start_timeout
            )
        except RuntimeError as error:
            said = str(error).splitlines()[0][:200]
            raise HostError(self.rank, self.addresses[self.rank], f"can't connect to the others ({said})") from None
        self.inbox = Doorbell()  # rung when something came
        self._came: SimpleQueue[tuple[int, Message | HostError]] = SimpleQueue()
        self._kept: list[tuple[int, Message]] = []  # that came before it was asked for
        self._error: HostError | ConfigError | None = None  # that came after what was taken
        self._lost: set[int] = set()
        self._links: list[Link] = []
        peers = range(1, self.size) if self.is_first else range(1)
        self.conversations = {
            peer: Conversation(self.transport, peer, link_timeout / BEATS, self._on_message, self.on_lost)
            for peer in peers
        }
        self._watch = Watch(link_timeout, self.on_lost)
        for peer, conversation in self.conversations.items():
            conversation.open()
            self._watch.add(peer, conversation)

    @property
    def restarts(self) -> int:
        return self._restarts

    def open(self) -> None:
        """Once they hear each other: compare clocks."""
        self.clock = self._agree_on_time()

    def set_link_timeout(self, seconds: float) -> None:
        self.link_timeout = seconds
        for conversation in self.conversations.values():
            conversation.set_beat(seconds / BEATS)
        self._watch.set_timeout(seconds)

    @property
    def passed(self) -> int:
        """Pieces of messages that went or came so far."""
        return sum(conversation.passed for conversation in self.conversations.values())

    # What comes, by threads of the conversations and links.

    def _on_message(self, peer: int, message: Message) -> None:
        early = HostError(peer, self.addresses[peer], "has ended before the run was over")
        self._came.put((peer, early if message.kind == BYE else message))
        self.inbox.ring()

    def on_lost(self, peer: int, what: str) -> None:
        """A host is gone, or silent."""
        self._lost.add(peer)
        self._came.put((peer, HostError(peer, self.addresses[peer], what)))
        self.inbox.ring()

    # What is said.

    def send(self, peer: int, kind: str, body: bytes = b"", **values: Any) -> None:
        """Tell a host something."""
        self.conversations[peer].send(kind, body, **values)

    def send_all(self, kind: str, body: bytes = b"", but: Collection[int] = (), **values: Any) -> None:
        """Tell something to every host that this one talks with, but for some."""
        for peer in self.conversations.keys() - set(but):
            self.send(peer, kind, body, **values)

    def take(self) -> list[tuple[int, Message]]:
        """What came since the last call. Raises `HostError` where a host is lost, `RefusedError` where one was refused: when
        all that came before was taken."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        found, self._kept = self._kept, []
        self.inbox.wait(0)
        try:
            while True:
                peer, what = self._came.get_nowait()
                found.append((peer, self._checked(peer, what)))
        except Empty:
            return found
        except (HostError, ConfigError) as error:
            if not found:
                raise
            self._error = error
            self.inbox.ring()
            return found

    def put_back(self, came: Iterable[tuple[int, Message]]) -> None:
        """Take again, first, what was taken."""
        self._kept = [*came, *self._kept]

    def _checked(self, peer: int, what: Message | HostError) -> Message:
        if isinstance(what, HostError):
            raise what
        if what.kind == "lost":
            self.send_all("lost", but=[peer, what.values["host"]], **what.values)
            raise ToldError(what.values["host"], what.values["address"], what.values["what"])
        if what.kind == "refused":
            self.send_all("refused", but=[peer], **what.values)
            raise RefusedError(what.values["setting"], what.values["given"], what.values["allowed"])
        return what

    def _wait_for(self, kind: str, peers: Collection[int]) -> dict[int, Message]:
        """What each of these hosts says of this kind."""
        found: dict[int, Message] = {}
        while True:
            for peer, message in self.take():
                if message.kind == kind and peer in peers and peer not in found:
                    found[peer] = message
                else:
                    self._kept.append((peer, message))
            if len(found) == len(peers):
                return found
            self.inbox.wait(1.0)

    def exchange(self, kind: str, body: bytes = b"", **values: Any) -> list[Message]:
        own = Message(kind, values, body)
        if not self.is_first:
            self.send(0, kind, body, **values)
            return [
                self._wait_for(f"{kind} of {rank}", [0])[0] if rank != self.rank else own for rank in range(self.size)
            ]
        said = {0: own, **self._wait_for(kind, list(self.conversations))}
        for rank, message in sorted(said.items()):
            self.send_all(f"{kind} of {rank}", message.body, but=[rank], **message.values)
        return [said[rank] for rank in range(self.size)]

    def of_first(self, kind: str, make: Callable[[], Message]) -> Message:
        if not self.is_first:
            return self._wait_for(kind, [0])[0]
        message = make()
        self.send_all(kind, message.body, **message.values)
        return message

    def _agree_on_time(self) -> Clock:
        """How far the first host's clocks are ahead of this machine's: of several answers, by the fastest."""
        return agree_on_time(self.is_first, self.size, self.send, lambda kind, peer: self._wait_for(kind, [peer])[peer])

    def open_links(self, ends: Mapping[int, LinkEnd]) -> None:
        self.exchange("wired")
        for peer, end in ends.items():
            link = Link(self.transport, peer, end, self.link_timeout / BEATS, self.on_lost)
            self._links.append(link)
            link.open()
            self._watch.add(peer, link)

    # The end.

    def end_links(self) -> None:
        for link in self._links:
            link.end()

    def refuse(self, error: ConfigError) -> None:
        """Tell the others that a setting was refused here."""
        allowed = f"{error.allowed} (on host {self.rank}, {self.addresses[self.rank]})"
        self.send_all("refused", setting=error.setting, given=error.shown, allowed=allowed)

    def tell_lost(self, error: HostError) -> None:
        """Tell the others which host is lost."""
        self.send_all("lost", but=self._lost, host=error.host, address=error.address, what=error.what)

    def part(self, seconds: float) -> None:
        """Say that nothing more comes, and wait until the others have said so, or nothing came of them or went to them for so
        many seconds; then close all connections.

        The first host waits for the others, and has the last word: so nobody closes what another still needs.
        """
        self.end_links()
        heard = [conversation for peer, conversation in self.conversations.items() if peer not in self._lost]
        if not self.is_first:
            _say_bye(heard, seconds)
        for conversation in heard:
            conversation.wait_for_bye(seconds)
        if self.is_first:
            _say_bye(heard, seconds)
        for conversation in self.conversations.values():
            conversation.end()
        self._watch.close()
        self.transport.close()
        for link in self._links:
            link.close()
        for conversation in self.conversations.values():
            conversation.close()
        self.inbox.close()
        self.conversations, self._links = {}, []  # what they had under way holds the store


def _say_bye(conversations: Collection[Conversation], seconds: float) -> None:
    for conversation in conversations:
        conversation.say_bye(seconds)


@contextmanager
def joined(environment: HostEnvironment | None, start_timeout: float, link_timeout: float) -> Iterator[Hosts]:
    """While this host is one of a group. What is raised inside ends it on all hosts, with the same sentence.

    Raises `HostError` where others don't come, or are lost.
    """
    if environment is None or environment.size == 1:
        yield Hosts(environment)
        return
    group = Group(environment, start_timeout, link_timeout)
    patience = GRACE
    try:
        group.open()
        yield group
        patience = link_timeout
    except RefusedError:
        raise
    except ConfigError as error:
        group.refuse(error)
        raise
    except HostError as error:
        if not isinstance(error, ToldError):
            group.tell_lost(error)
        raise
    finally:
        group.part(patience)
