"""What is given back to a pool: no connection with a transaction left open, and none that can not do its work."""

from __future__ import annotations

import asyncio  # async-only
from pathlib import Path  # async-only
from threading import Event  # async-only
from time import monotonic  # async-only

import pytest

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncPostgreSQLDatabase,
    PostgreSQLConfig,
    ReadOnlyError,
    TransactionError,
)
from persistence._async.compat import Threads  # async-only

INSERT = "INSERT INTO t (id) VALUES (:id)"


async def ids(database: AsyncDatabase) -> list[int]:
    return [row["id"] for row in await database.fetch_all("SELECT id FROM t ORDER BY id")]


@pytest.mark.parametrize("opening", ["BEGIN", "/* now */ begin", "SAVEPOINT s"])
async def test_a_statement_that_leaves_a_transaction_open_is_undone_and_refused(
    manager: AsyncDatabaseManager, database: AsyncDatabase, opening: str
) -> None:
    await database.execute("CREATE TABLE t (id integer)")
    if opening != "SAVEPOINT s" or database.kind == "sqlite":
        with pytest.raises(TransactionError, match=r"left a transaction open; it was undone \(with transaction\(\)"):
            await database.execute(opening)
    await database.execute(INSERT, {"id": 1})
    async with database.transaction():
        await database.execute(INSERT, {"id": 2})
    assert await ids(database) == [1, 2]
    async with database.transaction(read_only=True):
        assert await ids(database) == [1, 2]


async def test_a_transaction_that_a_statement_in_it_ended_says_so(database: AsyncDatabase) -> None:
    await database.execute("CREATE TABLE t (id integer)")
    with pytest.raises(TransactionError, match="had ended it"):
        async with database.transaction() as transaction:
            await transaction.execute(INSERT, {"id": 1})
            await transaction.execute("ROLLBACK")
    async with database.transaction() as transaction:
        await transaction.execute(INSERT, {"id": 2})
    assert await ids(database) == [2]
    assert database.stats().in_use == 0


@pytest.mark.parametrize("inside", [False, True])
async def test_after_a_server_became_read_only_the_next_call_has_a_new_connection(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig, inside: bool
) -> None:
    database: AsyncPostgreSQLDatabase = await manager.add_postgresql("main", postgresql_config)
    await database.execute("CREATE TABLE t (id integer)")
    # As after a switch-over that breaks no connection: all of them read only, new ones write.
    async with database.transaction():
        await database.fetch_apart("SELECT set_config('default_transaction_read_only', 'on', false)")
    await database.execute("SET default_transaction_read_only = on")
    await database.fetch_apart("SELECT set_config('default_transaction_read_only', 'on', false)")
    assert database.stats().open == 2
    with pytest.raises(ReadOnlyError, match=r"the next call finds it"):
        if inside:
            async with database.transaction() as transaction:
                await transaction.execute(INSERT, {"id": 1})
        else:
            await database.execute(INSERT, {"id": 1})
    await database.execute(INSERT, {"id": 2})
    assert await ids(database) == [2]
    assert database.stats().discarded == 2


async def test_a_write_in_a_read_only_transaction_costs_no_connection(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = await manager.add_postgresql("main", postgresql_config)
    await database.execute("CREATE TABLE t (id integer)")
    with pytest.raises(ReadOnlyError):
        async with database.transaction(read_only=True):
            await database.execute(INSERT, {"id": 1})
    assert (database.stats().open, database.stats().discarded) == (1, 0)


# [async-only]
@pytest.mark.parametrize("path", ["sqlite://", "sqlite:///{}/main.db"])
@pytest.mark.parametrize("times", [1, 2])
async def test_cancellation_at_any_moment_loses_nothing_on_sqlite(tmp_path: Path, path: str, times: int) -> None:
    async with AsyncDatabaseManager() as manager:
        database = await manager.add_sqlite("main", path.format(tmp_path))
        await database.execute("CREATE TABLE t (id integer)")
        await database.execute(INSERT, {"id": 0})

        async def work() -> None:
            async with database.transaction() as transaction:
                await transaction.execute(INSERT, {"id": 1})
            await database.copy_into("t", ["id"], [(2,), (3,)])

        done = False
        for moment in range(1000):
            task = asyncio.create_task(work())
            for _ in range(moment):
                await asyncio.sleep(0)
            done = task.done()
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0)
            await asyncio.wait((task,))
            assert task.cancelled() or task.exception() is None
            found = await ids(database)
            assert found[0] == 0
            assert found.count(2) == found.count(3)
            await database.execute(INSERT, {"id": 9})
            assert (await ids(database)).count(9) == found.count(9) + 1
            if done:
                return
        assert done


async def test_a_statement_cancelled_before_its_thread_began_ends_at_once(tmp_path: Path) -> None:
    counting = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    async with AsyncDatabaseManager() as manager:
        database = await manager.add_sqlite("main", f"sqlite:///{tmp_path}/main.db")
        started = monotonic()
        for moment in range(40):
            task = asyncio.create_task(database.fetch_value(counting, timeout=5))
            for _ in range(moment % 4):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled()
            assert await database.fetch_value("SELECT 1") == 1
        assert monotonic() - started < 5


async def test_a_call_cancelled_before_its_thread_began_is_not_made() -> None:
    threads, held, called = Threads(1, "test"), Event(), list[int]()
    holding = asyncio.create_task(threads.run(held.set, held.wait))
    waiting = asyncio.create_task(threads.run(lambda: None, called.append, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    held.set()
    assert await holding
    await asyncio.wait((waiting,))
    assert (waiting.cancelled(), called) == (True, [])
    await threads.run(lambda: None, called.append, 2)
    assert called == [2]
    threads.close()


# [/async-only]
