# Generated from ../_async/test_events_writer.py by tests/unasync.py: edit that one.
"""The writer of events: stores in batches, keeps within its bounds, and loses nothing."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest

from persistence import (
    DatabaseManager,
    ClosedError,
    DeadlineError,
    PersistenceError,
    ValidationError,
)
from sessions import EventLog
from tests._sync.events import BACKENDS, DAY, MINUTE, database_of, metric, open_log
from tests._sync.side import sleep, together

pytestmark = pytest.mark.tables("sessions")

GONE, BACK = "ALTER TABLE holdfast_events RENAME TO gone", "ALTER TABLE gone RENAME TO holdfast_events"


@pytest.fixture(params=BACKENDS)
def log(manager: DatabaseManager, request: pytest.FixtureRequest, tmp_path: Path) -> EventLog:
    return open_log(manager, request, tmp_path)


def stored(log: EventLog) -> list[float | None]:
    return [event.value for event in log.query(order="oldest", limit=10_000)]


def test_everything_added_is_stored_at_the_end_in_batches(
    manager: DatabaseManager, log: EventLog
) -> None:
    log.append(metric(-1))
    before = manager.stats()["main"].requests
    with log.writer(size=100, age=60) as writer:
        for number in range(1050):
            assert writer.add(metric(number, DAY + number * MINUTE / 60)) is True
    assert (writer.written, writer.dropped, writer.pending) == (1050, 0, [])
    assert manager.stats()["main"].requests - before <= 11
    assert stored(log) == list(range(-1, 1050))


def test_an_old_event_is_stored_though_nothing_follows(log: EventLog) -> None:
    log.query()
    with log.writer(size=100, age=0.05) as writer:
        writer.add(metric(1))
        deadline = monotonic() + 10
        while not (stored(log) and writer.written):
            assert monotonic() < deadline
            sleep(0.01)
        assert writer.written == 1


def test_flush_returns_once_all_is_stored(log: EventLog) -> None:
    with log.writer(age=60) as writer:
        for number in range(5):
            writer.add(metric(number))
        writer.flush()
        assert stored(log) == [0, 1, 2, 3, 4]
        writer.flush()
        # It is the writer's own transaction: one that its caller is in takes nothing of it back.
        with pytest.raises(ZeroDivisionError):
            if database_of(log).kind == "postgresql":
                with database_of(log).transaction():
                    writer.add(metric(5))
                    writer.flush()
                    _ = 1 / 0
            _ = 1 / 0
    assert (stored(log))[:5] == [0, 1, 2, 3, 4]
    assert writer.written == len(stored(log))


def test_several_add_at_once_and_nothing_is_lost(log: EventLog) -> None:
    with log.writer(size=10, age=0.01, capacity=20) as writer:

        def add(base: int) -> None:
            for number in range(100):
                writer.add(metric(base + number))

        assert together(*[lambda base=base: add(base) for base in (0, 100, 200)]) == [None] * 3  # type: ignore[misc]
    assert sorted(stored(log), key=lambda value: value or 0) == list(range(300))


def test_an_error_is_raised_by_the_next_call_and_the_events_are_kept(log: EventLog) -> None:
    database = database_of(log)
    log.append(metric(-1))
    with log.writer(size=2, age=60) as writer:
        database.execute(GONE)
        writer.add(metric(0))
        with pytest.raises(PersistenceError, match="holdfast_events"):
            writer.flush()
        assert [event.value for event in writer.pending] == [0]
        with pytest.raises(PersistenceError, match="holdfast_events"):
            for _ in range(2000):
                writer.add(metric(1))
                sleep(0.001)
        kept = [event.value for event in writer.pending]
        database.execute(BACK)
        writer.flush()
        assert stored(log) == [-1, *kept]
    assert writer.pending == []


def test_a_close_that_fails_says_so_and_keeps_what_is_left(log: EventLog) -> None:
    database = database_of(log)
    log.append(metric(-1))
    writer = log.writer(age=60)
    writer.start()
    writer.add(metric(0))
    database.execute(GONE)
    with pytest.raises(PersistenceError, match="holdfast_events"):
        writer.close()
    assert [event.value for event in writer.pending] == [0]
    with pytest.raises(ClosedError):
        writer.add(metric(1))
    database.execute(BACK)
    writer.start()
    writer.close()
    writer.close()
    assert stored(log) == [-1, 0]


def test_a_full_buffer_blocks_or_drops_and_counts(log: EventLog) -> None:
    log.append(metric(-1))
    database_of(log).execute(GONE)

    def fill(writer: Any, count: int) -> int:
        """Add events while nothing can be stored; the errors of the tries come in between."""
        taken = 0
        for number in range(count):
            try:
                taken += writer.add(metric(number))
            except DeadlineError:
                raise
            except PersistenceError:
                continue
        return taken

    dropping = log.writer(size=5, age=60, capacity=8, when_full="drop")
    dropping.start()
    taken = fill(dropping, 50)
    assert taken == 8
    assert dropping.dropped >= 40
    blocking = log.writer(size=5, age=60, capacity=8, timeout=0.15)
    blocking.start()
    with pytest.raises(DeadlineError, match="full"):
        fill(blocking, 10_000)
    assert len(blocking.pending) == 8
    database_of(log).execute(BACK)
    dropping.close()
    blocking.close()
    assert len(stored(log)) == 1 + 16


def test_what_was_stored_though_the_answer_was_lost_is_stored_once(log: EventLog) -> None:
    """An event that is there already is told from a failure; those beside it are stored."""
    events = [metric(number) for number in range(6)]
    log.append_many(events[:3])
    with log.writer(size=10, age=60) as writer:
        for event in events:
            writer.add(event)
    assert writer.written == 6
    assert stored(log) == [0, 1, 2, 3, 4, 5]


def test_a_writer_that_cannot_be_is_refused(log: EventLog) -> None:
    wrong: Any
    for wrong in ({"size": 0}, {"age": 0}, {"size": 10, "capacity": 9}, {"when_full": "wait"}, {"timeout": None}):
        with pytest.raises(ValidationError):
            log.writer(**wrong)
    writer = log.writer()
    for call in (writer.flush, lambda: writer.add(metric(1))):
        with pytest.raises(ClosedError):
            call()
    with writer:
        with pytest.raises(ValidationError):
            writer.start()
        bad: Any = "x"
        for event in (bad, metric(float("nan"))):
            with pytest.raises(ValidationError):
                writer.add(event)
    assert log.query() == []
