# Generated from ../_async/test_events_sums.py by tests/unasync.py: edit that one.
"""Sums over events: the same on both databases, and what plain Python computes."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest

from persistence import DatabaseManager, ValidationError
from sessions import EventLog, Event, EventBucket
from sessions.event_queries import EventSum
from tests._sync.events import BACKENDS, DAY, HOUR, MINUTE, metric, open_log

pytestmark = pytest.mark.tables("sessions")

SUMS: list[EventSum] = ["count", "sum", "avg", "min", "max", "p50", "p95", "p99", "rate"]


@pytest.fixture(params=BACKENDS)
def log(manager: DatabaseManager, request: pytest.FixtureRequest, tmp_path: Path) -> EventLog:
    return open_log(manager, request, tmp_path)


def percentile(values: list[float], fraction: float) -> float | None:
    """Return what lies at ``fraction`` of the way from the first to the last of the sorted values."""
    if not values:
        return None
    values = sorted(values)
    place = fraction * (len(values) - 1)
    below, above = values[math.floor(place)], values[math.ceil(place)]
    return below + (place - math.floor(place)) * (above - below)


def summed(events: list[Event], seconds: float) -> dict[EventSum, float | None]:
    values = [event.value for event in events if event.value is not None]
    return {
        "count": len(events),
        "sum": sum(values) if values else None,
        "avg": sum(values) / len(values) if values else None,
        "min": min(values, default=None),
        "max": max(values, default=None),
        "p50": percentile(values, 0.5),
        "p95": percentile(values, 0.95),
        "p99": percentile(values, 0.99),
        "rate": len(events) / seconds,
    }


def some_events(count: int) -> list[Event]:
    """Return events whose values are sums of powers of two, so that no order of adding them rounds."""
    chosen = random.Random(7)
    return [
        metric(
            chosen.randrange(-4000, 4000) / 16,
            DAY + timedelta(microseconds=chosen.randrange(2 * 86_400_000_000)),
            name=chosen.choice(["cpu", "mem"]),
            service=chosen.choice([None, "a", "é"]),
            tags=chosen.choice([{}, {"host": "x"}, {"host": "y", "n": 1}, {"host": None}, {"host": 2}, {"host": True}]),
        )
        for _ in range(count)
    ] + [Event(kind="log", level="info", time=DAY + n * HOUR) for n in range(10)]


def test_sums_are_those_that_plain_python_computes(log: EventLog) -> None:
    events = some_events(1500)
    log.append_many(events)
    since, until = DAY + 90 * MINUTE, DAY + 46 * HOUR
    expected: dict[tuple[Any, ...], list[Event]] = defaultdict(list)
    for event in events:
        if since <= event.time < until:
            start = DAY + (event.time - DAY) // (6 * HOUR) * (6 * HOUR)
            host = event.tags.get("host")
            expected[start, event.name, event.service, type(host).__name__, host].append(event)
    found = log.aggregate(
        6 * HOUR, SUMS, by=["name", "service"], by_tags="host", since=since, until=until, kinds=["metric", "log"]
    )
    assert len(found) == len(expected)
    for bucket in found:
        host = bucket.group["host"]
        key = bucket.start, bucket.group["name"], bucket.group["service"], type(host).__name__, host
        length = min(bucket.start + 6 * HOUR, until) - max(bucket.start, since)
        assert bucket.values == summed(expected[key], length.total_seconds())
    assert [bucket.start for bucket in found] == sorted(bucket.start for bucket in found)
    assert [bucket.group["host"] for bucket in found if bucket.start == DAY and bucket.group["name"] == "cpu"][:5] == [
        None,
        True,
        2,
        "x",
        "y",
    ]


def test_buckets_begin_at_midnight_and_weeks_on_mondays(log: EventLog) -> None:
    moments = [DAY - timedelta(microseconds=1), DAY, DAY + 15 * MINUTE, datetime(1970, 1, 1, tzinfo=UTC)]
    log.append_many([metric(1, moment) for moment in moments])

    def starts(bucket: Any) -> list[datetime]:
        return [found.start for found in log.aggregate(bucket)]

    thursday = datetime(1970, 1, 1, tzinfo=UTC)
    assert starts(86_400) == [thursday, DAY - 24 * HOUR, DAY]
    assert starts(timedelta(days=7)) == [datetime(1969, 12, 29, tzinfo=UTC), DAY - 7 * 24 * HOUR, DAY]
    assert starts(900) == [thursday, DAY - 15 * MINUTE, DAY, DAY + 15 * MINUTE]
    assert starts(0.000001) == [moments[3], moments[0], moments[1], moments[2]]


def test_one_sum_is_the_value_of_its_bucket(log: EventLog) -> None:
    log.append_many([metric(0.1), metric(0.2), metric(0.3)])
    (bucket,) = log.aggregate(HOUR, "p50")
    assert bucket == EventBucket(start=DAY, group={}, values={"p50": 0.2})
    assert bucket.value == 0.2
    (bucket,) = log.aggregate(HOUR, ("sum", "avg"))
    assert bucket.values == pytest.approx({"sum": 0.6, "avg": 0.2})
    with pytest.raises(ValidationError, match="sum, avg"):
        _ = bucket.value


def test_too_many_buckets_are_refused_and_never_cut(log: EventLog) -> None:
    log.append_many([metric(1, DAY + n * MINUTE / 60) for n in range(10_001)])
    with pytest.raises(ValidationError, match="more than 10,000"):
        log.aggregate(1)
    assert len(log.aggregate(1, since=DAY + MINUTE / 60)) == 10_000


def test_a_sum_that_cannot_be_asked_for_is_refused(log: EventLog) -> None:
    wrong: Any
    for wrong in (0, -1, float("nan"), "1h", True, timedelta(days=367)):
        with pytest.raises(ValidationError):
            log.aggregate(wrong)
    for wrong in ({"sums": "median"}, {"sums": []}, {"sums": ["sum", "sum"]}, {"by": "time"}, {"by": 7},
                  {"by_tags": [""]}, {"by": "name", "by_tags": "name"}, {"by_tags": [str(n) for n in range(9)]},
                  {"kinds": "metric"}, {"level": "x"}):  # fmt: skip
        with pytest.raises(ValidationError):
            log.aggregate(HOUR, **wrong)
