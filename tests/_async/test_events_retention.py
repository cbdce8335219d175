"""Retention of events: rolled up exactly once, whoever runs beside it and whenever it dies."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from persistence import AsyncDatabaseManager, PostgreSQLConfig, TransactionError, ValidationError
from sessions import AsyncEventLog, Event, EventPolicy, RollUpReport
from tests._async.events import BACKENDS, DAY, HOUR, MINUTE, database_of, is_postgresql, metric, open_log
from tests._async.side import together

pytestmark = pytest.mark.tables("sessions")

DAYS = timedelta(days=1)
POLICY = EventPolicy(aggregate_after=7 * DAYS, downsample_after=30 * DAYS, delete_after=365 * DAYS)


@pytest_asyncio.fixture(params=BACKENDS)
async def log(manager: AsyncDatabaseManager, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncEventLog:
    return await open_log(manager, request, tmp_path)


def two_days(**more: Any) -> list[Event]:
    """Return 192 events of two series on two days, and a log entry without a value on each."""
    events = [metric(n / 4, DAY + n * 15 * MINUTE, tags={"host": "ab"[n % 2], "n": n % 3}, **more) for n in range(192)]
    return [*events, *[Event(kind="log", level="info", message="m", time=DAY + n * DAYS) for n in range(2)]]


async def sums(log: AsyncEventLog, bucket: timedelta = DAYS) -> list[tuple[Any, ...]]:
    found = await log.aggregate(bucket, ["count", "sum", "avg", "min", "max"], by=["kind", "level"], by_tags="host")
    return [(each.start, *each.group.values(), *each.values.values()) for each in found]


async def test_events_are_rolled_up_to_hours_and_then_to_days(log: AsyncEventLog) -> None:
    await log.append_many(two_days())
    whole = await sums(log)
    hours = await sums(log, HOUR)
    first = await log.roll_up(POLICY, now=DAY + 9 * DAYS)
    assert (first.aggregated, first.downsampled, first.deleted, first.complete) == (194, 0, 0, True)
    assert first.made == len({(event.time.replace(minute=0), str(event.tags), event.kind) for event in two_days()})
    assert await sums(log, HOUR) == hours
    (rolled, *_) = await log.query(order="oldest", kinds=["metric"])
    assert (rolled.retention, rolled.time, rolled.samples, rolled.valued) == ("aggregated", DAY, 2, 2) or (
        rolled.samples == 1
    )
    assert await log.roll_up(POLICY, now=DAY + 9 * DAYS) == RollUpReport()

    second = await log.roll_up(POLICY, now=DAY + 40 * DAYS)
    assert (second.aggregated, second.downsampled) == (0, first.made)
    assert await sums(log) == whole
    assert {event.retention for event in await log.query(limit=1000)} == {"downsampled"}
    assert {event.time for event in await log.query(limit=1000)} == {DAY, DAY + DAYS}

    last = await log.roll_up(POLICY, now=DAY + 900 * DAYS)
    assert last.deleted == second.made
    assert await log.query() == []
    if is_postgresql(log):
        assert first.dropped == ["holdfast_events_raw_20260309", "holdfast_events_raw_20260310"]
        assert second.dropped == []  # the month isn't over
        assert last.dropped == ["holdfast_events_aggregated_202603", "holdfast_events_downsampled_2026"]
        assert await log.list_partitions() == []


async def test_a_dry_run_says_what_a_run_does_and_does_nothing(log: AsyncEventLog) -> None:
    events = two_days()
    await log.append_many(events)
    moment = DAY + 8 * DAYS
    dry = await log.roll_up(POLICY, dry_run=True, now=moment)
    assert len(await log.query(limit=1000)) == len(events)
    done = await log.roll_up(POLICY, now=moment)
    assert (dry.aggregated, dry.deleted, dry.dropped) == (done.aggregated, done.deleted, done.dropped)
    assert (dry.dry_run, dry.made, dry.aggregated) == (True, 0, 97)
    both = EventPolicy(aggregate_after=DAYS, delete_after=9 * DAYS)
    dry = await log.roll_up(both, dry_run=True, now=DAY + 10 * DAYS)
    assert (dry.deleted, dry.aggregated) == (done.made, 97)
    dry = await log.roll_up(both, dry_run=True, now=DAY + 10 * DAYS, limit=1)
    assert (dry.dry_run, dry.complete) == (True, False)


async def test_only_whole_hours_and_what_is_old_enough_are_rolled_up(log: AsyncEventLog) -> None:
    await log.append_many(two_days())
    report = await log.roll_up(POLICY, now=DAY + 7 * DAYS + 10 * HOUR + 59 * MINUTE)
    assert report.aggregated == 41
    raw = await log.query(retention="raw", order="oldest", limit=1000)
    assert raw[0].time == DAY + 10 * HOUR
    assert report.dropped == []


async def test_a_late_event_is_rolled_up_by_the_next_run(log: AsyncEventLog) -> None:
    await log.append_many(two_days())
    await log.roll_up(POLICY, now=DAY + 9 * DAYS)
    await log.append(metric(1000.5, DAY, tags={"host": "a", "n": 0}))
    before = await sums(log)
    assert (await log.roll_up(POLICY, now=DAY + 9 * DAYS)).aggregated == 1
    assert await sums(log) == before
    assert before[1][-1] == 1000.5


async def test_batches_are_bounded_and_a_limit_ends_a_run(log: AsyncEventLog) -> None:
    await log.append_many(two_days())
    await log.append(Event(kind="note", time=DAY))  # so that no partition goes as a whole
    before = await sums(log)
    policy = EventPolicy(aggregate_after=7 * DAYS, kinds=("metric", "log"))
    part = await log.roll_up(policy, now=DAY + 8 * DAYS, batch=20, limit=40)
    assert (part.aggregated, part.complete) == (40, False)
    assert await sums(log) == before
    rest = await log.roll_up(policy, now=DAY + 8 * DAYS, batch=7)
    assert (rest.aggregated, rest.complete, rest.dropped) == (57, True, [])
    assert await sums(log) == before
    assert [event.kind for event in await log.query(retention="raw", until=DAY + DAYS)] == ["note"]


async def test_named_tags_stay_apart_and_the_others_go(log: AsyncEventLog) -> None:
    await log.append_many(two_days())
    before = await sums(log)
    policy = EventPolicy(aggregate_after=7 * DAYS, tags=("host",), aggregate_by=DAYS)
    report = await log.roll_up(policy, now=DAY + 9 * DAYS)
    assert (report.aggregated, report.made) == (194, 6)
    assert await sums(log) == before
    assert {str(event.tags) for event in await log.query()} == {"{}", "{'host': 'a'}", "{'host': 'b'}"}


async def test_equal_tags_are_one_series_and_numbers_keep_their_digits(log: AsyncEventLog) -> None:
    third = 0.1 + 0.2
    kept = {key: n + third for n, key in enumerate(("f", '"', "\\", "\n\x01", "é😀", "$.f", "[0]"))}
    kept["o"] = {"aa": [{"z": 1, "y": third}], "b": 1.5e-300}
    backwards = {"o": {"b": 1.5e-300, "aa": [{"y": third, "z": 1}]}, **{key: kept[key] for key in reversed(kept)}}
    await log.append(Event(kind="metric", value=1, tags={"": None, "g": third, **kept}, time=DAY))
    await log.append(Event(kind="metric", value=1, tags={**backwards, "g": third, "": None}, time=DAY))
    for key, value in kept.items():
        (bucket,) = await log.aggregate(DAYS, by_tags=key)
        assert (bucket.group, bucket.value) == ({key: value}, 2)
    await log.roll_up(EventPolicy(aggregate_after=DAYS), now=DAY + 2 * DAYS)
    (event,) = await log.query()
    assert (event.samples, event.tags) == (2, {"": None, "g": third, **kept})
    policy = EventPolicy(aggregate_after=DAYS, downsample_after=2 * DAYS, tags=tuple(kept))
    await log.roll_up(policy, now=DAY + 9 * DAYS)
    (event,) = await log.query()
    assert (event.samples, event.tags) == (2, kept)


async def test_percentiles_of_what_was_rolled_up_are_none_and_never_wrong(log: AsyncEventLog) -> None:
    await log.append_many([metric(n, DAY + n * 25 * HOUR) for n in range(2)])
    await log.roll_up(POLICY, now=DAY + 8 * DAYS)
    found = await log.aggregate(DAYS, ["p50", "count", "max"])
    assert [tuple(bucket.values.values()) for bucket in found] == [(None, 1, 0), (1, 1, 1)]


async def test_a_run_leaves_what_other_tenants_have_in_the_same_partition(
    manager: AsyncDatabaseManager, log: AsyncEventLog
) -> None:
    other = AsyncEventLog(manager, "main", tenant="a-tenant")
    await log.append_many(two_days())
    theirs = two_days()
    await other.append_many(theirs)
    report = await log.roll_up(POLICY, now=DAY + 9 * DAYS)
    assert (report.aggregated, report.dropped) == (194, [])
    assert sorted(event.id for event in await other.query(limit=1000)) == sorted(event.id for event in theirs)
    report = await other.roll_up(POLICY, now=DAY + 9 * DAYS)
    assert report.aggregated == 194
    if is_postgresql(log):
        assert report.dropped == ["holdfast_events_raw_20260309", "holdfast_events_raw_20260310"]


async def test_two_runs_at_once_roll_up_each_event_once(manager: AsyncDatabaseManager, log: AsyncEventLog) -> None:
    await log.append_many([*two_days(), Event(kind="note", time=DAY + 4 * HOUR)])
    before = await sums(log)
    logs = [log, AsyncEventLog(manager, "elsewhere")]
    for kinds in (("metric", "log"), None):
        policy = EventPolicy(aggregate_after=7 * DAYS, kinds=kinds)
        runs = [lambda each=each, policy=policy: each.roll_up(policy, now=DAY + 9 * DAYS, batch=11) for each in logs]
        reports = await together(*runs)  # type: ignore[arg-type]
        assert all(isinstance(report, RollUpReport) for report in reports), reports
        assert sum(report.events for report in reports) == (194 if kinds else 1)
        assert await sums(log) == before or kinds is None
    assert sum(bucket.value or 0 for bucket in await log.aggregate(DAYS)) == 195


async def test_a_run_that_dies_half_way_has_rolled_up_whole_batches_or_nothing(
    manager: AsyncDatabaseManager, log: AsyncEventLog
) -> None:
    """What kills it is the database itself: the twentieth event that a roll-up makes can't be stored."""
    database = database_of(log)
    await log.append_many([*two_days(), Event(kind="note", time=DAY)])
    before = await sums(log)
    if is_postgresql(log):
        await log._make_partition(database, "aggregated", "202603", DAY)
        await database.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '53100'; END $$"
        )
        trigger = "EXECUTE FUNCTION refuse()"
        condition = f"(NEW.retention = 'aggregated' AND NEW.at >= '{(DAY + 20 * HOUR).isoformat()}')"
        await database.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON holdfast_events_aggregated_202603 FOR EACH ROW WHEN {condition} "
            f"{trigger}"
        )
    else:
        condition = f"NEW.retention = 'aggregated' AND NEW.at >= {round((DAY + 20 * HOUR).timestamp() * 1e6)}"
        await database.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON holdfast_events WHEN {condition} "
            "BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
    for policy in (EventPolicy(aggregate_after=7 * DAYS, kinds=("metric", "log")), POLICY):
        with pytest.raises(Exception, match="no room"):
            await log.roll_up(policy, now=DAY + 9 * DAYS, batch=10)
        assert [row for row in await sums(log) if row[1] != "note"] == [row for row in before if row[1] != "note"]
    assert await log.query(retention="aggregated", limit=1)
    await database.execute(
        "DROP TRIGGER refuse" + (" ON holdfast_events_aggregated_202603" if is_postgresql(log) else "")
    )
    await log.roll_up(POLICY, now=DAY + 9 * DAYS)
    assert await log.query(retention="raw") == []
    assert await sums(log) == before


async def test_a_partition_in_use_is_left_to_the_next_run(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("main", "elsewhere"):
        await manager.add_postgresql(name, postgresql_config)
    log, other = AsyncEventLog(manager, "main"), AsyncEventLog(manager, "elsewhere")
    await log.append_many(two_days())
    monkeypatch.setattr("sessions._async.events_retention.LOCK_SECONDS", 0.1)
    before = await sums(log)
    async with manager.get_database("elsewhere").transaction():
        await other.append(metric(1, DAY))
        report = await log.roll_up(POLICY, now=DAY + 9 * DAYS)
        # The first can't be rolled up, and the second, which is, can't be dropped.
        assert report.busy == ["holdfast_events_raw_20260309", "holdfast_events_raw_20260310"]
        assert (report.aggregated, report.dropped) == (97, [])
        assert await sums(log) == before
    report = await log.roll_up(POLICY, now=DAY + 9 * DAYS)
    assert (report.aggregated, report.busy, len(report.dropped)) == (98, [], 2)


async def test_a_policy_that_cannot_be_is_refused(log: AsyncEventLog) -> None:
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
            await log.roll_up(**{"policy": POLICY, **wrong})
    async with database_of(log).transaction():
        with pytest.raises(TransactionError, match="outside"):
            await log.roll_up(POLICY)
