# Generated from ../_async/test_events_retention.py by tests/unasync.py: edit that one.
"""Retention of events: rolled up exactly once, whoever runs beside it and whenever it dies."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest

from persistence import DatabaseManager, PostgreSQLConfig, TransactionError, ValidationError
from sessions import EventLog, Event, EventPolicy, RollUpReport
from tests._sync.events import BACKENDS, DAY, HOUR, MINUTE, database_of, is_postgresql, metric, open_log
from tests._sync.side import together

pytestmark = pytest.mark.tables("sessions")

DAYS = timedelta(days=1)
POLICY = EventPolicy(aggregate_after=7 * DAYS, downsample_after=30 * DAYS, delete_after=365 * DAYS)


@pytest.fixture(params=BACKENDS)
def log(manager: DatabaseManager, request: pytest.FixtureRequest, tmp_path: Path) -> EventLog:
    return open_log(manager, request, tmp_path)


def two_days(**more: Any) -> list[Event]:
    """Return 192 events of two series on two days, and a log entry without a value on each."""
    events = [metric(n / 4, DAY + n * 15 * MINUTE, tags={"host": "ab"[n % 2], "n": n % 3}, **more) for n in range(192)]
    return [*events, *[Event(kind="log", level="info", message="m", time=DAY + n * DAYS) for n in range(2)]]


def sums(log: EventLog, bucket: timedelta = DAYS) -> list[tuple[Any, ...]]:
    found = log.aggregate(bucket, ["count", "sum", "avg", "min", "max"], by=["kind", "level"], by_tags="host")
    return [(each.start, *each.group.values(), *each.values.values()) for each in found]


def test_events_are_rolled_up_to_hours_and_then_to_days(log: EventLog) -> None:
    log.append_many(two_days())
    whole = sums(log)
    hours = sums(log, HOUR)
    first = log.roll_up(POLICY, now=DAY + 9 * DAYS)
    assert (first.aggregated, first.downsampled, first.deleted, first.complete) == (194, 0, 0, True)
    assert first.made == len({(event.time.replace(minute=0), str(event.tags), event.kind) for event in two_days()})
    assert sums(log, HOUR) == hours
    (rolled, *_) = log.query(order="oldest", kinds=["metric"])
    assert (rolled.retention, rolled.time, rolled.samples, rolled.valued) == ("aggregated", DAY, 2, 2) or (
        rolled.samples == 1
    )
    assert log.roll_up(POLICY, now=DAY + 9 * DAYS) == RollUpReport()

    second = log.roll_up(POLICY, now=DAY + 40 * DAYS)
    assert (second.aggregated, second.downsampled) == (0, first.made)
    assert sums(log) == whole
    assert {event.retention for event in log.query(limit=1000)} == {"downsampled"}
    assert {event.time for event in log.query(limit=1000)} == {DAY, DAY + DAYS}

    last = log.roll_up(POLICY, now=DAY + 900 * DAYS)
    assert last.deleted == second.made
    assert log.query() == []
    if is_postgresql(log):
        assert first.dropped == ["holdfast_events_raw_20260309", "holdfast_events_raw_20260310"]
        assert second.dropped == []  # the month isn't over
        assert last.dropped == ["holdfast_events_aggregated_202603", "holdfast_events_downsampled_2026"]
        assert log.list_partitions() == []


def test_a_dry_run_says_what_a_run_does_and_does_nothing(log: EventLog) -> None:
    events = two_days()
    log.append_many(events)
    moment = DAY + 8 * DAYS
    dry = log.roll_up(POLICY, dry_run=True, now=moment)
    assert len(log.query(limit=1000)) == len(events)
    done = log.roll_up(POLICY, now=moment)
    assert (dry.aggregated, dry.deleted, dry.dropped) == (done.aggregated, done.deleted, done.dropped)
    assert (dry.dry_run, dry.made, dry.aggregated) == (True, 0, 97)
    both = EventPolicy(aggregate_after=DAYS, delete_after=9 * DAYS)
    dry = log.roll_up(both, dry_run=True, now=DAY + 10 * DAYS)
    assert (dry.deleted, dry.aggregated) == (done.made, 97)
    dry = log.roll_up(both, dry_run=True, now=DAY + 10 * DAYS, limit=1)
    assert (dry.dry_run, dry.complete) == (True, False)


def test_only_whole_hours_and_what_is_old_enough_are_rolled_up(log: EventLog) -> None:
    log.append_many(two_days())
    report = log.roll_up(POLICY, now=DAY + 7 * DAYS + 10 * HOUR + 59 * MINUTE)
    assert report.aggregated == 41
    raw = log.query(retention="raw", order="oldest", limit=1000)
    assert raw[0].time == DAY + 10 * HOUR
    assert report.dropped == []


def test_a_late_event_is_rolled_up_by_the_next_run(log: EventLog) -> None:
    log.append_many(two_days())
    log.roll_up(POLICY, now=DAY + 9 * DAYS)
    log.append(metric(1000.5, DAY, tags={"host": "a", "n": 0}))
    before = sums(log)
    assert (log.roll_up(POLICY, now=DAY + 9 * DAYS)).aggregated == 1
    assert sums(log) == before
    assert before[1][-1] == 1000.5


def test_batches_are_bounded_and_a_limit_ends_a_run(log: EventLog) -> None:
    log.append_many(two_days())
    log.append(Event(kind="note", time=DAY))  # so that no partition goes as a whole
    before = sums(log)
    policy = EventPolicy(aggregate_after=7 * DAYS, kinds=("metric", "log"))
    part = log.roll_up(policy, now=DAY + 8 * DAYS, batch=20, limit=40)
    assert (part.aggregated, part.complete) == (40, False)
    assert sums(log) == before
    rest = log.roll_up(policy, now=DAY + 8 * DAYS, batch=7)
    assert (rest.aggregated, rest.complete, rest.dropped) == (57, True, [])
    assert sums(log) == before
    assert [event.kind for event in log.query(retention="raw", until=DAY + DAYS)] == ["note"]


def test_named_tags_stay_apart_and_the_others_go(log: EventLog) -> None:
    log.append_many(two_days())
    before = sums(log)
    policy = EventPolicy(aggregate_after=7 * DAYS, tags=("host",), aggregate_by=DAYS)
    report = log.roll_up(policy, now=DAY + 9 * DAYS)
    assert (report.aggregated, report.made) == (194, 6)
    assert sums(log) == before
    assert {str(event.tags) for event in log.query()} == {"{}", "{'host': 'a'}", "{'host': 'b'}"}


def test_equal_tags_are_one_series_and_numbers_keep_their_digits(log: EventLog) -> None:
    third = 0.1 + 0.2
    kept = {key: n + third for n, key in enumerate(("f", '"', "\\", "\n\x01", "é😀", "$.f", "[0]"))}
    kept["o"] = {"aa": [{"z": 1, "y": third}], "b": 1.5e-300}
    backwards = {"o": {"b": 1.5e-300, "aa": [{"y": third, "z": 1}]}, **{key: kept[key] for key in reversed(kept)}}
    log.append(Event(kind="metric", value=1, tags={"": None, "g": third, **kept}, time=DAY))
    log.append(Event(kind="metric", value=1, tags={**backwards, "g": third, "": None}, time=DAY))
    for key, value in kept.items():
        (bucket,) = log.aggregate(DAYS, by_tags=key)
        assert (bucket.group, bucket.value) == ({key: value}, 2)
    log.roll_up(EventPolicy(aggregate_after=DAYS), now=DAY + 2 * DAYS)
    (event,) = log.query()
    assert (event.samples, event.tags) == (2, {"": None, "g": third, **kept})
    policy = EventPolicy(aggregate_after=DAYS, downsample_after=2 * DAYS, tags=tuple(kept))
    log.roll_up(policy, now=DAY + 9 * DAYS)
    (event,) = log.query()
    assert (event.samples, event.tags) == (2, kept)


def test_percentiles_of_what_was_rolled_up_are_none_and_never_wrong(log: EventLog) -> None:
    log.append_many([metric(n, DAY + n * 25 * HOUR) for n in range(2)])
    log.roll_up(POLICY, now=DAY + 8 * DAYS)
    found = log.aggregate(DAYS, ["p50", "count", "max"])
    assert [tuple(bucket.values.values()) for bucket in found] == [(None, 1, 0), (1, 1, 1)]


def test_a_run_leaves_what_other_tenants_have_in_the_same_partition(
    manager: DatabaseManager, log: EventLog
) -> None:
    other = EventLog(manager, "main", tenant="a-tenant")
    log.append_many(two_days())
    theirs = two_days()
    other.append_many(theirs)
    report = log.roll_up(POLICY, now=DAY + 9 * DAYS)
    assert (report.aggregated, report.dropped) == (194, [])
    assert sorted(event.id for event in other.query(limit=1000)) == sorted(event.id for event in theirs)
    report = other.roll_up(POLICY, now=DAY + 9 * DAYS)
    assert report.aggregated == 194
    if is_postgresql(log):
        assert report.dropped == ["holdfast_events_raw_20260309", "holdfast_events_raw_20260310"]


def test_two_runs_at_once_roll_up_each_event_once(manager: DatabaseManager, log: EventLog) -> None:
    log.append_many([*two_days(), Event(kind="note", time=DAY + 4 * HOUR)])
    before = sums(log)
    logs = [log, EventLog(manager, "elsewhere")]
    for kinds in (("metric", "log"), None):
        policy = EventPolicy(aggregate_after=7 * DAYS, kinds=kinds)
        runs = [lambda each=each, policy=policy: each.roll_up(policy, now=DAY + 9 * DAYS, batch=11) for each in logs]
        reports = together(*runs)  # type: ignore[arg-type]
        assert all(isinstance(report, RollUpReport) for report in reports), reports
        assert sum(report.events for report in reports) == (194 if kinds else 1)
        assert sums(log) == before or kinds is None
    assert sum(bucket.value or 0 for bucket in log.aggregate(DAYS)) == 195


def test_a_run_that_dies_half_way_has_rolled_up_whole_batches_or_nothing(
    manager: DatabaseManager, log: EventLog
) -> None:
    """What kills it is the database itself: the twentieth event that a roll-up makes can't be stored."""
    database = database_of(log)
    log.append_many([*two_days(), Event(kind="note", time=DAY)])
    before = sums(log)
    if is_postgresql(log):
        log._make_partition(database, "aggregated", "202603", DAY)
        database.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '53100'; END $$"
        )
        trigger = "EXECUTE FUNCTION refuse()"
        condition = f"(NEW.retention = 'aggregated' AND NEW.at >= '{(DAY + 20 * HOUR).isoformat()}')"
        database.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON holdfast_events_aggregated_202603 FOR EACH ROW WHEN {condition} "
            f"{trigger}"
        )
    else:
        condition = f"NEW.retention = 'aggregated' AND NEW.at >= {round((DAY + 20 * HOUR).timestamp() * 1e6)}"
        database.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON holdfast_events WHEN {condition} "
            "BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
    for policy in (EventPolicy(aggregate_after=7 * DAYS, kinds=("metric", "log")), POLICY):
        with pytest.raises(Exception, match="no room"):
            log.roll_up(policy, now=DAY + 9 * DAYS, batch=10)
        assert [row for row in sums(log) if row[1] != "note"] == [row for row in before if row[1] != "note"]
    assert log.query(retention="aggregated", limit=1)
    database.execute(
        "DROP TRIGGER refuse" + (" ON holdfast_events_aggregated_202603" if is_postgresql(log) else "")
    )
    log.roll_up(POLICY, now=DAY + 9 * DAYS)
    assert log.query(retention="raw") == []
    assert sums(log) == before


def test_a_partition_in_use_is_left_to_the_next_run(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("main", "elsewhere"):
        manager.add_postgresql(name, postgresql_config)
    log, other = EventLog(manager, "main"), EventLog(manager, "elsewhere")
    log.append_many(two_days())
    monkeypatch.setattr("sessions._sync.events_retention.LOCK_SECONDS", 0.1)
    before = sums(log)
    with manager.get_database("elsewhere").transaction():
        other.append(metric(1, DAY))
        report = log.roll_up(POLICY, now=DAY + 9 * DAYS)
        # The first can't be rolled up, and the second, which is, can't be dropped.
        assert report.busy == ["holdfast_events_raw_20260309", "holdfast_events_raw_20260310"]
        assert (report.aggregated, report.dropped) == (97, [])
        assert sums(log) == before
    report = log.roll_up(POLICY, now=DAY + 9 * DAYS)
    assert (report.aggregated, report.busy, len(report.dropped)) == (98, [], 2)


def test_a_policy_that_cannot_be_is_refused(log: EventLog) -> None:
    wrong: Any
    for wrong in (
        {},
        {"aggregate_after": 7},
        {"aggregate_after": timedelta(0)},
        {"aggregate_after": 2 * DAYS, "downsample_after": DAYS},
        {"aggregate_after": DAYS, "delete_after": DAYS},
        {"downsample_after": DAYS},
        {"aggregate_after": DAYS, "aggregate_by": 7 * HOUR},
        {"aggregate_after": DAYS, "aggregate_by": 2 * DAYS},
        {"aggregate_after": DAYS, "aggregate_by": 6 * HOUR, "downsample_by": 4 * HOUR},
        {"aggregate_after": DAYS, "tags": ["host"]},
        {"aggregate_after": DAYS, "tags": ("",)},
        {"aggregate_after": DAYS, "kinds": "metric"},
    ):
        with pytest.raises(ValidationError):
            EventPolicy(**wrong)
    for wrong in ({"policy": "x"}, {"batch": 0}, {"batch": 100_001}, {"limit": 0}, {"now": "today"}):
        with pytest.raises(ValidationError):
            log.roll_up(**{"policy": POLICY, **wrong})
    with database_of(log).transaction():
        with pytest.raises(TransactionError, match="outside"):
            log.roll_up(POLICY)
