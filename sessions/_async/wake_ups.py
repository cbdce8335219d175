"""Wake-ups of those who follow a thread or a log: a notice after an append, at most one in a while for each of them.

Protocol: a notice is a hint. A follower that gets one asks at once, and for a moment often; so an append that comes
soon after it needs none. Whoever misses a notice finds what was appended by asking, as without them.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from time import monotonic
from types import TracebackType
from urllib.parse import quote

from persistence import AsyncDatabaseManager, AsyncPubSub, AsyncSubscription
from persistence._async.compat import sleep
from persistence.errors import PersistenceError, UnavailableError
from persistence.fields import Duration
from sessions.records import micros_of

_log = logging.getLogger(__name__)
_REMEMBERED = 10_000
"""Of how many subjects the last notice is remembered before those that are long past are forgotten."""


class AsyncWakeUps:
    """Tells of what is appended to subjects (a thread's id; ``""`` for all of a log), on the connection that has it."""

    def __init__(self, manager: AsyncDatabaseManager, name: str, kind: str, *, tenant: str, every: Duration) -> None:
        """Raise CapabilityError on SQLite, which has no notices."""
        self._every = micros_of("notify", every) / 1e6
        self._notices = AsyncPubSub(manager, name)
        self._name = name
        self._kind = kind
        self._tenant = quote(tenant, safe="")
        self._told: dict[str, float] = {}

    def _channel(self, subject: str) -> str:
        return f"{self._kind}:{self._tenant}:{subject}"

    async def tell(self, subject: str, *, in_transaction: bool) -> None:
        """Send a notice, unless one was sent a moment ago; within a transaction it goes out as that commits.

        The append is done: what fails here is logged, and costs its followers a wait.
        """
        channel = self._channel(subject)
        if in_transaction:
            await self._notices.publish(channel)
            return
        now = monotonic()
        last = self._told.get(subject)
        if last is not None and now - last < self._every:
            return
        if len(self._told) >= _REMEMBERED:
            self._told = {id: told for id, told in list(self._told.items()) if now - told < self._every}
        self._told[subject] = now
        try:
            await self._notices.publish(channel)
        except PersistenceError as exc:
            self._told.pop(subject, None)
            _log.warning("%s: no notice of an append: %s", self._name, exc)

    def listen(self, subject: str) -> AsyncWaiting:
        """Return what waits for the notices of a subject."""
        return AsyncWaiting(self._notices.subscribe(self._channel(subject)))


class AsyncWaiting:
    """Waits, and where there are notices, no longer than until the next one."""

    def __init__(self, subscription: AsyncSubscription | None) -> None:
        self._subscription = subscription

    async def __aenter__(self) -> AsyncWaiting:
        if self._subscription is not None:
            await self._subscription.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._subscription is not None:
            await self._subscription.aclose()

    async def wait(self, seconds: float) -> bool:
        """Wait that long, or until a notice, and tell whether there was one."""
        if self._subscription is None:
            await sleep(seconds)
            return False
        with suppress(UnavailableError):  # the follower's next question meets the same server, and counts its patience
            return await self._subscription.get(timeout=seconds) is not None
        return False
