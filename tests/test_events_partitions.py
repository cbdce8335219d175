"""Partitions of events on PostgreSQL: a window reads its own, and several processes make and drop them at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from persistence import (
    DatabaseManager,
    DeadlineError,
    MigrationLine,
    Migrator,
    PostgreSQLConfig,
    PostgreSQLDatabase,
    UnavailableError,
)
from sessions import Event, EventLog, EventPolicy
from sessions.event_queries import Sums, condition_of
from tests.servers import url_of
from tests.unasync import ROOT

DAY = datetime(2026, 3, 9, tzinfo=UTC)
DAYS, HOUR = timedelta(days=1), timedelta(hours=1)
WINDOW = {"since": DAY, "until": DAY + DAYS}


@pytest.fixture
def log(postgresql_config: PostgreSQLConfig) -> Iterator[EventLog]:
    with DatabaseManager() as manager:
        manager.add_postgresql("main", postgresql_config)
        yield EventLog(manager, "main")


@pytest.fixture
def database(log: EventLog) -> PostgreSQLDatabase:
    found = log._manager.get("main")
    assert isinstance(found, PostgreSQLDatabase)
    return found


def metrics(days: int, each: int = 20) -> list[Event]:
    step = DAYS / each
    return [Event(kind="metric", name="cpu", value=n / 4, time=DAY + n * step) for n in range(days * each)]


def scanned(database: PostgreSQLDatabase, statement: tuple[str, dict[str, Any]]) -> list[str]:
    """Return the tables that the plan of a statement reads, for the very values that it is called with."""
    sql, given = statement
    (row,) = database.fetch_all(f"EXPLAIN (FORMAT JSON) {sql}", given, prepare=False)
    found: set[str] = set()
    nodes = [row["QUERY PLAN"][0]["Plan"]]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if "Relation Name" in node:
            found.add(node["Relation Name"])
    return sorted(found)


def test_a_window_reads_its_own_partitions_however_many_days_are_stored(
    database: PostgreSQLDatabase, log: EventLog
) -> None:
    asked = Sums(HOUR, ["count", "p95"], "name", "host")
    condition = condition_of("postgresql", kinds=["metric"], name="cpu")
    filters = {"filter": condition.sql}
    sums = asked.parameters("postgresql", condition)
    for days in (3, 40):
        log.append_many(metrics(days))
        log.append(Event(kind="audit", time=DAY))
        log.append(Event(kind="metric", retention="aggregated", time=DAY))
        partitions = [partition.name for partition in log.list_partitions()]
        assert len([name for name in partitions if "_raw_" in name]) == days
        expected = ["holdfast_events_aggregated_202603", "holdfast_events_kept_202603", "holdfast_events_raw_20260309"]
        statements = [
            log._filled(database, "sum_events", {**WINDOW, **sums}, asked.places("postgresql", condition)),
            log._filled(database, "list_newest_events", {**WINDOW, **condition.parameters, "limit": 10}, filters),
            log._filled(database, "list_oldest_events", {**WINDOW, **condition.parameters, "limit": 10}, filters),
        ]
        for statement in statements:
            assert scanned(database, statement) == expected
        audits = condition_of("postgresql", kinds=["audit"])
        values = {**WINDOW, **audits.parameters, "limit": 10}
        only = log._filled(database, "list_newest_events", values, {"filter": audits.sql})
        assert scanned(database, only) == ["holdfast_events_kept_202603"]
        # A follow looks at what a late event may be in, and at what lies ahead.
        place = {"floor": DAY + (days - 2) * DAYS, "after_xid": "1", "after_id": -1, "limit": 10}
        followed = scanned(database, log._filled(database, "list_written_events", place, {}))
        assert [name for name in followed if "_raw_" in name] == [name for name in partitions if "_raw_" in name][-2:]
        database.execute("DELETE FROM holdfast_events")


WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from persistence import DatabaseManager
from sessions import Event, EventLog
start = datetime(2026, 3, 9, tzinfo=UTC)
with DatabaseManager() as manager:
    manager.add("main", sys.argv[1])
    log = EventLog(manager, "main")
    log.query(limit=1)
    print("ready", flush=True)
    sys.stdin.readline()
    for day in range(6):
        log.append_many([Event(kind="metric", value=1, time=start + timedelta(days=day + n)) for n in range(3)])
        log.append(Event(kind="audit", time=start + timedelta(days=40 * day)))
"""


def test_processes_that_make_partitions_at_once_lose_no_event(log: EventLog, database: PostgreSQLDatabase) -> None:
    log.query()
    command = [sys.executable, "-c", WRITER, url_of(database.config)]
    writers = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n", timeout=60)
    assert [writer.returncode for writer in writers] == [0] * 4
    counts = {
        bucket.group["kind"]: bucket.value for bucket in log.aggregate(366 * DAYS, by="kind", until=DAY + 50 * DAYS)
    }
    assert counts["metric"] == 4 * 18
    assert log.verify().entries == 4 * 6
    assert len([each for each in log.list_partitions() if each.retention == "raw"]) == 8


ROLLER = """
import sys
from datetime import UTC, datetime, timedelta
from persistence import DatabaseManager
from sessions import EventLog, EventPolicy
with DatabaseManager() as manager:
    manager.add("main", sys.argv[1])
    log = EventLog(manager, "main")
    policy = EventPolicy(aggregate_after=timedelta(days=1), kinds=("metric",))
    print("ready", flush=True)
    log.roll_up(policy, now=datetime(2027, 1, 1, tzinfo=UTC), batch=10)
"""


def test_a_roll_up_that_is_killed_has_counted_each_event_once(log: EventLog, database: PostgreSQLDatabase) -> None:
    log.append_many(metrics(20, each=60))
    log.append_many([Event(kind="note", time=DAY + 2 * n * DAYS) for n in range(10)])  # every other day goes in batches
    before = [bucket.values for bucket in log.aggregate(HOUR, ["count", "sum", "min", "max"], kinds=["metric"])]
    killed = 0
    for delay in (0.02, 0.05, 0.1):
        command = [sys.executable, "-c", ROLLER, url_of(database.config)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as roller:
            assert roller.stdout is not None
            roller.stdout.readline()
            try:
                roller.wait(delay)
            except subprocess.TimeoutExpired:
                os.kill(roller.pid, signal.SIGKILL)
                killed += 1
        after = [bucket.values for bucket in log.aggregate(HOUR, ["count", "sum", "min", "max"], kinds=["metric"])]
        assert after == before
    assert killed
    policy = EventPolicy(aggregate_after=DAYS, kinds=("metric",))
    log.roll_up(policy, now=datetime(2027, 1, 1, tzinfo=UTC))
    assert log.query(kinds=["metric"], retention="raw") == []
    after = [bucket.values for bucket in log.aggregate(HOUR, ["count", "sum", "min", "max"], kinds=["metric"])]
    assert after == before


def test_taking_the_migration_back_takes_every_partition(log: EventLog, database: PostgreSQLDatabase) -> None:
    log.append_many(metrics(3))
    log.audit("x")
    line, migrator = MigrationLine.of_package("sessions"), Migrator(database)
    assert migrator.validate(line) == ()
    (number,) = [migration.number for migration in line.load("postgresql") if migration.name == "events"]
    assert migrator.down(line, to=number - 1)[-1].name == "events"
    left = database.fetch_all("SELECT relname FROM pg_class WHERE relname LIKE 'holdfast\\_event%'")
    assert left == []


def test_after_a_restore_an_append_makes_its_partition_again_in_a_transaction_too(
    log: EventLog, database: PostgreSQLDatabase, tmp_path: Path
) -> None:
    log.query()
    database.back_up(tmp_path / "before")
    log.append(Event(kind="metric", name="cpu", value=1.0, time=DAY))
    database.restore(tmp_path / "before")
    with database.transaction():
        log.append(Event(kind="metric", name="cpu", value=2.0, time=DAY))
    assert [event.value for event in log.query()] == [2.0]


def test_a_restore_that_fails_changes_nothing(log: EventLog, database: PostgreSQLDatabase, tmp_path: Path) -> None:
    log.append(Event(kind="metric", name="cpu", value=1.0, time=DAY))
    database.back_up(tmp_path / "before")
    log.append(Event(kind="metric", name="cpu", value=2.0, time=DAY + timedelta(days=3)))
    database.execute("CREATE VIEW of_mine AS SELECT value FROM holdfast_events")
    with pytest.raises(UnavailableError, match=r"pg_restore ended with 1: .*of_mine"):
        database.restore(tmp_path / "before")
    with pytest.raises(DeadlineError, match="within 0 s"):
        database.restore(tmp_path / "before", timeout=0)
    assert [row["value"] for row in database.fetch_all("SELECT value FROM of_mine ORDER BY 1")] == [1.0, 2.0]
    database.execute("DROP VIEW of_mine")
    database.restore(tmp_path / "before")
    assert [event.value for event in log.query()] == [1.0]
