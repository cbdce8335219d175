"""Events followed as they are committed: each once, none skipped, whatever its time and its transaction's pace."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from persistence import AsyncDatabaseManager, CapabilityError, ClosedError, PostgreSQLConfig, ValidationError
from sessions import AsyncEventLog, Event
from sessions._async import following
from sessions.events import Position
from tests._async.events import BACKENDS, HOUR, metric, open_log, settle
from tests._async.side import Started, sleep

pytestmark = pytest.mark.tables("sessions")


@pytest_asyncio.fixture(params=BACKENDS)
async def log(manager: AsyncDatabaseManager, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncEventLog:
    return await open_log(manager, request, tmp_path)


def now() -> datetime:
    return datetime.now(UTC)


async def position(log: AsyncEventLog) -> str:
    await settle(log)
    return await log.position()


async def values(log: AsyncEventLog, after: str | None, **options: Any) -> list[float | None]:
    await settle(log)
    return await values_now(log, after, **options)


async def values_now(log: AsyncEventLog, after: str | None, **options: Any) -> list[float | None]:
    return [event.value async for event in log.follow(after=after, timeout=0.03, **options)]


async def test_each_event_comes_once_and_in_the_order_of_the_commits(log: AsyncEventLog) -> None:
    start = await position(log)
    await log.append(metric(1, now()))
    await log.append_many([metric(n, now() - n * HOUR) for n in (2, 3, 4)])
    await log.append(metric(5, now() - 5 * HOUR))
    await settle(log)
    found = [event async for event in log.follow(after=start, timeout=0.03)]
    assert [event.value for event in found] == [1, 2, 3, 4, 5]
    for place, event in enumerate(found):
        assert await values(log, event.position) == [each.value for each in found[place + 1 :]]
    assert await values(log, await position(log)) == []


async def test_more_than_a_page_is_followed_past_what_does_not_match(log: AsyncEventLog) -> None:
    start = await position(log)
    for part in range(3):
        await log.append_many([metric(part * 800 + n, now(), name="ab"[n % 2]) for n in range(800)])
    assert await values(log, start) == list(range(2400))
    assert await values(log, start, name="b") == list(range(1, 2400, 2))
    assert await values(log, start, kinds=["log"]) == []


async def test_what_is_committed_while_it_waits_is_followed(log: AsyncEventLog, manager: AsyncDatabaseManager) -> None:
    start = await position(log)

    async def two() -> list[Event]:
        found: list[Event] = []
        async for event in AsyncEventLog(manager, "elsewhere").follow(after=start, poll=0.02, timeout=60):
            found.append(event)
            if len(found) == 2:
                break
        return found

    follower = Started(two)
    first = await log.append(metric(1, now()))
    second = await log.audit("x")
    assert [event.id for event in await follower.result()] == [first.id, second.id]


async def test_an_event_that_a_slow_transaction_commits_late_is_not_skipped(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    """The slow one has the lower number and time, but is committed after those that a follower could see."""
    for name in ("main", "elsewhere"):
        await manager.add_postgresql(name, postgresql_config)
    log, fast = AsyncEventLog(manager, "main"), AsyncEventLog(manager, "elsewhere")
    await log.append(metric(0, now()))
    start = await position(log)
    async with manager.get_database("main").transaction():
        await log.append(metric(1, now()))
        await fast.append(metric(2, now()))
        await fast.append(metric(3, now()))
        assert [event.value for event in await fast.query(order="oldest")] == [0, 2, 3]
        # Those after it are held back, instead of being given with it skipped.
        assert await values_now(fast, start) == []
        at_two = await fast.position()
    assert await values(fast, start) == [1, 2, 3]
    assert await values(fast, at_two) == [1, 2, 3]
    # One that was rolled back leaves no gap that anybody waits for.
    with pytest.raises(ZeroDivisionError):
        async with manager.get_database("main").transaction():
            await log.append(metric(4, now()))
            _ = 1 / 0
    await fast.append(metric(5, now()))
    assert await values(fast, start) == [1, 2, 3, 5]


async def test_many_writers_at_different_paces_are_followed_without_a_gap(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    logs = []
    for number in range(4):
        await manager.add_postgresql(f"c{number}", postgresql_config)
        logs.append(AsyncEventLog(manager, f"c{number}"))
    start = await position(logs[0])

    async def follow() -> list[float | None]:
        reader = AsyncEventLog(manager, "c0")
        found: list[float | None] = []
        async for event in reader.follow(after=start, poll=0.01, timeout=60):
            found.append(event.value)
            if len(found) == 120:
                break
        return found

    async def write(number: int) -> None:
        log = logs[number]
        for part in range(10):
            async with manager.get_database(log._name).transaction():
                for piece in range(number):
                    await log.append(metric(number * 1000 + part * 10 + piece, now()))
                    await log.query(limit=part + 1)

    follower = Started(follow)
    writing = [Started(lambda number=number: write(number)) for number in (1, 2, 3)]  # type: ignore[misc]
    for each in writing:
        await each.result()
    more = [metric(n, now()) for n in range(60)]
    await logs[0].append_many(more)
    found = await follower.result()
    assert sorted(found) == sorted(  # type: ignore[type-var]
        [n * 1000 + part * 10 + piece for n in (1, 2, 3) for part in range(10) for piece in range(n)]
        + [event.value or 0 for event in more]
    )


async def test_old_partitions_are_left_alone_unless_asked_for(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    await manager.add_postgresql("main", postgresql_config)
    log = AsyncEventLog(manager, "main")
    start = await position(log)
    await log.append_many([metric(1, now() - timedelta(days=9)), metric(2, now() - HOUR)])
    assert await values(log, start) == [2]
    assert await values(log, start, lateness=timedelta(days=10)) == [1, 2]
    assert await values(log, start, lateness=None) == [1, 2]


async def test_with_notify_an_append_ends_the_wait_of_a_follower(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("main", "elsewhere"):
        await manager.add_postgresql(name, postgresql_config)
    # Whoever asked first has nothing to find, and would ask again in 20 s.
    monkeypatch.setattr(following, "SHORTEST_WAIT", 20.0)
    log = AsyncEventLog(manager, "main", notify=60)
    start = await position(log)

    async def followed() -> list[float | None]:
        found: list[float | None] = []
        async for event in AsyncEventLog(manager, "elsewhere", notify=60).follow(after=start, poll=60, timeout=60):
            found.append(event.value)
            if len(found) == 3:
                break
        return found

    follower = Started(followed)
    while not (manager.stats()["elsewhere"].dedicated and manager.stats()["elsewhere"].requests):
        await sleep(0.01)
    monkeypatch.setattr(following, "SHORTEST_WAIT", 0.01)  # where another test's transaction holds these back
    async with manager.get_database("main").transaction():
        await log.append(metric(1, now()))
        await log.append_many([metric(2, now()), metric(3, now())])
    assert await follower.result(timeout=50) == [1, 2, 3]


async def test_a_log_tells_once_in_a_while_and_one_without_notify_tells_nobody(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    await manager.add_postgresql("main", postgresql_config)
    quiet, rare = AsyncEventLog(manager, "main"), AsyncEventLog(manager, "main", notify=60)
    await quiet.append(metric(0, now()))
    for log, more in ((quiet, 0), (rare, 1), (AsyncEventLog(manager, "main", notify=1e-6), 5)):
        before = manager.stats()["main"].requests
        for number in range(5):
            await log.append(metric(number, now()))
        assert manager.stats()["main"].requests - before == 5 + more
    await manager.add_sqlite("file", "sqlite://")
    with pytest.raises(CapabilityError, match="no notices"):
        AsyncEventLog(manager, "file", notify=1)


async def test_what_cannot_be_followed_is_refused(log: AsyncEventLog, manager: AsyncDatabaseManager) -> None:
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
            async for _ in log.follow(**wrong):
                break
    start = await position(log)
    await manager.aclose()
    with pytest.raises(ClosedError):
        async for _ in log.follow(after=start, timeout=5):
            break
