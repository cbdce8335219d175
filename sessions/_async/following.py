"""Asking again and again for what is new: the waits of everything that follows a store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from time import monotonic
from typing import TypeVar

from persistence._async.compat import sleep
from persistence.errors import UnavailableError
from persistence.fields import Duration
from sessions.records import micros_of

T = TypeVar("T")

SHORTEST_WAIT = 0.01
"""How long to wait before asking again, right after something came, in seconds."""


async def follow_pages(
    read: Callable[[], Awaitable[Sequence[T]]], *, poll: Duration, timeout: Duration | None, patience: Duration
) -> AsyncGenerator[T, None]:
    """Yield what ``read`` returns, call after call; it remembers itself what it has returned.

    It is asked right after it had something, then less and less often, down to every ``poll`` seconds. The end comes
    ``timeout`` seconds after the last thing (None: never).

    Raises:
        UnavailableError: the database has been away for ``patience`` seconds.
    """
    longest = micros_of("poll", poll) / 1e6
    limit = None if timeout is None else micros_of("timeout", timeout) / 1e6
    bound = micros_of("patience", patience) / 1e6
    wait, quiet_since = SHORTEST_WAIT, monotonic()
    away_since: float | None = None
    while True:
        try:
            page = await read()
            away_since = None
        except UnavailableError:
            page = []
            away_since = monotonic() if away_since is None else away_since
            if monotonic() - away_since >= bound:
                raise
        for item in page:
            yield item
        if page:
            wait, quiet_since = SHORTEST_WAIT, monotonic()
            continue
        left = float("inf") if limit is None else quiet_since + limit - monotonic()
        if left <= 0:
            return
        await sleep(min(wait, left))
        wait = min(wait * 2, longest)
