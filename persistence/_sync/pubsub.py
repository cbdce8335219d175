# Generated from ../_async/pubsub.py by tests/unasync.py: edit that one.
"""Notices between programs: LISTEN and NOTIFY of PostgreSQL, channels of Redis.

Protocol: a subscription owns one connection, which only the task that is in ``get`` reads; nothing runs in the
background. A connection that breaks is found by the next read, which dials and listens anew, and only then says that
notices may have been missed: whoever looks after that can't look too early.
"""

from __future__ import annotations

import logging
import os
import random
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from persistence._sync.compat import Mutex, current_home, sleep, when_free
from persistence._sync.feeds import FEED_ERRORS, Feed, PostgreSQLFeed, RedisFeed
from persistence._sync.manager import DatabaseManager, named_connection
from persistence._sync.postgresql import PostgreSQLDatabase
from persistence._sync.redis import RedisConnection
from persistence.errors import CapabilityError, ClosedError, PersistenceError, UnavailableError, ValidationError
from persistence.fields import Duration, seconds
from persistence.notices import Notice, NoticeQueue, check_channel, check_payload, identifier_of
from persistence.places import Place, calling_place, show_place
from persistence.validation import check_duration, check_text, check_timeout, check_whole

ASK_SECONDS = 5.0
"""How long a server that was asked whether it is still there has for its answer."""
RECONNECT_SECONDS = 1.0
"""How long a read may take, beyond its timeout, to make a lost connection anew."""
ITERATE_SECONDS = 60.0
"""How long an iteration bears a server that is away."""

_log = logging.getLogger(__name__)
_leaks = logging.getLogger("persistence.leaks")
_Connection = PostgreSQLDatabase | RedisConnection


class PubSub:
    """Publishes notices and subscribes to channels, on a PostgreSQL or Redis connection of a manager.

    Notices are hints, not a log: who doesn't listen doesn't get them, and a subscription says where some may have been
    lost. ``prefix`` precedes each channel's name on the server; with an empty one the names are those that other
    programs use.
    """

    @named_connection
    def __init__(self, manager: DatabaseManager, name: str, *, prefix: str = "holdfast:") -> None:
        """Raise CapabilityError on SQLite, which has no notices, and what ``manager.get`` does."""
        self._manager = manager
        self._name = name
        self._prefix = check_text("the prefix", prefix, limit=256)
        self._connection()

    def _connection(self) -> _Connection:
        found = self._manager.get(self._name)
        if not isinstance(found, _Connection):
            raise CapabilityError(
                "SQLite has no notices",
                hint="use PostgreSQL or Redis; within one process a queue, and across processes on one file poll it",
                connection=self._name,
            )
        return found

    def _names(self, channels: tuple[str, ...], kind: str) -> dict[str, str]:
        """Return the channels by their names on the server."""
        if not channels:
            raise ValidationError("subscribe needs a channel or more")
        names = {self._prefix + check_channel(channel): channel for channel in channels}
        return names if kind == "redis" else {identifier_of(name): channel for name, channel in names.items()}

    def publish(self, channel: str, payload: str = "") -> None:
        """Tell whoever is subscribed to the channel; nobody need be.

        On PostgreSQL it joins the transaction of this task, and is sent when that commits; equal notices of one
        transaction are one. On Redis it is sent at once.

        Raises:
            ValidationError: the channel or the payload can't be sent; PostgreSQL carries 7,999 bytes.
        """
        connection = self._connection()
        (name,) = self._names((channel,), connection.kind)
        check_payload(payload, self._name, connection.kind)
        if isinstance(connection, RedisConnection):
            connection.client.publish(name, payload)
        else:
            connection.execute("SELECT pg_notify(:channel, :payload)", {"channel": name, "payload": payload})

    def subscribe(self, *channels: str, queue_size: int = 1000, check_after: Duration = 15.0) -> Subscription:
        """Return a subscription, which begins with its ``with`` block and ends with it.

        It has a connection of its own, outside the pool. ``queue_size`` is how many notices it holds that were not
        read yet; where more come, the rest is dropped, and a notice says so. A reader who has heard nothing for
        ``check_after`` seconds asks the server whether it is still there.

        Raises (on entering the block):
            ConnectError: the server can't be reached or refuses us.
            CapabilityError: a pooler such as PgBouncer stands in front, through which LISTEN hears nothing.
        """
        connection = self._connection()
        size = check_whole("queue_size", queue_size, most=1_000_000)
        silence = check_duration("check_after", check_after)
        return Subscription(connection, self._names(channels, connection.kind), size, silence)


class Subscription:
    """A connection that listens on channels; made by ``PubSub.subscribe``, read by one task at a time.

    What nobody reads waits in the server, which is no place for much: read it, or leave the block.
    """

    def __init__(self, connection: _Connection, channels: dict[str, str], queue_size: int, silence: float) -> None:
        self._connection = connection
        self._channels = channels
        self._queue = NoticeQueue(queue_size)
        self._silence = silence
        self._feed: Feed | None = None
        self._pid = os.getpid()
        self._heard = 0.0
        self._reading = self._closed = False
        self._home = current_home()
        self._place = calling_place()

    def __enter__(self) -> Self:
        if self._closed:
            raise ClosedError("the subscription has ended", hint="subscribe again", connection=self._connection.name)
        self._open(float("inf"))
        self._connection.dedicated.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        feed = getattr(self, "_feed", None)
        if feed is not None and self._pid == os.getpid():
            when_free(self._home, Mutex(), partial(_drop, feed, self._connection.name, self._place))

    def _open(self, deadline: float) -> None:
        """Dial and listen."""
        connection = self._connection
        feed: Feed
        if isinstance(connection, RedisConnection):
            feed = RedisFeed(connection.dial(), self._channels)
            deadline = min(deadline, monotonic() + seconds(connection.config.read_timeout))
        else:
            deadline = min(deadline, monotonic() + seconds(connection.config.connect_timeout))
            feed = PostgreSQLFeed(connection.dial(deadline), self._channels)
        try:
            if not isinstance(connection, RedisConnection) and (connection.capabilities()).pooler:
                raise CapabilityError(
                    "LISTEN hears nothing through a pooler that shares connections by transaction",
                    hint="add the server itself under another name, or set pooler=False where it pools by session",
                    operation="subscribe",
                    connection=connection.name,
                )
            feed.listen(deadline)
        except BaseException as exc:
            feed.discard()
            failure = self._failure(exc)
            if failure is None:
                raise
            raise failure from exc
        self._feed, self._pid, self._heard = feed, os.getpid(), monotonic()

    def _failure(self, exc: BaseException) -> PersistenceError | None:
        """Return our error for a driver's; None for one of ours, and for what is neither."""
        connection = self._connection
        if isinstance(connection, RedisConnection):
            return connection.failure(exc, "subscribe") if isinstance(exc, RedisError) else None
        return connection._translate(exc, "subscribe") if isinstance(exc, Exception) else None

    def get(self, *, timeout: Duration) -> Notice | None:
        """Return the next notice, or None when none came within ``timeout`` seconds (0: only what is here).

        A lost connection is made anew, with growing pauses, and the notice that follows has ``missed`` set.

        Raises:
            UnavailableError: the server was away at the end of the timeout, or for a second, whichever is longer; ask
                again.
            ClosedError: the subscription or its connection was closed.
        """
        deadline = monotonic() + check_timeout("timeout", timeout)
        if self._reading:
            raise ValidationError(
                "another task is reading this subscription",
                hint="give each reader a subscription of its own",
                connection=self._connection.name,
            )
        self._reading = True
        try:
            while True:
                self._check_open()
                notice = self._queue.take()
                if notice is not None:
                    return notice
                feed = self._feed
                if feed is None or self._pid != os.getpid():
                    self._reconnect(max(deadline, monotonic() + RECONNECT_SECONDS))
                elif not self._read(feed, deadline) and self._feed is feed and monotonic() >= deadline:
                    return None
        finally:
            self._reading = False

    def _check_open(self) -> None:
        if self._closed or self._connection.is_closed:
            raise ClosedError(
                "the subscription has ended" if self._closed else "it was closed",
                hint="subscribe again",
                connection=self._connection.name,
            )

    def _read(self, feed: Feed, deadline: float) -> bool:
        """Read what has come; after a long silence, make sure that there is somebody to hear."""
        try:
            if feed.read(min(deadline, self._heard + self._silence), self._queue):
                self._heard = monotonic()
                return True
            if monotonic() >= self._heard + self._silence:
                feed.ask(monotonic() + ASK_SECONDS, self._queue)
                self._heard = monotonic()
        except (*FEED_ERRORS, RedisError, UnavailableError) as exc:
            self._feed = None
            feed.discard()
            self._check_open()
            _log.warning("%s: a subscription lost its connection: %s", self._connection.name, type(exc).__name__)
        return False

    def _reconnect(self, deadline: float) -> None:
        """Open anew, and only then say that something may have been missed."""
        self._feed = None  # where this process was forked, its parent goes on listening on it
        pause = 0.02
        while True:
            try:
                self._open(deadline)
                self._queue.miss()
                return
            except UnavailableError:
                self._check_open()
                if monotonic() + pause >= deadline:
                    raise
            sleep(pause * random.uniform(0.75, 1.25))
            self._check_open()
            pause = min(2 * pause, 2.0)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Notice:
        """Return the next notice, however long it takes; the iteration ends when the subscription is closed.

        Raises:
            UnavailableError: the server has been away for a minute; the iteration may be resumed.
            ClosedError: the connection was closed.
        """
        while True:
            if self._closed:
                raise StopIteration
            try:
                notice = self.get(timeout=ITERATE_SECONDS)
            except ClosedError:
                if self._closed:
                    raise StopIteration from None
                raise
            if notice is not None:
                return notice

    def close(self) -> None:
        """End it and close its connection; a read under way fails with ClosedError. Safe to call twice."""
        self._closed = True
        self._connection.dedicated.discard(self)
        self.cut_off()

    def cut_off(self) -> None:
        """Close the connection, because what it belongs to is closed."""
        feed = self._feed
        if feed is None or self._pid != os.getpid():
            return
        if self._reading:
            feed.interrupt()  # the reader closes it
        else:
            self._feed = None
            feed.discard()


def _drop(feed: Feed, name: str, place: Place) -> None:
    """Close the connection of a subscription that was dropped without being closed."""
    _leaks.warning("%s: a subscription was dropped without being closed; made at %s", name, show_place(place))
    feed.hang_up()
