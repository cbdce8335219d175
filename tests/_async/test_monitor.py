"""The health monitor: one change for each connection that falls ill or gets well, also while a server is down."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from persistence import (
    AsyncDatabaseManager,
    AsyncHealthMonitor,
    ClosedError,
    HealthChange,
    RedisConfig,
    SQLiteConfig,
    ValidationError,
)
from persistence._async.recurring import AsyncRecurring
from persistence.embedded import EmbeddedRedis
from tests._async.side import sleep


async def until(condition: object, timeout: float = 10) -> None:
    """Wait for a condition that a background thing makes true."""
    for _ in range(int(timeout * 200)):
        if condition():  # type: ignore[operator]
            return
        await sleep(0.005)
    raise AssertionError("it did not come to be")


async def test_one_change_is_told_when_a_server_dies_and_one_when_it_is_back(
    manager: AsyncDatabaseManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "persistence.health")
    changes: list[HealthChange] = []

    async def note(change: HealthChange) -> None:
        changes.append(change)

    server = EmbeddedRedis(tmp_path / "redis").start()
    try:
        config: RedisConfig = server.config()
        await manager.add_sqlite("local", SQLiteConfig(path=":memory:"))
        await manager.add_redis("cache", config)
        async with AsyncHealthMonitor(manager, interval=0.02, on_change=note) as monitor:
            await until(lambda: len(monitor.statuses) == 2)
            assert changes == []
            server.stop()
            await until(lambda: len(changes) == 1)
            assert (changes[0].name, changes[0].healthy, changes[0].outage) == ("cache", False, None)
            assert changes[0].failing == ("cache",)
            assert changes[0].status.error
            polled = monitor.statuses["cache"].checked_at
            await until(lambda: monitor.statuses["cache"].checked_at > polled)
            polled = monitor.statuses["cache"].checked_at
            assert len(changes) == 1
            server = EmbeddedRedis(tmp_path / "redis").start()
            await until(lambda: len(changes) == 2)
        assert (changes[1].name, changes[1].healthy, changes[1].failing) == ("cache", True, ())
        assert changes[1].outage is not None
        assert changes[1].outage >= (polled - changes[0].status.checked_at).total_seconds() > 0
        assert not monitor.is_running
        told = [record.getMessage() for record in caplog.records if record.name == "persistence.health"]
        assert [text.partition(":")[0].partition(" after")[0] for text in told] == [
            "cache is ill",
            "cache is well again",
        ]
    finally:
        server.stop()


async def test_starting_and_stopping_twice_is_starting_and_stopping_once(manager: AsyncDatabaseManager) -> None:
    await manager.add_sqlite("local", SQLiteConfig(path=":memory:"))
    monitor = AsyncHealthMonitor(manager, interval=60)
    assert not monitor.is_running
    await monitor.stop()
    monitor.start()
    monitor.start()
    assert monitor.is_running
    await until(lambda: monitor.statuses)
    await monitor.stop()
    await monitor.stop()
    assert not monitor.is_running
    monitor.start()
    assert monitor.is_running
    await monitor.stop()


async def test_a_listener_that_fails_is_logged_and_polling_goes_on(
    manager: AsyncDatabaseManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    async def fail(change: HealthChange) -> None:
        calls.append(change.name)
        raise ZeroDivisionError

    server = EmbeddedRedis(tmp_path / "redis").start()
    await manager.add_redis("cache", server.config())
    server.stop()
    monitor = AsyncHealthMonitor(manager, on_change=fail, failures=2)
    assert not (await monitor.poll())["cache"]
    assert calls == []  # the second failed poll makes it ill
    await monitor.poll()
    await monitor.poll()
    assert calls == ["cache"]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


class Unlucky(AsyncRecurring):
    """Fails in its first turn, in a way that nobody thought of."""

    turns = 0

    async def _turn(self) -> float:
        self.turns += 1
        return 60.0 / (self.turns - 1)


async def test_what_recurs_outlives_an_error_that_nobody_thought_of(caplog: pytest.LogCaptureFixture) -> None:
    unlucky = Unlucky("unlucky")
    async with unlucky:
        await until(lambda: unlucky.turns == 2)
        assert unlucky.is_running
    ((name, told),) = [(each.name, each.getMessage()) for each in caplog.records if each.levelno == logging.ERROR]
    assert name == "persistence.recurring"
    assert told.startswith("unlucky: a turn failed; the next is in 0.1 s")


async def test_a_closed_manager_ends_the_monitor(manager: AsyncDatabaseManager) -> None:
    await manager.add_sqlite("local", SQLiteConfig(path=":memory:"))
    monitor = AsyncHealthMonitor(manager, interval=0.01)
    monitor.start()
    await until(lambda: monitor.statuses)
    await manager.aclose()
    await until(lambda: not monitor.is_running)
    await monitor.stop()
    with pytest.raises(ClosedError):
        await monitor.poll()


async def test_failures_below_one_are_refused(manager: AsyncDatabaseManager) -> None:
    with pytest.raises(ValidationError, match="failures 0 is not within"):
        AsyncHealthMonitor(manager, failures=0)
