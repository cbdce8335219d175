"""How events are parted by time on PostgreSQL: which partition holds a moment, and which moments a partition holds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sessions.events import STAGES, EventRetention

PREFIX = "holdfast_events"
DAY = timedelta(days=1)

_NAME = re.compile(rf"{PREFIX}_({'|'.join(STAGES)})_(\d{{4}})(\d\d)?(\d\d)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class EventPartition:
    """A partition of events, of all tenants: its stage, the time from ``since`` to below ``until``, and its size.

    ``events`` is the number of its rows as the server counted them last, ``bytes`` the size on disk with indexes. On
    SQLite there is one, of the whole file, without a stage and a time.
    """

    name: str
    retention: EventRetention | None
    since: datetime | None
    until: datetime | None
    events: int
    bytes: int


def suffix_of(retention: EventRetention, moment: datetime) -> str:
    """Return the end of the name of the partition that holds a moment."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    if retention == "raw":
        return f"{moment.year:04}{moment.month:02}{moment.day:02}"
    return f"{moment.year:04}" if retention == "downsampled" else f"{moment.year:04}{moment.month:02}"


def suffixes_of(places: Iterable[tuple[EventRetention, datetime]]) -> dict[tuple[EventRetention, str], datetime]:
    """Return the partitions that hold events, each with a moment of it."""
    spans: dict[EventRetention, tuple[datetime, datetime]] = {}
    found: dict[tuple[EventRetention, str], datetime] = {}
    listed = list(places)
    for retention, moment in listed:
        least, most = spans.get(retention, (moment, moment))
        spans[retention] = min(least, moment), max(most, moment)
    for retention, (least, most) in spans.items():
        # Most batches lie within one partition, and then only their ends are looked at.
        if suffix_of(retention, least) == suffix_of(retention, most):
            found[retention, suffix_of(retention, least)] = least
        else:
            found |= {(stage, suffix_of(stage, at)): at for stage, at in listed if stage == retention}
    return found


def partition_of(row: dict[str, Any]) -> EventPartition | None:
    """Return the partition that a row tells of; None for one that somebody else attached, with a name of their own."""
    size = {"name": row["name"], "events": row["events"], "bytes": row["bytes"]}
    if row["name"] == PREFIX:
        return EventPartition(retention=None, since=None, until=None, **size)
    match = _NAME.fullmatch(row["name"])
    if match is None:
        return None
    year, month, day = int(match[2]), int(match[3] or 1), int(match[4] or 1)
    since = datetime(year, month, day, tzinfo=UTC)
    if match[4]:
        until = since + DAY
    elif match[3]:
        until = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    else:
        until = datetime(year + 1, 1, 1, tzinfo=UTC)
    return EventPartition(retention=cast(EventRetention, match[1]), since=since, until=until, **size)
