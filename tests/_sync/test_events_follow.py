# Generated from ../_async/test_events_follow.py by tests/unasync.py: edit that one.
"""Events followed as they are committed: each once, none skipped, whatever its time and its transaction's pace."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest

from persistence import DatabaseManager, CapabilityError, ClosedError, PostgreSQLConfig, ValidationError
from sessions import EventLog, Event
from sessions._sync import following
from sessions.events import Position
from tests._sync.events import BACKENDS, HOUR, metric, open_log, settle
from tests._sync.side import Started, sleep

pytestmark = pytest.mark.tables("sessions")


@pytest.fixture(params=BACKENDS)
def log(manager: DatabaseManager, request: pytest.FixtureRequest, tmp_path: Path) -> EventLog:
    return open_log(manager, request, tmp_path)


def now() -> datetime:
    return datetime.now(UTC)


def position(log: EventLog) -> str:
    settle(log)
    return log.position()


def values(log: EventLog, after: str | None, **options: Any) -> list[float | None]:
    settle(log)
    return values_now(log, after, **options)


def values_now(log: EventLog, after: str | None, **options: Any) -> list[float | None]:
    return [event.value for event in log.follow(after=after, timeout=0.03, **options)]


def test_each_event_comes_once_and_in_the_order_of_the_commits(log: EventLog) -> None:
    start = position(log)
    log.append(metric(1, now()))
    log.append_many([metric(n, now() - n * HOUR) for n in (2, 3, 4)])
    log.append(metric(5, now() - 5 * HOUR))
    settle(log)
    found = [event for event in log.follow(after=start, timeout=0.03)]
    assert [event.value for event in found] == [1, 2, 3, 4, 5]
    for place, event in enumerate(found):
        assert values(log, event.position) == [each.value for each in found[place + 1 :]]
    assert values(log, position(log)) == []


def test_more_than_a_page_is_followed_past_what_does_not_match(log: EventLog) -> None:
    start = position(log)
    for part in range(3):
        log.append_many([metric(part * 800 + n, now(), name="ab"[n % 2]) for n in range(800)])
    assert values(log, start) == list(range(2400))
    assert values(log, start, name="b") == list(range(1, 2400, 2))
    assert values(log, start, kinds=["log"]) == []


def test_what_is_committed_while_it_waits_is_followed(log: EventLog, manager: DatabaseManager) -> None:
    start = position(log)

    def two() -> list[Event]:
        found: list[Event] = []
        for event in EventLog(manager, "elsewhere").follow(after=start, poll=0.02, timeout=60):
            found.append(event)
            if len(found) == 2:
                break
        return found

    follower = Started(two)
    first = log.append(metric(1, now()))
    second = log.audit("x")
    assert [event.id for event in follower.result()] == [first.id, second.id]


def test_an_event_that_a_slow_transaction_commits_late_is_not_skipped(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    """The slow one has the lower number and time, but is committed after those that a follower could see."""
    for name in ("main", "elsewhere"):
        manager.add_postgresql(name, postgresql_config)
    log, fast = EventLog(manager, "main"), EventLog(manager, "elsewhere")
    log.append(metric(0, now()))
    start = position(log)
    with manager.get_database("main").transaction():
        log.append(metric(1, now()))
        fast.append(metric(2, now()))
        fast.append(metric(3, now()))
        assert [event.value for event in fast.query(order="oldest")] == [0, 2, 3]
        # Those after it are held back, instead of being given with it skipped.
        assert values_now(fast, start) == []
        at_two = fast.position()
    assert values(fast, start) == [1, 2, 3]
    assert values(fast, at_two) == [1, 2, 3]
    # One that was rolled back leaves no gap that anybody waits for.
    with pytest.raises(ZeroDivisionError):
        with manager.get_database("main").transaction():
            log.append(metric(4, now()))
            _ = 1 / 0
    fast.append(metric(5, now()))
    assert values(fast, start) == [1, 2, 3, 5]


def test_many_writers_at_different_paces_are_followed_without_a_gap(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    logs = []
    for number in range(4):
        manager.add_postgresql(f"c{number}", postgresql_config)
        logs.append(EventLog(manager, f"c{number}"))
    start = position(logs[0])

    def follow() -> list[float | None]:
        reader = EventLog(manager, "c0")
        found: list[float | None] = []
        for event in reader.follow(after=start, poll=0.01, timeout=60):
            found.append(event.value)
            if len(found) == 120:
                break
        return found

    def write(number: int) -> None:
        log = logs[number]
        for part in range(10):
            with manager.get_database(log._name).transaction():
                for piece in range(number):
                    log.append(metric(number * 1000 + part * 10 + piece, now()))
                    log.query(limit=part + 1)

    follower = Started(follow)
    writing = [Started(lambda number=number: write(number)) for number in (1, 2, 3)]  # type: ignore[misc]
    for each in writing:
        each.result()
    more = [metric(n, now()) for n in range(60)]
    logs[0].append_many(more)
    found = follower.result()
    assert sorted(found) == sorted(  # type: ignore[type-var]
        [n * 1000 + part * 10 + piece for n in (1, 2, 3) for part in range(10) for piece in range(n)]
        + [event.value or 0 for event in more]
    )


def test_old_partitions_are_left_alone_unless_asked_for(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    manager.add_postgresql("main", postgresql_config)
    log = EventLog(manager, "main")
    start = position(log)
    log.append_many([metric(1, now() - timedelta(days=9)), metric(2, now() - HOUR)])
    assert values(log, start) == [2]
    assert values(log, start, lateness=timedelta(days=10)) == [1, 2]
    assert values(log, start, lateness=None) == [1, 2]


def test_with_notify_an_append_ends_the_wait_of_a_follower(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("main", "elsewhere"):
        manager.add_postgresql(name, postgresql_config)
    # Whoever asked first has nothing to find, and would ask again in 20 s.
    monkeypatch.setattr(following, "SHORTEST_WAIT", 20.0)
    log = EventLog(manager, "main", notify=60)
    start = position(log)

    def followed() -> list[float | None]:
        found: list[float | None] = []
        for event in EventLog(manager, "elsewhere", notify=60).follow(after=start, poll=60, timeout=60):
            found.append(event.value)
            if len(found) == 3:
                break
        return found

    follower = Started(followed)
    while not (manager.stats()["elsewhere"].dedicated and manager.stats()["elsewhere"].requests):
        sleep(0.01)
    monkeypatch.setattr(following, "SHORTEST_WAIT", 0.01)  # where another test's transaction holds these back
    with manager.get_database("main").transaction():
        log.append(metric(1, now()))
        log.append_many([metric(2, now()), metric(3, now())])
    assert follower.result(timeout=50) == [1, 2, 3]


def test_a_log_tells_once_in_a_while_and_one_without_notify_tells_nobody(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    manager.add_postgresql("main", postgresql_config)
    quiet, rare = EventLog(manager, "main"), EventLog(manager, "main", notify=60)
    quiet.append(metric(0, now()))
    for log, more in ((quiet, 0), (rare, 1), (EventLog(manager, "main", notify=1e-6), 5)):
        before = manager.stats()["main"].requests
        for number in range(5):
            log.append(metric(number, now()))
        assert manager.stats()["main"].requests - before == 5 + more
    manager.add_sqlite("file", "sqlite://")
    with pytest.raises(CapabilityError, match="no notices"):
        EventLog(manager, "file", notify=1)


def test_what_cannot_be_followed_is_refused(log: EventLog, manager: DatabaseManager) -> None:
    wrong: Any
    forged = [Position(*numbers).encode() for numbers in ((0, -1, 2**62), (-1, -1, 0))]
    for wrong in (
        *({"after": after} for after in ("x", metric(1).cursor, *forged)),
        {"poll": 0},
        {"timeout": -1},
        {"lateness": "1d"},
        {"kinds": "metric"},
        {"patience": 0},
    ):
        with pytest.raises(ValidationError):
            for _ in log.follow(**wrong):
                break
    start = position(log)
    manager.close()
    with pytest.raises(ClosedError):
        for _ in log.follow(after=start, timeout=5):
            break
