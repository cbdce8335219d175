"""Asking again and again for what is new: the pace of everything that follows a store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from time import monotonic
from typing import TypeVar

from persistence.errors import UnavailableError
from persistence.fields import Duration
from sessions._async.wake_ups import AsyncWaiting
from sessions.records import micros_of

T = TypeVar("T")

SHORTEST_WAIT = 0.01
"""How long to wait at first, in seconds, once all was read; it doubles up to ``poll``."""


class AsyncFollowing:
    """How often a follower asks and when it ends: the options of every ``follow``, in seconds or as timedeltas."""

    def __init__(self, poll: Duration, timeout: Duration | None, patience: Duration) -> None:
        self._longest = micros_of("poll", poll) / 1e6
        self._limit = float("inf") if timeout is None else micros_of("timeout", timeout) / 1e6
        self._bound = micros_of("patience", patience) / 1e6

    async def pages(self, read: Callable[[], Awaitable[Sequence[T]]], waiting: AsyncWaiting) -> AsyncGenerator[T, None]:
        """Yield what ``read`` returns, call after call; it remembers itself what it has returned.

        It is asked right after it had something, then less and less often, down to every ``poll`` seconds, and at a
        notice. The end comes ``timeout`` seconds after the last thing (None: never).

        Raises:
            UnavailableError: the database has been away for ``patience`` seconds.
        """
        wait, quiet_since = SHORTEST_WAIT, monotonic()
        away_since: float | None = None
        while True:
            try:
                page = await read()
                away_since = None
            except UnavailableError:
                page = []
                away_since = monotonic() if away_since is None else away_since
                if monotonic() - away_since >= self._bound:
                    raise
            for item in page:
                yield item
            if page:
                wait, quiet_since = SHORTEST_WAIT, monotonic()
                continue
            left = quiet_since + self._limit - monotonic()
            if left <= 0:
                return
            wait = SHORTEST_WAIT if await waiting.wait(min(wait, left)) else min(wait * 2, self._longest)
