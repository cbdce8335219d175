# Generated from ../_async/events_read.py by tests/unasync.py: edit that one.
"""Events read back: queries, the latest, sums over buckets of time, and events followed as they are committed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from persistence import Database, Row
from persistence.dialect import from_micros, to_micros
from persistence.errors import ValidationError
from persistence.fields import Duration
from persistence.validation import LIMIT, check_limit
from sessions._sync.events_base import EventsBase
from sessions._sync.following import Following
from sessions._sync.wake_ups import Waiting
from sessions.event_queries import Condition, EventBucket, EventGroup, EventSum, Sums, check_window, condition_of
from sessions.events import FIRST_MOMENT, Event, EventLevel, EventRetention, Position, decode_cursor, event_from_row
from sessions.records import micros_of

NO_ID = -1
"""Before every id."""
PAGE = 1000
"""How many events ``follow`` reads at a time."""
WIDENING = (timedelta(days=1), timedelta(days=31))
"""The windows that ``latest`` looks into before it looks at everything."""
_MICROSECOND = timedelta(microseconds=1)


class EventQueries(EventsBase):
    """The part of the event log that reads."""

    def query(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        kinds: Sequence[str] | None = None,
        name: str | None = None,
        service: str | None = None,
        correlation: str | None = None,
        level: EventLevel | None = None,
        tags: dict[str, Any] | None = None,
        retention: EventRetention | None = None,
        limit: int = 100,
        order: Literal["newest", "oldest"] = "newest",
        after: str | None = None,
    ) -> list[Event]:
        """Return events in the order of their time, newest or oldest first, at most ``limit`` (up to 10,000).

        ``since`` is within, ``until`` is not; on PostgreSQL only the partitions of this window are looked at. ``level``
        means itself and the graver ones. ``tags`` are those whose values are equal: texts, numbers (1 is 1.0), bools or
        None. What is left out doesn't matter. ``after`` is the ``cursor`` of the last event of the page before.

        Raises:
            ValidationError: an option is none that an event could have, or ``after`` no cursor.
        """
        database = self._database()
        window = check_window(since, until)
        condition = condition_of(
            database.kind,
            kinds=kinds,
            name=name,
            service=service,
            correlation=correlation,
            level=level,
            tags=tags,
            retention=retention,
        )
        if order not in ("newest", "oldest"):
            raise ValidationError(f"{str(order)[:80]!r} is no order", hint="newest or oldest")
        if after is not None:
            moment, id = decode_cursor(after)
            condition = Condition(
                f"{condition.sql} AND (e.at, e.id) {'<' if order == 'newest' else '>'} (:after_time, :after_id)",
                {**condition.parameters, "after_time": moment, "after_id": id},
            )
            # The row comparison excludes no partition, the window does.
            if order == "newest":
                window["until"] = min(window["until"], moment + _MICROSECOND)
            else:
                window["since"] = max(window["since"], moment)
        values = {**window, "limit": check_limit(limit)}
        sql, given = self._filled(
            database, f"list_{order}_events", {**values, **condition.parameters}, {"filter": condition.sql}
        )
        rows = database.fetch_all(sql, given, prepare=False)
        return [event_from_row(row, database.dialect) for row in rows]

    def latest(
        self,
        name: str | None = None,
        *,
        within: Duration | None = None,
        kinds: Sequence[str] | None = None,
        service: str | None = None,
        correlation: str | None = None,
        level: EventLevel | None = None,
        tags: dict[str, Any] | None = None,
        retention: EventRetention | None = None,
    ) -> Event | None:
        """Return the newest event that ``query`` would give; None when there is none.

        ``within`` (seconds or a timedelta) bounds its age. Without, the last day is looked at first, then the last
        month, then everything.
        """
        now = datetime.now(UTC)
        spans: tuple[timedelta | None, ...] = (*WIDENING, None)
        if within is not None:
            spans = (micros_of("within", within) * _MICROSECOND,)
        for span in spans:
            found = self.query(
                since=None if span is None else max(now - span, FIRST_MOMENT),
                kinds=kinds,
                name=name,
                service=service,
                correlation=correlation,
                level=level,
                tags=tags,
                retention=retention,
                limit=1,
            )
            if found:
                return found[0]
        return None

    def aggregate(
        self,
        bucket: Duration,
        sums: EventSum | Sequence[EventSum] = "count",
        *,
        by: EventGroup | Sequence[EventGroup] = (),
        by_tags: str | Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        kinds: Sequence[str] | None = None,
        name: str | None = None,
        service: str | None = None,
        correlation: str | None = None,
        level: EventLevel | None = None,
        tags: dict[str, Any] | None = None,
        timeout: Duration | None = None,
    ) -> list[EventBucket]:
        """Return sums over the events of each bucket of time and of each group, computed in the database.

        Buckets are ``bucket`` (seconds or a timedelta) long and begin at midnight in UTC, those of weeks on Mondays; a
        bucket without events isn't there. ``count`` is the number of events, ``rate`` that number a second, of the part
        of the bucket that lies between ``since`` and ``until``. ``sum``, ``avg``, ``min``, ``max`` and the percentiles
        (``p50``, ``p95``, ``p99``, linear between the nearest two) are over values, in float64; None without a value.
        Rolled-up events count as those that they stand for, but a percentile of a bucket that holds one is None.

        The order is that of the buckets, then of the groups: fields of events (``by``), values of tags (``by_tags``).
        The other options are those of ``query``.

        Raises:
            ValidationError: an option is out of range, or there are more than 10,000 buckets and groups.
        """
        database = self._database()
        window = check_window(since, until)
        asked = Sums(bucket, sums, by, by_tags)
        condition = condition_of(
            database.kind, kinds=kinds, name=name, service=service, correlation=correlation, level=level, tags=tags
        )
        rows = self._sum(database, asked, condition, window, timeout)
        if len(rows) > LIMIT:
            raise ValidationError(
                f"there are more than {LIMIT:,} buckets and groups",
                hint="take longer buckets, a shorter window or fewer groups",
                operation="aggregate",
                connection=self._name,
            )
        return asked.buckets(rows, database.dialect, window)

    def _sum(
        self,
        database: Database,
        asked: Sums,
        condition: Condition,
        window: dict[str, datetime],
        timeout: Duration | None,
    ) -> list[Row]:
        values = {**window, **asked.parameters(database.kind, condition)}
        places = asked.places(database.kind, condition)
        sql, given = self._filled(database, "sum_events", values, places)
        if database.kind == "postgresql" or not asked.fractions:
            return database.fetch_all(sql, given, timeout=timeout, prepare=False)
        ranks = self._filled(database, "rank_events", values, places)
        rows, ranked = database.fetch_batch([(sql, given), ranks], timeout=timeout)
        return asked.with_percentiles(rows, ranked)

    def position(self) -> str:
        """Return where a ``follow`` begins that is to give what is committed from now on."""
        database = self._database()
        row = database.fetch_one(*self._prepared(database, "event_horizon", {})) or {}
        place = row.get("xmin", 0)
        return Position(place, NO_ID, _floor(database, row)).encode()

    def follow(
        self,
        *,
        after: str | None = None,
        kinds: Sequence[str] | None = None,
        name: str | None = None,
        service: str | None = None,
        correlation: str | None = None,
        level: EventLevel | None = None,
        tags: dict[str, Any] | None = None,
        lateness: Duration | None = timedelta(days=1),
        poll: Duration = 0.5,
        timeout: Duration | None = None,
        patience: Duration = 60,
    ) -> Iterator[Event]:
        """Yield events as they are committed, from a ``position`` on (None: those to come).

        Each comes once, whatever its time: the order is that of the transactions that wrote them. One that a slow
        transaction commits late is not skipped: those of later transactions wait until every transaction that wrote
        anything before them is over. ``Event.position``, passed as ``after``, goes on after an event. What a roll-up
        makes is not given. The other options are those of ``query``.

        An event whose time lies more than ``lateness`` (seconds or a timedelta) before its commit may be left out on
        PostgreSQL; None gives it too, and looks into every partition for it.

        It asks right after an event, then less and less often, down to every ``poll`` seconds; a log with ``notify``
        asks at once when a notice comes. It ends ``timeout`` seconds after the last event (None: never). No connection
        of the pool is held in between.

        Raises:
            UnavailableError: the database has been away for ``patience`` seconds.
        """
        following = Following(poll, timeout, patience)
        database = self._database()
        condition = condition_of(
            database.kind, kinds=kinds, name=name, service=service, correlation=correlation, level=level, tags=tags
        )
        slack = None if lateness is None else micros_of("lateness", lateness)
        begin = None if after is None else Position.decode(after)
        # It listens first, so that no notice falls between the first question and that.
        with Waiting(None) if self._wake_ups is None else self._wake_ups.listen("") as waiting:
            place = Position.decode(self.position()) if begin is None else begin
            reader = Follower(self, place, condition, slack)
            with closing(following.pages(reader.read, waiting)) as events:
                for event in events:
                    yield event


class Follower:
    """Where one follow stands, page after page.

    Protocol: a page has the events of transactions below the oldest that still runs, so none can come in front of them.
    Once all transactions that ran at some moment are over and read, what is unread was committed after it; events from
    ``slack`` before that moment on are looked at, so that old partitions are left alone.
    """

    def __init__(self, log: EventQueries, place: Position, condition: Condition, slack: int | None) -> None:
        self._log = log
        self._place = place
        self._condition = condition
        self._slack = slack
        self._awaited: tuple[int, int] | None = None

    def read(self) -> list[Event]:
        """Return the next page of events, each with its position."""
        database = self._log._database()
        place = self._place
        floor = FIRST_MOMENT if self._slack is None else from_micros(max(place.floor - self._slack, 0))
        values = {"floor": floor, "after_xid": str(place.xid), "after_id": place.id, "limit": PAGE}
        if database.kind == "sqlite":
            values["after_xid"] = place.xid
        list_events = self._log._filled(
            database, "list_written_events", {**values, **self._condition.parameters}, {"filter": self._condition.sql}
        )
        if database.kind == "postgresql":
            rows = database.fetch_all(*list_events, prepare=False)
            head, rows = rows[0], [row for row in rows if row["place"] is not None]
        else:
            horizon = self._log._prepared(database, "event_horizon", {})
            (head,), rows = database.fetch_batch([horizon, list_events])
        events = []
        for row in rows:
            event = event_from_row(row, database.dialect)
            event.position = Position(
                row["place"], NO_ID if database.kind == "sqlite" else row["id"], place.floor
            ).encode()
            events.append(event)
        if len(rows) == PAGE:
            last = rows[-1]
            self._place = Position(last["place"], NO_ID if database.kind == "sqlite" else last["id"], place.floor)
        else:
            self._place = Position(head["xmin"], NO_ID, self._risen(database, head, place.floor))
        return events

    def _risen(self, database: Database, head: Row, floor: int) -> int:
        """Return the moment after which everything unread was committed."""
        if self._awaited is not None and head["xmin"] >= self._awaited[0]:
            floor, self._awaited = self._awaited[1], None
        if self._awaited is None:
            self._awaited = head["xmax"], _floor(database, head)
        return floor


def _floor(database: Database, row: Row) -> int:
    moment = database.dialect.moment(row.get("moment"))
    return 0 if moment is None else to_micros(moment)
