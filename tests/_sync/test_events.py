# Generated from ../_async/test_events.py by tests/unasync.py: edit that one.
"""The contract of the event log: what comes back, who sees it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import pytest

from persistence import (
    DatabaseManager,
    ClosedError,
    DuplicateError,
    PersistenceError,
    PostgreSQLConfig,
    ValidationError,
    WrongKindError,
)
from sessions import EventLog, Event, EventPolicy
from tests._sync.events import BACKENDS, DAY, HOUR, MINUTE, database_of, is_postgresql, metric, open_log, settle
from tests._sync.side import together

pytestmark = pytest.mark.tables("sessions")

ALL_ROWS = "SELECT * FROM holdfast_events ORDER BY tenant_id, at, id"


@pytest.fixture(params=BACKENDS)
def log(manager: DatabaseManager, request: pytest.FixtureRequest, tmp_path: Path) -> EventLog:
    return open_log(manager, request, tmp_path)


@pytest.fixture
def elsewhere(manager: DatabaseManager, log: EventLog) -> EventLog:
    """The same events through a second connection."""
    return EventLog(manager, "elsewhere")


FULL = Event(
    kind="log",
    name="agent.planner",
    value=0.1,
    level="error",
    message="it said: 'no'; DROP TABLE holdfast_events; -- :message é \U0001f9f6",
    service="planner",
    correlation="c-1",
    tags={"b": [1, {"x": None}], "a": 1e16, "small": 1e-7, "n": 1, "f": 1.0, "on": True, "é": "ü"},
    time=datetime(2026, 3, 9, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=-5))),
    retention="kept",
)


def test_an_event_comes_back_as_it_is_stored(log: EventLog, elsewhere: EventLog) -> None:
    assert log.append(FULL) == FULL
    (found,) = elsewhere.query()
    assert found == FULL
    assert found.time.tzinfo is UTC
    assert [type(found.tags[key]) for key in ("a", "n", "f")] == [float, int, float]
    (row,) = database_of(log).fetch_all(ALL_ROWS)
    assert (row["tenant_id"], row["kind"], row["level"], row["samples"]) == ("default", "log", "error", None)
    assert row["at"] == (FULL.time if is_postgresql(log) else round(FULL.time.timestamp() * 1e6))


def test_each_kind_has_a_call_of_its_own(log: EventLog, elsewhere: EventLog) -> None:
    made = [
        log.metric("cpu", 75.5, tags={"host": "a"}, service="worker", time=DAY),
        log.log("warning", "slow", name="agent", tags={"ms": 12}, correlation="c", time=DAY + MINUTE),
        log.audit("login", "ada came", service="gate", time=DAY + 2 * MINUTE),
        log.correlate("c", "asked", "the model", service="worker", time=DAY + 3 * MINUTE),
    ]
    found = elsewhere.query(order="oldest")
    assert found == made
    assert [event.kind for event in found] == ["metric", "log", "audit", "correlation"]
    assert [event.value for event in found] == [75.5, None, None, None]
    assert (found[2].chain, found[2].chain_seq, found[2].retention) == ("main", 1, "kept")


def test_many_events_are_stored_all_or_none(log: EventLog, elsewhere: EventLog) -> None:
    events = [metric(n, DAY + n * 7 * HOUR, tags={"n": n}) for n in range(20)]
    assert log.append_many(iter(events)) == 20
    assert elsewhere.query(order="oldest") == events
    assert log.append_many([]) == 0
    with pytest.raises(DuplicateError):
        log.append_many([metric(1), events[7], metric(2)])
    with pytest.raises(ValidationError, match=r"events\[1\]: the value is nan"):
        log.append_many([metric(1), metric(float("nan"))])
    assert len(elsewhere.query()) == 20


def test_a_repeated_append_is_told_and_stores_nothing(log: EventLog, elsewhere: EventLog) -> None:
    event = log.append(metric(1))
    with pytest.raises(DuplicateError):
        log.append(event)
    audit = Event(kind="audit", name="x")
    log.append(audit)
    with pytest.raises(DuplicateError):
        log.append(audit)
    assert [found.kind for found in elsewhere.query(order="oldest")] == ["metric", "audit"]
    assert (log.audit("y")).chain_seq == 2


def test_a_query_filters_by_every_field(log: EventLog) -> None:
    log.append_many(
        [
            metric(1, DAY, name="a", tags={"host": "x", "n": 1, "none": None}),
            metric(2, DAY + HOUR, name="b", service="s", tags={"host": "x", "ok": True}),
            Event(kind="log", level="info", message="m", correlation="c", time=DAY + 2 * HOUR),
            Event(kind="log", level="error", message="m", service="s", time=DAY + 3 * HOUR, tags={"host": "y"}),
            Event(kind="AgentMetrics", name="a", time=DAY + 4 * HOUR, retention="kept"),
        ]
    )
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [4, 3, 2, 1, 0]),
        ({"order": "oldest"}, [0, 1, 2, 3, 4]),
        ({"since": DAY + HOUR, "until": DAY + 3 * HOUR}, [2, 1]),
        ({"kinds": ["metric"]}, [1, 0]),
        ({"kinds": ("log", "AgentMetrics")}, [4, 3, 2]),
        ({"name": "a"}, [4, 0]),
        ({"service": "s", "level": "warning"}, [3]),
        ({"level": "debug"}, [3, 2]),
        ({"correlation": "c"}, [2]),
        ({"tags": {"host": "x"}}, [1, 0]),
        ({"tags": {"host": "x", "n": 1.0}}, [0]),
        ({"tags": {"n": "1"}}, []),
        ({"tags": {"none": None}}, [0]),
        ({"tags": {"ok": True}}, [1]),
        ({"tags": {"ok": 1}}, []),
        ({"retention": "kept"}, [4]),
        ({"name": "a", "limit": 1}, [4]),
        ({"name": "' OR 1 = 1 --"}, []),
    ]
    for options, expected in cases:
        found = [round((event.time - DAY) / HOUR) for event in log.query(**options)]
        assert found == expected, options


def test_pages_show_each_event_once_also_those_of_one_moment(log: EventLog) -> None:
    events = [metric(n, DAY + (n // 10) * HOUR * 20) for n in range(45)]
    log.append_many(events)
    for order in ("oldest", "newest"):
        found: list[Event] = []
        after = None
        while page := log.query(limit=7, after=after, order=order):  # type: ignore[arg-type]
            found += page
            after = page[-1].cursor
        assert found == (events if order == "oldest" else events[::-1])


def test_latest_is_found_however_old_and_is_none_for_nothing(log: EventLog) -> None:
    now = datetime.now(UTC)
    log.append_many(
        [
            metric(1, now - timedelta(days=400)),
            metric(2, now - timedelta(days=20), name="mem"),
            metric(3, now - HOUR, name="disk"),
        ]
    )
    assert [(log.latest(name)).value for name in ("cpu", "mem", "disk")] == [1, 2, 3]  # type: ignore[union-attr]
    assert log.latest("cpu", within=timedelta(days=399)) is None
    assert log.latest("gone") is None
    assert log.latest("disk", within=timedelta(days=60 * 365)) == log.latest("disk")
    newest = log.latest(kinds=["metric"])
    assert newest is not None
    assert newest.value == 3


def test_occurrences_with_tenants_of_their_own_never_meet(
    manager: DatabaseManager, log: EventLog
) -> None:
    ours = [log.append(metric(1)), log.audit("x", time=DAY)]
    other = EventLog(manager, "main", tenant="occurrence_1")
    assert other.query() == []
    assert other.latest("cpu") is None
    assert other.aggregate(HOUR) == []
    assert other.list_chains() == []
    assert (other.verify()).entries == 0
    settle(other)
    start = other.position()
    other.append(replace(ours[0], value=2))
    assert (other.audit("y")).chain_seq == 1
    everything = EventPolicy(delete_after=timedelta(days=1))
    assert (other.roll_up(everything)).deleted == 1
    settle(other)
    assert [event.name for event in other.follow(after=start, timeout=0.05)] == ["y"]
    assert log.query(order="oldest") == ours


def test_an_append_joins_the_transaction_it_is_called_in(log: EventLog, elsewhere: EventLog) -> None:
    database = database_of(log)
    log.query()
    assert elsewhere.query() == []
    writes: list[Callable[[], Any]] = [
        lambda: log.append(metric(1)),
        lambda: log.append_many([metric(2), metric(3)]),
        lambda: log.audit("x"),
        lambda: log.append_many([metric(4), Event(kind="audit", name="y")]),
    ]
    for _ in range(2):  # at first, no partition is there
        with pytest.raises(ZeroDivisionError):
            with database.transaction():
                for write in writes:
                    write()
                assert elsewhere.query() == []
                _ = 1 / 0
        assert elsewhere.query() == []
    with database.transaction():
        for write in writes:
            write()
    assert len(elsewhere.query()) == 6
    assert (elsewhere.verify()).entries == 2


def test_each_append_is_one_statement(manager: DatabaseManager, log: EventLog) -> None:
    log.append_many([metric(0), Event(kind="audit")])
    log.append(Event(kind="audit"))
    calls: list[Callable[[], Any]] = [
        lambda: log.append(metric(1)),
        lambda: log.append_many([metric(2), metric(3)]),
        lambda: log.query(),
        lambda: log.aggregate(HOUR, ["p50", "count"]),
    ]
    if is_postgresql(log):
        calls.append(lambda: log.audit("x"))
    for call in calls:
        before = manager.stats()["main"].requests
        call()
        assert manager.stats()["main"].requests - before == 1


def test_growth_is_told_by_partition(log: EventLog) -> None:
    log.append_many([metric(n, DAY + n * 12 * HOUR) for n in range(4)])
    log.audit("x", time=DAY)
    found = log.list_partitions()
    assert all(partition.bytes > 0 for partition in found)
    if is_postgresql(log):
        spans = [(partition.name, partition.retention, partition.since, partition.until) for partition in found]
        assert spans == [
            ("holdfast_events_kept_202603", "kept", datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)),
            ("holdfast_events_raw_20260309", "raw", DAY, DAY + 24 * HOUR),
            ("holdfast_events_raw_20260310", "raw", DAY + 24 * HOUR, DAY + 48 * HOUR),
        ]
    else:
        assert [(partition.retention, partition.events) for partition in found] == [(None, 5)]


def test_ids_grow_and_tell_apart_what_happens_in_one_microsecond(log: EventLog) -> None:
    """CIRIS made ids of name and microsecond, which collided (S3.6)."""
    events = [metric(n) for n in range(1000)]
    ids = [event.id for event in events]
    assert ids == sorted(set(ids))
    log.append_many(events)
    assert log.query(order="oldest", limit=1000) == events


def test_a_failing_database_is_an_error_and_never_an_empty_answer(
    manager: DatabaseManager, log: EventLog
) -> None:
    """CIRIS turned every error into [], None or 0 (2.3, defect 1; section 3, 40)."""
    log.append(metric(1))
    database_of(log).execute("ALTER TABLE holdfast_events RENAME TO gone")
    for _, call in READERS + WRITERS:
        with pytest.raises(PersistenceError, match="holdfast_events"):
            call(log)
    manager.close()
    for _, call in READERS + WRITERS:
        with pytest.raises(ClosedError):
            call(log)


READERS: list[tuple[str, Callable[[EventLog], Any]]] = [
    ("query", lambda log: log.query()),
    ("latest", lambda log: log.latest("cpu")),
    ("aggregate", lambda log: log.aggregate(HOUR)),
]
WRITERS: list[tuple[str, Callable[[EventLog], Any]]] = [
    ("append", lambda log: log.append(metric(1))),
    ("append_many", lambda log: log.append_many([metric(1), metric(2)])),
    ("metric", lambda log: log.metric("cpu", 1)),
    ("log", lambda log: log.log("info", "m")),
    ("audit", lambda log: log.audit("x")),
    ("correlate", lambda log: log.correlate("c", "x")),
]


def test_times_have_a_zone_and_are_compared_as_times(log: EventLog) -> None:
    """CIRIS kept times without zones, as text on SQLite (2.3, defect 11)."""
    for naive in (datetime(2026, 3, 9), date(2026, 3, 9), "2026-03-09"):  # noqa: DTZ001
        wrong: Any = naive
        with pytest.raises(ValidationError):
            log.append(metric(1, wrong))
        with pytest.raises(ValidationError):
            log.query(since=wrong)
    # As text, 23:00-05:00 comes before the 01:00Z of the next day; as a time it comes after.
    late = datetime(2026, 3, 9, 23, tzinfo=timezone(timedelta(hours=-5)))
    early = datetime(2026, 3, 10, 1, tzinfo=UTC)
    log.append_many([metric(1, late), metric(2, early)])
    assert [event.value for event in log.query()] == [1, 2]
    assert [event.value for event in log.query(since=early + HOUR)] == [1]


def test_kinds_are_heeded_and_nothing_ends_at_a_thousand(log: EventLog) -> None:
    """CIRIS's recall_timeseries ignored its kinds and gave 1,000 rows at most (2.3, defect 12)."""
    log.append_many([metric(n, DAY + n * MINUTE) for n in range(2500)])
    log.append(Event(kind="correlation", time=DAY))
    assert [event.kind for event in log.query(kinds=["correlation"])] == ["correlation"]
    assert len(log.query(kinds=["metric"], limit=10_000)) == 2500
    assert sum(bucket.value or 0 for bucket in log.aggregate(HOUR)) == 2501
    with pytest.raises(ValidationError, match="limit"):
        log.query(limit=10_001)


def test_the_message_of_a_log_entry_is_stored(log: EventLog, elsewhere: EventLog) -> None:
    """CIRIS kept the level of a log entry, but not what it said (S3.5)."""
    log.log("error", "the disk is full", correlation="c")
    assert [event.message for event in elsewhere.query(correlation="c")] == ["the disk is full"]


def test_a_key_of_tags_is_never_sql(log: EventLog) -> None:
    """CIRIS put the keys of tags into its SQL (S3.7)."""
    key = "x') OR 1=1; DROP TABLE holdfast_events; --\"$."
    log.append_many([metric(1, tags={key: "v"}), metric(2)])
    assert [event.value for event in log.query(tags={key: "v"})] == [1]
    assert log.query(tags={key: "w"}) == []
    (one, other) = log.aggregate(HOUR, by_tags=key)
    assert [one.group, other.group] == [{key: None}, {key: "v"}]


WRONG_EVENTS: list[dict[str, Any]] = [
    {"kind": ""},
    {"kind": "x" * 101},
    {"kind": None},
    {"name": "a\0b"},
    {"name": "x" * 10_000},
    {"service": 7},
    {"correlation": "\ud800"},
    {"message": "a\0b"},
    {"message": b"x"},
    {"level": "loud"},
    {"level": ["info"]},
    {"value": float("inf")},
    {"value": True},
    {"value": "1"},
    {"value": 2**53 + 1},
    {"value": 10**400},
    {"tags": {1: "x"}},
    {"tags": {"x": float("nan")}},
    {"tags": []},
    {"tags": {"x": (1,)}},
    {"retention": "for ever"},
    {"retention": []},
    {"chain": "c"},
    {"kind": "audit", "retention": "aggregated"},
    {"kind": "audit", "chain": ""},
    {"id": -1},
    {"id": "x"},
    {"id": 2**63},
    {"time": datetime(1969, 12, 31, tzinfo=UTC)},
    {"time": datetime(9999, 1, 1, tzinfo=UTC)},
]


def test_what_cannot_be_stored_or_asked_is_refused_before_anything_is_sent(
    manager: DatabaseManager, log: EventLog
) -> None:
    log.query()
    before = manager.stats()["main"].requests
    anything: Any = "x"
    calls: list[Callable[[], Any]] = [
        lambda: log.append(anything),
        lambda: log.append_many(anything),
        lambda: log.append_many(metric(1)),  # type: ignore[arg-type]
        lambda: log.metric("cpu", None),  # type: ignore[arg-type]
        lambda: log.log(None, "x"),  # type: ignore[arg-type]
        lambda: log.query(kinds="metric"),
        lambda: log.query(kinds=[]),
        lambda: log.query(name=""),
        lambda: log.query(level=anything),
        lambda: log.query(tags={}),
        lambda: log.query(tags={"a": []}),
        lambda: log.query(retention=anything),
        lambda: log.query(order=anything),
        lambda: log.query(limit=0),
        lambda: log.query(after="x"),
        lambda: log.query(after="OTk5OTk5OTk5OTk5OTk5OTk5OjE"),
        lambda: log.query(since=DAY, until=DAY - HOUR),
        lambda: log.latest("x", within=-1),
        lambda: log.list_chains(limit=0),
        lambda: log.verify(""),
        lambda: log.list_partitions(limit=True),
    ]
    for call in calls:
        with pytest.raises(ValidationError):
            call()
    for wrong in WRONG_EVENTS:
        event = Event(**{"kind": "metric", "time": DAY, **wrong})
        with pytest.raises(ValidationError):
            log.append(event)
        with pytest.raises(ValidationError, match=r"events\[1\]"):
            log.append_many([metric(1), event])
    assert manager.stats()["main"].requests == before
    assert log.query() == []


def test_a_log_needs_a_database_of_sql(manager: DatabaseManager, request: pytest.FixtureRequest) -> None:
    manager.add_redis("redis", request.getfixturevalue("redis_config"))
    with pytest.raises(WrongKindError):
        EventLog(manager, "redis")


def test_the_first_events_of_a_day_may_come_from_several_at_once(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    logs = []
    for number in range(6):
        manager.add_postgresql(f"c{number}", postgresql_config)
        logs.append(EventLog(manager, f"c{number}"))
    logs[0].query()
    days = [DAY + timedelta(days=number) for number in range(5)]
    done = together(
        *[lambda log=log: log.append_many([metric(1, day) for day in days]) for log in logs],  # type: ignore[misc]
    )
    assert done == [5] * 6
    assert len(logs[0].query(limit=1000)) == 30
    assert len(logs[0].list_partitions()) == 5


def test_a_partition_that_another_program_dropped_is_made_again(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    manager.add_postgresql("main", postgresql_config)
    log = EventLog(manager, "main")
    log.append(metric(1))
    manager.get_database("main").execute("DROP TABLE holdfast_events_raw_20260309")
    second = metric(2)
    log.append(second)
    assert log.query() == [second]


def test_events_work_on_sqlite_in_memory(manager: DatabaseManager) -> None:
    manager.add_sqlite("main", "sqlite://")
    log = EventLog(manager, "main")
    start = log.position()
    event = log.append(metric(1))
    assert log.query() == [event]
    assert [found.id for found in log.follow(after=start, timeout=0.02)] == [event.id]
