# Generated from ../_async/feeds.py by tests/unasync.py: edit that one.
"""Dedicated connections that bring notices: PostgreSQL's LISTEN and Redis's SUBSCRIBE, under one face.

Protocol: one task reads a feed at a time. ``interrupt`` may come from anywhere, and makes the read under way fail;
whoever reads then calls ``discard``. What goes wrong with a feed is a driver's error or ours; it is of no use after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any, Protocol

import psycopg
from redis.exceptions import ConnectionError as DroppedError

from persistence._sync.compat import SocketWatch, descriptor_of
from persistence._sync.link import PostgreSQLLink
from persistence._sync.wire import FATAL_ERROR
from persistence.dialect import quote_identifier
from persistence.notices import Notice, NoticeQueue
from persistence.sockets import shut_down

DRAIN_ROUNDS = 100
"""How often a read looks whether there is still more, so that a flood of notices can't hold up its reader."""


class Feed(Protocol):
    """A connection that listens on channels."""

    def listen(self, deadline: float) -> None:
        """Begin to listen."""

    def read(self, deadline: float, queue: NoticeQueue) -> bool:
        """Put what has come into the queue, after waiting until ``deadline`` (monotonic seconds); tell if any did."""

    def ask(self, deadline: float, queue: NoticeQueue) -> None:
        """Make sure that the server is still there; what comes meanwhile goes into the queue."""

    def interrupt(self) -> None:
        """Make a read under way fail now."""

    def hang_up(self) -> None:
        """Close the connection at once; nobody uses it."""

    def discard(self) -> None:
        """Close the connection."""


class PostgreSQLFeed:
    """LISTEN on a connection of its own; ``channels`` are the names of channels by their identifiers."""

    def __init__(self, link: PostgreSQLLink, channels: Mapping[str, str]) -> None:
        self._link = link
        self._channels = {identifier.encode(): channel for identifier, channel in channels.items()}
        self._statement = "; ".join(f"LISTEN {quote_identifier(identifier)}" for identifier in channels)
        self._pgconn = link.raw.pgconn
        self._watch = SocketWatch(self._pgconn.socket, self._arrived)
        self._queue = NoticeQueue(1)

    def listen(self, deadline: float) -> None:
        self._query(self._statement, deadline)

    def _query(self, text: str, deadline: float) -> None:
        self._watch.stop()
        try:
            for result in self._link.raw.query(text, deadline):
                if result.status == FATAL_ERROR:
                    raise self._link.raw.failure(result)
        finally:
            self._link.raw.stop_watching()

    def read(self, deadline: float, queue: NoticeQueue) -> bool:
        self._queue = queue
        try:
            if self._take():
                return True
            if monotonic() >= deadline:  # nothing is waited for, but what has come is taken
                return not self._watch.is_silent() and self._arrived()
            return self._watch.until_arrived(deadline)
        except BaseException:
            self._watch.stop()
            raise

    def _arrived(self) -> bool:
        found = False
        for _ in range(DRAIN_ROUNDS):
            self._pgconn.consume_input()
            found = self._take() or found
            if self._watch.is_silent():
                break
        return found

    def _take(self) -> bool:
        """Take the notices that libpq has read; tell whether there were any."""
        found = False
        while (notify := self._pgconn.notifies()) is not None:
            channel = self._channels.get(notify.relname)
            if channel is not None:
                self._queue.put(Notice(channel, notify.extra.decode(errors="surrogateescape")))
                found = True
        return found

    def ask(self, deadline: float, queue: NoticeQueue) -> None:
        self._query("", deadline)
        self._queue = queue
        self._take()

    def interrupt(self) -> None:
        self._link.interrupt()

    def hang_up(self) -> None:
        self._watch.stop()
        self._link.discard()

    def discard(self) -> None:
        self.hang_up()


class RedisFeed:
    """SUBSCRIBE on a connection of its own; ``channels`` are the names of channels by what the server calls them."""

    def __init__(self, connection: Any, channels: Mapping[str, str]) -> None:
        self._connection = connection
        self._channels = {name.encode(): channel for name, channel in channels.items()}

    def listen(self, deadline: float) -> None:
        self._connection.send_command("SUBSCRIBE", *self._channels)
        for _ in self._channels:
            self._connection.read_response()

    def read(self, deadline: float, queue: NoticeQueue) -> bool:
        found = False
        answer = self._receive(max(0.0, deadline - monotonic()))
        rounds = DRAIN_ROUNDS * 100  # one notice each
        while answer is not None:
            found = self._put(answer, queue) or found
            rounds -= 1
            answer = self._receive(0.0) if rounds else None
        return found

    def _receive(self, timeout: float) -> Any:
        connection = self._connection
        if not connection.can_read(timeout):
            return None
        return connection.read_response(disconnect_on_error=False)

    def _put(self, answer: Any, queue: NoticeQueue) -> bool:
        channel = self._channels.get(answer[1]) if answer[0] == b"message" else None
        if channel is None:
            return False
        queue.put(Notice(channel, answer[2].decode(errors="surrogateescape")))
        return True

    def ask(self, deadline: float, queue: NoticeQueue) -> None:
        self._connection.send_command("PING")
        while (answer := self._receive(max(0.0, deadline - monotonic()))) is not None:
            if answer[0] == b"pong":
                return
            self._put(answer, queue)
        raise DroppedError("no answer to PING")

    def interrupt(self) -> None:
        descriptor = descriptor_of(self._connection)
        if descriptor is not None:
            shut_down(descriptor)

    def hang_up(self) -> None:
        self._connection.disconnect()

    def discard(self) -> None:
        self._connection.disconnect()


FEED_ERRORS = (psycopg.Error, OSError)
