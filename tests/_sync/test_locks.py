# Generated from ../_async/test_locks.py by tests/unasync.py: edit that one.
"""Locks between programs: who has one, for how long, and what a fencing token is worth."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest

from persistence import (
    AdvisoryLock,
    DatabaseManager,
    LeaseLock,
    CapabilityError,
    ConflictError,
    LockTimeoutError,
    PostgreSQLConfig,
    SQLiteConfig,
    TransactionError,
    ValidationError,
)
from tests._sync.side import elsewhere, sleep, together

pytestmark = pytest.mark.tables("persistence")


@pytest.fixture(params=("postgresql", "sqlite", "redis"))
def locks(request: pytest.FixtureRequest, manager: DatabaseManager, tmp_path: Path) -> DatabaseManager:
    """A manager whose connection ``main`` can hold leases."""
    if request.param == "redis":
        manager.add_redis("main", request.getfixturevalue("redis_config"))
    elif request.param == "postgresql":
        manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    else:
        manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "main.db")))
    return manager


def test_one_at_a_time_has_the_lease_and_its_token_grows(locks: DatabaseManager) -> None:
    first, second = LeaseLock(locks, "main", "l"), LeaseLock(locks, "main", "l")
    assert not first.held
    assert first.acquire() == first.fence == 1
    assert first.held
    with pytest.raises(LockTimeoutError, match="main: somebody else had the lock 'l' for 0 s"):
        second.acquire(timeout=0)
    started = monotonic()
    with pytest.raises(LockTimeoutError):
        second.acquire(timeout=0.1)
    assert 0.1 <= monotonic() - started < 5
    first.renew()
    assert first.release()
    assert not first.release()
    assert not first.held
    with second:
        assert second.fence == 2
        with (
            LeaseLock(locks, "main", "other") as other,
            LeaseLock(locks, "main", "l", tenant="other") as foreign,
        ):
            assert (other.fence, foreign.fence) == (1, 1)
    assert first.acquire(timeout=0) == 3
    with pytest.raises(ConflictError, match="held already"):
        first.acquire(timeout=0)
    assert first.release()


def test_a_lease_that_ran_out_is_lost_and_its_holder_learns_of_it(locks: DatabaseManager) -> None:
    slow, quick = LeaseLock(locks, "main", "l", ttl=0.1), LeaseLock(locks, "main", "l")
    with pytest.raises(ConflictError, match="ran out before its block ended"):
        with slow:
            assert quick.acquire(timeout=10) == 2
            assert not slow.held
    assert quick.release()
    slow.acquire()
    assert quick.acquire(timeout=10) == 4
    with pytest.raises(ConflictError, match="was lost"):
        slow.renew()
    assert not slow.release()
    assert quick.held
    with pytest.raises(ConflictError, match="is not held"):
        assert slow.fence
    with pytest.raises(RuntimeError):  # the block's own exception goes first
        with LeaseLock(locks, "main", "m", ttl=0.001):
            sleep(0.02)
            raise RuntimeError


def test_what_many_do_under_a_lease_they_do_one_after_the_other(locks: DatabaseManager) -> None:
    inside: list[int] = []
    tokens: list[int] = []

    def work(number: int) -> None:
        with LeaseLock(locks, "main", "l", timeout=20) as lease:
            inside.append(number)
            sleep(0.002)
            assert inside == [number]
            tokens.append(lease.fence)
            inside.clear()

    assert together(*[lambda n=n: work(n) for n in range(6)]) == [None] * 6
    assert tokens == [1, 2, 3, 4, 5, 6]


def test_bad_input_is_refused(locks: DatabaseManager) -> None:
    bad: list[Any] = ["", "\0", "\ud800", 7, None, "x" * 1025]
    for name in bad:
        with pytest.raises(ValidationError):
            LeaseLock(locks, "main", name)
    for ttl in (0, -1, None, float("nan")):
        with pytest.raises(ValidationError):
            LeaseLock(locks, "main", "l", ttl=ttl)  # type: ignore[arg-type]
    for timeout in (-1, float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            LeaseLock(locks, "main", "l").acquire(timeout=timeout)
    for name in ("'; DROP TABLE holdfast_leases; --", "{x}:y", "x" * 1024):
        with LeaseLock(locks, "main", name) as lease:
            assert lease.fence == 1


def test_a_month_is_a_limit_too(manager: DatabaseManager, postgresql_config: PostgreSQLConfig) -> None:
    month = timedelta(days=30)  # more than PostgreSQL's settings take
    database = manager.add_postgresql("main", postgresql_config)
    with database.transaction(timeout=month) as transaction:
        assert transaction.fetch_value("SHOW idle_in_transaction_session_timeout") == "2147483647ms"
        AdvisoryLock(manager, "main", "l").acquire(timeout=month)


def test_a_lease_is_not_for_inside_a_transaction(manager: DatabaseManager) -> None:
    database = manager.add_sqlite("main", "sqlite://")
    with database.transaction():
        with pytest.raises(TransactionError, match="not for use inside a transaction"):
            LeaseLock(manager, "main", "l").acquire()


def test_a_release_that_failed_is_made_again(manager: DatabaseManager, tmp_path: Path) -> None:
    config = SQLiteConfig(path=str(tmp_path / "main.db"), timeout=0.1)
    database = manager.add_sqlite("main", config)
    lease = LeaseLock(manager, "main", "l")
    lease.acquire()
    with database.transaction():
        with pytest.raises(TransactionError, match="not for use inside a transaction"):
            lease.release()
    with closing(sqlite3.connect(config.path)) as beside:
        beside.execute("BEGIN IMMEDIATE")
        with pytest.raises(LockTimeoutError):
            lease.release()
    assert lease.held
    assert lease.release()
    assert not lease.release()
    assert LeaseLock(manager, "main", "l").acquire(timeout=0) == 2


def test_an_advisory_lock_lasts_as_long_as_its_transaction(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = manager.add_postgresql("main", postgresql_config)

    def take(lock: str, timeout: float, tenant: str = "default") -> None:
        with database.transaction():
            AdvisoryLock(manager, "main", lock, tenant=tenant).acquire(timeout=timeout)

    with database.transaction():
        before = database.fetch_value("SHOW lock_timeout")
        AdvisoryLock(manager, "main", "l").acquire()
        AdvisoryLock(manager, "main", "l").acquire()
        assert database.fetch_value("SHOW lock_timeout") == before
        started = monotonic()
        with pytest.raises(LockTimeoutError, match=r"main: another transaction had the lock 'l' for 0\.1 s"):
            elsewhere(lambda: take("l", 0.1))
        assert monotonic() - started < 5
        elsewhere(lambda: take("other", 0.1))
        elsewhere(lambda: take("l", 0.1, "other"))
    elsewhere(lambda: take("l", 0.1))
    with pytest.raises(TransactionError, match="needs a transaction"):
        AdvisoryLock(manager, "main", "l").acquire()
    manager.add_sqlite("file", "sqlite://")
    with pytest.raises(CapabilityError, match="file: SQLite has no advisory locks"):
        AdvisoryLock(manager, "file", "l")
    with pytest.raises(ValidationError):
        AdvisoryLock(manager, "main", "")
