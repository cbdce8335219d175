"""The writer of events: stores in batches, keeps within its bounds, and loses nothing."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabaseManager,
    ClosedError,
    DeadlineError,
    PersistenceError,
    ValidationError,
)
from sessions import AsyncEventLog
from tests._async.events import BACKENDS, DAY, MINUTE, database_of, metric, open_log
from tests._async.side import sleep, together

pytestmark = pytest.mark.tables("sessions")

GONE, BACK = "ALTER TABLE holdfast_events RENAME TO gone", "ALTER TABLE gone RENAME TO holdfast_events"


@pytest_asyncio.fixture(params=BACKENDS)
async def log(manager: AsyncDatabaseManager, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncEventLog:
    return await open_log(manager, request, tmp_path)


async def stored(log: AsyncEventLog) -> list[float | None]:
    return [event.value for event in await log.query(order="oldest", limit=10_000)]


async def test_everything_added_is_stored_at_the_end_in_batches(
    manager: AsyncDatabaseManager, log: AsyncEventLog
) -> None:
    await log.append(metric(-1))
    before = manager.stats()["main"].requests
    async with log.writer(size=100, age=60) as writer:
        for number in range(1050):
            assert await writer.add(metric(number, DAY + number * MINUTE / 60)) is True
    assert (writer.written, writer.dropped, writer.pending) == (1050, 0, [])
    assert manager.stats()["main"].requests - before <= 11
    assert await stored(log) == list(range(-1, 1050))


async def test_an_old_event_is_stored_though_nothing_follows(log: AsyncEventLog) -> None:
    await log.query()
    async with log.writer(size=100, age=0.05) as writer:
        await writer.add(metric(1))
        deadline = monotonic() + 10
        while not (await stored(log) and writer.written):
            assert monotonic() < deadline
            await sleep(0.01)
        assert writer.written == 1


async def test_flush_returns_once_all_is_stored(log: AsyncEventLog) -> None:
    async with log.writer(age=60) as writer:
        for number in range(5):
            await writer.add(metric(number))
        await writer.flush()
        assert await stored(log) == [0, 1, 2, 3, 4]
        await writer.flush()
        # It is the writer's own transaction: one that its caller is in takes nothing of it back.
        with pytest.raises(ZeroDivisionError):
            if database_of(log).kind == "postgresql":
                async with database_of(log).transaction():
                    await writer.add(metric(5))
                    await writer.flush()
                    _ = 1 / 0
            _ = 1 / 0
    assert (await stored(log))[:5] == [0, 1, 2, 3, 4]
    assert writer.written == len(await stored(log))


async def test_several_add_at_once_and_nothing_is_lost(log: AsyncEventLog) -> None:
    async with log.writer(size=10, age=0.01, capacity=20) as writer:

        async def add(base: int) -> None:
            for number in range(100):
                await writer.add(metric(base + number))

        assert await together(*[lambda base=base: add(base) for base in (0, 100, 200)]) == [None] * 3  # type: ignore[misc]
    assert sorted(await stored(log), key=lambda value: value or 0) == list(range(300))


async def test_an_error_is_raised_by_the_next_call_and_the_events_are_kept(log: AsyncEventLog) -> None:
    database = database_of(log)
    await log.append(metric(-1))
    async with log.writer(size=2, age=60) as writer:
        await database.execute(GONE)
        await writer.add(metric(0))
        with pytest.raises(PersistenceError, match="holdfast_events"):
            await writer.flush()
        assert [event.value for event in writer.pending] == [0]
        with pytest.raises(PersistenceError, match="holdfast_events"):
            for _ in range(2000):
                await writer.add(metric(1))
                await sleep(0.001)
        kept = [event.value for event in writer.pending]
        await database.execute(BACK)
        await writer.flush()
        assert await stored(log) == [-1, *kept]
    assert writer.pending == []


async def test_a_close_that_fails_says_so_and_keeps_what_is_left(log: AsyncEventLog) -> None:
    database = database_of(log)
    await log.append(metric(-1))
    writer = log.writer(age=60)
    writer.start()
    await writer.add(metric(0))
    await database.execute(GONE)
    with pytest.raises(PersistenceError, match="holdfast_events"):
        await writer.aclose()
    assert [event.value for event in writer.pending] == [0]
    with pytest.raises(ClosedError):
        await writer.add(metric(1))
    await database.execute(BACK)
    writer.start()
    await writer.aclose()
    await writer.aclose()
    assert await stored(log) == [-1, 0]


async def test_a_full_buffer_blocks_or_drops_and_counts(log: AsyncEventLog) -> None:
    await log.append(metric(-1))
    await database_of(log).execute(GONE)

    async def fill(writer: Any, count: int) -> int:
        """Add events while nothing can be stored; the errors of the tries come in between."""
        taken = 0
        for number in range(count):
            try:
                taken += await writer.add(metric(number))
            except DeadlineError:
                raise
            except PersistenceError:
                continue
        return taken

    dropping = log.writer(size=5, age=60, capacity=8, when_full="drop")
    dropping.start()
    taken = await fill(dropping, 50)
    assert taken == 8
    assert dropping.dropped >= 40
    blocking = log.writer(size=5, age=60, capacity=8, timeout=0.15)
    blocking.start()
    with pytest.raises(DeadlineError, match="full"):
        await fill(blocking, 10_000)
    assert len(blocking.pending) == 8
    await database_of(log).execute(BACK)
    await dropping.aclose()
    await blocking.aclose()
    assert len(await stored(log)) == 1 + 16


async def test_what_was_stored_though_the_answer_was_lost_is_stored_once(log: AsyncEventLog) -> None:
    """An event that is there already is told from a failure; those beside it are stored."""
    events = [metric(number) for number in range(6)]
    await log.append_many(events[:3])
    async with log.writer(size=10, age=60) as writer:
        for event in events:
            await writer.add(event)
    assert writer.written == 6
    assert await stored(log) == [0, 1, 2, 3, 4, 5]


async def test_a_writer_that_cannot_be_is_refused(log: AsyncEventLog) -> None:
    wrong: Any
    for wrong in ({"size": 0}, {"age": 0}, {"size": 10, "capacity": 9}, {"when_full": "wait"}, {"timeout": None}):
        with pytest.raises(ValidationError):
            log.writer(**wrong)
    writer = log.writer()
    for call in (writer.flush, lambda: writer.add(metric(1))):
        with pytest.raises(ClosedError):
            await call()
    async with writer:
        with pytest.raises(ValidationError):
            writer.start()
        bad: Any = "x"
        for event in (bad, metric(float("nan"))):
            with pytest.raises(ValidationError):
                await writer.add(event)
    assert await log.query() == []
