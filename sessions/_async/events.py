"""The event log: metrics, logs, audit events, correlations and kinds of your own, appended and never changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from persistence.errors import ValidationError
from persistence.fields import Duration
from persistence.validation import check_limit
from sessions._async.erasing import erase_events, export_events
from sessions._async.events_audit import AsyncEventAudit
from sessions._async.events_read import AsyncEventQueries
from sessions._async.events_retention import AsyncEventRetention
from sessions._async.events_writer import AsyncEventWriter
from sessions.event_partitions import EventPartition, partition_of
from sessions.events import AUDIT, LEVELS, MAIN_CHAIN, Event, EventLevel, check_level, check_value, event_row


class AsyncEventLog(AsyncEventQueries, AsyncEventAudit, AsyncEventRetention):
    """The events of one tenant, in the order of their time, on a PostgreSQL or SQLite connection of a manager.

    On PostgreSQL they stand in partitions by time, made by whoever writes the first event of one. Every append commits
    before it returns, or joins the transaction that its task is in. A program of several instances that must not see
    each other's events gives each a tenant. ``secrets`` (a ``SecretVault``, ``"redact"`` or ``"refuse"``) says what
    becomes of secrets in messages and tags.
    """

    async def append(self, event: Event) -> Event:
        """Store an event and return it as stored: an audit event has its place in the chain.

        Raises:
            DuplicateError: it is stored already (an append whose answer was lost may be repeated).
            ValidationError: something in it can't be stored; nothing was written.
        """
        [event], [row] = await self._rows([event], [event_row(self._tenant, event)])
        given = await self._write([row])
        if event.kind != AUDIT:
            return event
        return replace(event, retention="kept", chain=event.chain or MAIN_CHAIN, **given)

    async def append_many(self, events: Iterable[Event]) -> int:
        """Store events, all or none, and return their number; by COPY on PostgreSQL, the fastest way for many.

        Raises:
            DuplicateError: one of them is stored already.
            ValidationError: something in one can't be stored, which the message names (``events[7]``).
        """
        if isinstance(events, Event) or not isinstance(events, Iterable):
            raise ValidationError(f"events is a {type(events).__name__}, not an iterable of events")
        rows: list[tuple[Any, ...]] = []
        checked: list[Event] = []
        for event in events:
            checked.append(event)
            try:
                rows.append(event_row(self._tenant, event))
            except ValidationError as exc:
                raise ValidationError(f"events[{len(rows)}]: {exc.message}", hint=exc.hint) from None
        if rows:
            await self._write((await self._rows(checked, rows))[1])
        return len(rows)

    async def metric(
        self,
        name: str,
        value: float,
        *,
        tags: dict[str, Any] | None = None,
        service: str | None = None,
        correlation: str | None = None,
        time: datetime | None = None,
    ) -> Event:
        """Append a value of something that is measured, and return the event."""
        if check_value(value) is None:
            raise ValidationError("a metric needs a value")
        event = Event(kind="metric", name=name, value=value, tags=_tags(tags), service=service, correlation=correlation)
        return await self.append(_at(event, time))

    async def log(
        self,
        level: EventLevel,
        message: str,
        *,
        name: str | None = None,
        tags: dict[str, Any] | None = None,
        service: str | None = None,
        correlation: str | None = None,
        time: datetime | None = None,
    ) -> Event:
        """Append an entry of a log, and return the event. ``name`` is that of the logger, say."""
        if check_level(level) is None:
            raise ValidationError("a log entry needs a level", hint=", ".join(LEVELS))
        event = Event(kind="log", level=level, message=message, name=name, service=service, correlation=correlation)
        event.tags = _tags(tags)
        return await self.append(_at(event, time))

    async def audit(
        self,
        name: str,
        message: str | None = None,
        *,
        chain: str = MAIN_CHAIN,
        tags: dict[str, Any] | None = None,
        service: str | None = None,
        correlation: str | None = None,
        time: datetime | None = None,
    ) -> Event:
        """Append what was done to a chain of audit events, and return the event with its number and hash.

        It is kept for good. The chain's newest entry is locked to the end of the transaction.
        """
        event = Event(kind=AUDIT, name=name, message=message, chain=chain, service=service, correlation=correlation)
        event.tags = _tags(tags)
        return await self.append(_at(event, time))

    async def correlate(
        self,
        correlation: str,
        name: str,
        message: str | None = None,
        *,
        tags: dict[str, Any] | None = None,
        service: str | None = None,
        time: datetime | None = None,
    ) -> Event:
        """Append a step of something that goes through several services, and return the event."""
        event = Event(kind="correlation", name=name, message=message, correlation=correlation, service=service)
        event.tags = _tags(tags)
        return await self.append(_at(event, time))

    def writer(
        self,
        *,
        size: int = 1000,
        age: Duration = 1,
        capacity: int = 10_000,
        when_full: Literal["block", "drop"] = "block",
        timeout: Duration = 60,
    ) -> AsyncEventWriter:
        """Return a writer that takes events at once and stores them in batches, once it is started by ``async with``.

        It stores ``size`` events together, or fewer when the oldest has waited for ``age`` seconds; at most
        ``capacity`` wait. ``when_full`` says what becomes of one more: ``block`` waits for room, at most ``timeout``
        seconds, ``drop`` drops it.
        """
        return AsyncEventWriter(self, size=size, age=age, capacity=capacity, when_full=when_full, timeout=timeout)

    def export_user(self, user_id: str) -> AsyncIterator[str]:
        """Yield the events of a user, those whose tag ``user_id`` is the id, as JSON lines, newest first."""
        return export_events(self, user_id)

    async def erase_user(self, user_id: str) -> dict[str, int]:
        """Delete the events of a user, those whose tag ``user_id`` is the id; return how many ``events`` went.

        Audit events stay, for their chain proves that none is missing: they are better told of by an id that means
        nothing by itself.
        """
        return await erase_events(self, user_id)

    async def list_partitions(self, *, limit: int = 1000) -> list[EventPartition]:
        """Return the partitions of events with their sizes, by name, at most ``limit`` (up to 10,000)."""
        database = await self._database()
        rows = await database.fetch_all(
            *self._prepared(database, "list_event_partitions", {"limit": check_limit(limit)})
        )
        found = [partition_of(row) for row in rows]
        return [partition for partition in found if partition is not None]


def _tags(tags: dict[str, Any] | None) -> dict[str, Any]:
    return {} if tags is None else tags


def _at(event: Event, moment: datetime | None) -> Event:
    if moment is not None:
        event.time = moment
    return event
