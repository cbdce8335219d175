# unasync: skip
"""The bytes on a connection to Redis, under one name on both sides: redis-py makes it, and we speak on it."""

from __future__ import annotations

import asyncio
import select
from time import monotonic
from typing import Any

from persistence._async.compat import _Awaited
from persistence.resp import Answers


class RedisStream(_Awaited, asyncio.Protocol):
    """The bytes that go to a Redis server and come from it, on a connection that redis-py has made.

    redis-py reads through a protocol of its own, which costs several objects for each answer: it has the connection
    only between ``lend`` and ``take_back``.
    """

    def __init__(self, connection: Any, answers: Answers) -> None:
        super().__init__()
        self._answers = answers
        self._transport: asyncio.Transport = connection._writer.transport
        self._theirs = self._transport.get_protocol()
        self._transport.set_protocol(self)
        self._poll = select.poll()
        self._poll.register(self._transport.get_extra_info("socket"), select.POLLIN | select.POLLRDHUP)
        self._ended = False
        """Whether the connection has ended, or something has come that nobody asked for."""

    def is_silent(self) -> bool:
        """Tell whether nothing has come, not even the end of the connection."""
        return not self._ended and not self._poll.poll(0)

    async def exchange(self, data: bytes, timeout: float) -> bool:
        """Send a command, and wait until its answer is whole; False when it isn't ``timeout`` seconds later.

        What can't be sent at once may take as long to be sent.

        Raises:
            OSError: the connection has ended.
        """
        if self._ended:
            raise ConnectionResetError("the server closed the connection")
        self._transport.write(data)
        turns = 2 if self._transport.get_write_buffer_size() else 1
        try:
            return await self._begin(monotonic() + turns * timeout)
        finally:
            self._future = None

    def data_received(self, data: bytes) -> None:
        """Take in what has come; called by the loop."""
        future = self._future
        if future is None or future.done():
            self._ended = True
            return
        try:
            if self._answers.feed(data):
                future.set_result(True)
        except Exception as exc:
            future.set_exception(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end; called by the loop."""
        self._ended = True
        future = self._future
        if future is not None and not future.done():
            future.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def lend(self) -> None:
        """Let redis-py read."""
        self._transport.set_protocol(self._theirs)

    def take_back(self, connection: Any) -> bool:
        """Read again what comes; tell whether the connection is the one that was lent, and still open."""
        if connection._writer is None or connection._writer.transport is not self._transport:
            return False
        self._transport.set_protocol(self)
        return not self._transport.is_closing()

    def close(self, connection: Any) -> None:
        """Close the connection at once, whatever state it is in."""
        self._stop_timer()
        self._ended = True
        self._transport.abort()
        connection._close()
