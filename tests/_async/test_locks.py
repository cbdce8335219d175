"""Locks between programs: who has one, for how long, and what a fencing token is worth."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncAdvisoryLock,
    AsyncDatabaseManager,
    AsyncLeaseLock,
    CapabilityError,
    ConflictError,
    LockTimeoutError,
    PostgreSQLConfig,
    SQLiteConfig,
    TransactionError,
    ValidationError,
)
from tests._async.side import elsewhere, sleep, together

pytestmark = pytest.mark.tables("persistence")


@pytest_asyncio.fixture(params=("postgresql", "sqlite", "redis"))
async def locks(request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path) -> AsyncDatabaseManager:
    """A manager whose connection ``main`` can hold leases."""
    if request.param == "redis":
        await manager.add_redis("main", request.getfixturevalue("redis_config"))
    elif request.param == "postgresql":
        await manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    else:
        await manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "main.db")))
    return manager


async def test_one_at_a_time_has_the_lease_and_its_token_grows(locks: AsyncDatabaseManager) -> None:
    first, second = AsyncLeaseLock(locks, "main", "l"), AsyncLeaseLock(locks, "main", "l")
    assert not first.held
    assert await first.acquire() == first.fence == 1
    assert first.held
    with pytest.raises(LockTimeoutError, match="main: somebody else had the lock 'l' for 0 s"):
        await second.acquire(timeout=0)
    started = monotonic()
    with pytest.raises(LockTimeoutError):
        await second.acquire(timeout=0.1)
    assert 0.1 <= monotonic() - started < 5
    await first.renew()
    assert await first.release()
    assert not await first.release()
    assert not first.held
    async with second:
        assert second.fence == 2
        async with (
            AsyncLeaseLock(locks, "main", "other") as other,
            AsyncLeaseLock(locks, "main", "l", tenant="other") as foreign,
        ):
            assert (other.fence, foreign.fence) == (1, 1)
    assert await first.acquire(timeout=0) == 3
    with pytest.raises(ConflictError, match="held already"):
        await first.acquire(timeout=0)
    assert await first.release()


async def test_a_lease_that_ran_out_is_lost_and_its_holder_learns_of_it(locks: AsyncDatabaseManager) -> None:
    slow, quick = AsyncLeaseLock(locks, "main", "l", ttl=0.1), AsyncLeaseLock(locks, "main", "l")
    with pytest.raises(ConflictError, match="ran out before its block ended"):
        async with slow:
            assert await quick.acquire(timeout=10) == 2
            assert not slow.held
    assert await quick.release()
    await slow.acquire()
    assert await quick.acquire(timeout=10) == 4
    with pytest.raises(ConflictError, match="was lost"):
        await slow.renew()
    assert not await slow.release()
    assert quick.held
    with pytest.raises(ConflictError, match="is not held"):
        assert slow.fence
    with pytest.raises(RuntimeError):  # the block's own exception goes first
        async with AsyncLeaseLock(locks, "main", "m", ttl=0.001):
            await sleep(0.02)
            raise RuntimeError


async def test_what_many_do_under_a_lease_they_do_one_after_the_other(locks: AsyncDatabaseManager) -> None:
    inside: list[int] = []
    tokens: list[int] = []

    async def work(number: int) -> None:
        async with AsyncLeaseLock(locks, "main", "l", timeout=20) as lease:
            inside.append(number)
            await sleep(0.002)
            assert inside == [number]
            tokens.append(lease.fence)
            inside.clear()

    assert await together(*[lambda n=n: work(n) for n in range(6)]) == [None] * 6
    assert tokens == [1, 2, 3, 4, 5, 6]


async def test_bad_input_is_refused(locks: AsyncDatabaseManager) -> None:
    bad: list[Any] = ["", "\0", "\ud800", 7, None, "x" * 1025]
    for name in bad:
        with pytest.raises(ValidationError):
            AsyncLeaseLock(locks, "main", name)
    for ttl in (0, -1, None, float("nan")):
        with pytest.raises(ValidationError):
            AsyncLeaseLock(locks, "main", "l", ttl=ttl)  # type: ignore[arg-type]
    for timeout in (-1, float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            await AsyncLeaseLock(locks, "main", "l").acquire(timeout=timeout)
    for name in ("'; DROP TABLE holdfast_leases; --", "{x}:y", "x" * 1024):
        async with AsyncLeaseLock(locks, "main", name) as lease:
            assert lease.fence == 1


async def test_a_month_is_a_limit_too(manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig) -> None:
    month = timedelta(days=30)  # more than PostgreSQL's settings take
    database = await manager.add_postgresql("main", postgresql_config)
    async with database.transaction(timeout=month) as transaction:
        assert await transaction.fetch_value("SHOW idle_in_transaction_session_timeout") == "2147483647ms"
        await AsyncAdvisoryLock(manager, "main", "l").acquire(timeout=month)


async def test_a_lease_is_not_for_inside_a_transaction(manager: AsyncDatabaseManager) -> None:
    database = await manager.add_sqlite("main", "sqlite://")
    async with database.transaction():
        with pytest.raises(TransactionError, match="not for use inside a transaction"):
            await AsyncLeaseLock(manager, "main", "l").acquire()


async def test_a_release_that_failed_is_made_again(manager: AsyncDatabaseManager, tmp_path: Path) -> None:
    config = SQLiteConfig(path=str(tmp_path / "main.db"), timeout=0.1)
    database = await manager.add_sqlite("main", config)
    lease = AsyncLeaseLock(manager, "main", "l")
    await lease.acquire()
    async with database.transaction():
        with pytest.raises(TransactionError, match="not for use inside a transaction"):
            await lease.release()
    with closing(sqlite3.connect(config.path)) as beside:
        beside.execute("BEGIN IMMEDIATE")
        with pytest.raises(LockTimeoutError):
            await lease.release()
    assert lease.held
    assert await lease.release()
    assert not await lease.release()
    assert await AsyncLeaseLock(manager, "main", "l").acquire(timeout=0) == 2


async def test_an_advisory_lock_lasts_as_long_as_its_transaction(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = await manager.add_postgresql("main", postgresql_config)

    async def take(lock: str, timeout: float, tenant: str = "default") -> None:
        async with database.transaction():
            await AsyncAdvisoryLock(manager, "main", lock, tenant=tenant).acquire(timeout=timeout)

    async with database.transaction():
        before = await database.fetch_value("SHOW lock_timeout")
        await AsyncAdvisoryLock(manager, "main", "l").acquire()
        await AsyncAdvisoryLock(manager, "main", "l").acquire()
        assert await database.fetch_value("SHOW lock_timeout") == before
        started = monotonic()
        with pytest.raises(LockTimeoutError, match=r"main: another transaction had the lock 'l' for 0\.1 s"):
            await elsewhere(lambda: take("l", 0.1))
        assert monotonic() - started < 5
        await elsewhere(lambda: take("other", 0.1))
        await elsewhere(lambda: take("l", 0.1, "other"))
    await elsewhere(lambda: take("l", 0.1))
    with pytest.raises(TransactionError, match="needs a transaction"):
        await AsyncAdvisoryLock(manager, "main", "l").acquire()
    await manager.add_sqlite("file", "sqlite://")
    with pytest.raises(CapabilityError, match="file: SQLite has no advisory locks"):
        AsyncAdvisoryLock(manager, "file", "l")
    with pytest.raises(ValidationError):
        AsyncAdvisoryLock(manager, "main", "")
