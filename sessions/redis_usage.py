"""Own the sums of messages on Redis: counters of each thread by day and models, added up as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from persistence.errors import CapabilityError

_EPOCH = date(1970, 1, 1)
_HIGH = 10**9
"""What the second counter of a sum counts."""


class Used(NamedTuple):
    """The counters of one thread, each ``<part>:<day since 1970>:<models>``; a session of "" is none."""

    thread: str
    session: str
    user: str
    counters: dict[str, str]


def check_days(since: datetime | None, until: datetime | None, connection: str) -> None:
    """Raise CapabilityError for a time that isn't the beginning of a day in UTC: less than a day is not kept."""
    for what, moment in (("since", since), ("until", until)):
        if moment is not None and moment.astimezone(UTC).time() != time():
            raise CapabilityError(
                f"{what} {moment.isoformat()} is within a day; Redis keeps sums of whole days, in UTC",
                hint="give the beginning of a day, or use PostgreSQL or SQLite",
                operation="usage",
                connection=connection,
            )


def usage_rows(threads: Iterable[Used], values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the SQL databases do for ``list_usage``: a row of sums for each key, in the order of the keys."""
    by = values["by"]
    sums: dict[str | None, dict[str, int]] = {}
    for thread in threads:
        for counter, text in thread.counters.items():
            part, day, models = counter.split(":", 2)
            moment = _EPOCH + timedelta(days=int(day))
            if not _is_within(moment, values["since"], values["until"]):
                continue
            keys = {
                "day": moment.isoformat(),
                "models": models,
                "session": thread.session,
                "thread": thread.thread,
                "user": thread.user,
            }
            key = None if by is None else keys[by]
            if key == "" or (key is not None and values["after"] is not None and key <= values["after"]):
                continue
            found = sums.setdefault(key, {})
            high = part.endswith("+")
            name = part.removesuffix("+")
            found[name] = found.get(name, 0) + int(text) * (_HIGH if high else 1)
    ordered = sorted(sums.items(), key=lambda pair: pair[0] or "")
    return [_row(key, found) for key, found in ordered if found.get("messages")][: values["limit"]]


def _is_within(day: date, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or day >= since.astimezone(UTC).date()) and (
        until is None or day < until.astimezone(UTC).date()
    )


def _row(key: str | None, found: dict[str, int]) -> dict[str, Any]:
    timed = found.get("timed", 0)
    return {
        "key": key,
        "messages": found["messages"],
        "input_tokens": found.get("input", 0),
        "output_tokens": found.get("output", 0),
        "cost_nanos": found.get("cost", 0),
        "latency_micros": found.get("latency", 0) / timed if timed else None,
    }
