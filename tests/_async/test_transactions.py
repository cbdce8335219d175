"""Transactions on every SQL database: what commits, what rolls back, what nests, and who joins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncTransaction,
    Backoff,
    DeadlineError,
    DuplicateError,
    LockTimeoutError,
    ReadOnlyError,
    SavepointError,
    SerializationError,
    TransactionError,
    ValidationError,
)
from tests._async.side import elsewhere, together

INSERT = "INSERT INTO t (id) VALUES (:id)"


class Stop(Exception):
    """Raised by a test inside a transaction."""


@pytest_asyncio.fixture
async def table(database: AsyncDatabase) -> AsyncDatabase:
    """A database with a table ``t`` (id, n)."""
    await database.execute("CREATE TABLE t (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    return database


@pytest_asyncio.fixture
async def second(table: AsyncDatabase) -> AsyncIterator[AsyncDatabase]:
    """Another manager's connection to the same database; in memory there is only the one."""
    async with AsyncDatabaseManager() as other:
        if table.kind == "postgresql":
            yield await other.add_postgresql("main", table.config)  # type: ignore[attr-defined]
        elif table.config.path != ":memory:":  # type: ignore[attr-defined]
            yield await other.add_sqlite("main", table.config)  # type: ignore[attr-defined]
        else:
            yield table


async def ids(database: AsyncDatabase) -> list[int]:
    return [row["id"] for row in await database.fetch_all("SELECT id FROM t ORDER BY id")]


async def test_a_transaction_commits_as_a_whole(table: AsyncDatabase, second: AsyncDatabase) -> None:
    async with table.transaction() as transaction:
        await transaction.execute(INSERT, {"id": 1})
        await transaction.execute(INSERT, {"id": 2})
        if second is not table:
            assert await ids(second) == []
        assert await ids(table) == [1, 2]
    assert await ids(second) == [1, 2]
    assert table.stats().in_use == 0


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, ZeroDivisionError])
async def test_any_exception_rolls_back_and_goes_on(
    table: AsyncDatabase, second: AsyncDatabase, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        async with table.transaction():
            await table.execute(INSERT, {"id": 1})
            raise error
    assert await ids(second) == []
    assert table.stats().in_use == 0
    await table.execute(INSERT, {"id": 2})
    assert await ids(second) == [2]


async def test_a_nested_failure_undoes_only_its_own_part(table: AsyncDatabase, second: AsyncDatabase) -> None:
    async with table.transaction():
        await table.execute(INSERT, {"id": 1})
        with suppress(Stop):
            async with table.transaction():
                await table.execute(INSERT, {"id": 2})
                raise Stop
        with suppress(DuplicateError):
            async with table.transaction():
                await table.execute(INSERT, {"id": 3})
                await table.execute(INSERT, {"id": 1})
        await table.execute(INSERT, {"id": 4})
    assert await ids(second) == [1, 4]


async def test_three_levels_nest_on_one_connection(table: AsyncDatabase, second: AsyncDatabase) -> None:
    async with table.transaction():
        await table.execute(INSERT, {"id": 1})
        async with table.transaction():
            await table.execute(INSERT, {"id": 2})
            async with table.transaction():
                await table.execute(INSERT, {"id": 3})
            with suppress(Stop):
                async with table.transaction():
                    await table.execute(INSERT, {"id": 4})
                    raise Stop
            assert await ids(table) == [1, 2, 3]
            assert table.stats().in_use == 1
    assert await ids(second) == [1, 2, 3]


async def test_the_outer_rollback_undoes_what_nested_ones_committed(
    table: AsyncDatabase, second: AsyncDatabase
) -> None:
    with suppress(Stop):
        async with table.transaction():
            async with table.transaction():
                await table.execute(INSERT, {"id": 1})
            raise Stop
    assert await ids(second) == []


async def test_more_nested_transactions_than_connections_do_not_deadlock(table: AsyncDatabase) -> None:
    async with table.transaction():
        for number in range(60):
            async with table.transaction():
                await table.execute(INSERT, {"id": number})
    assert await ids(table) == list(range(60))


async def test_after_a_failed_statement_only_a_rollback_is_left(table: AsyncDatabase, second: AsyncDatabase) -> None:
    await table.execute(INSERT, {"id": 1})
    with pytest.raises(TransactionError, match="although its error was caught") as caught:
        async with table.transaction():
            await table.execute(INSERT, {"id": 2})
            with suppress(DuplicateError):
                await table.execute(INSERT, {"id": 1})
            with pytest.raises(TransactionError, match="failed before"):
                await table.execute(INSERT, {"id": 3})
    assert isinstance(caught.value.__cause__, DuplicateError)
    assert await ids(second) == [1]


async def test_a_refused_parameter_does_not_fail_the_transaction(table: AsyncDatabase) -> None:
    async with table.transaction():
        with pytest.raises(ValidationError):
            await table.execute(INSERT, {"di": 1})
        await table.execute(INSERT, {"id": 1})
    assert await ids(table) == [1]


async def writer_execute(database: Any) -> None:
    await database.execute(INSERT, {"id": 7})


async def writer_fetch(database: Any) -> None:
    await database.fetch_value("INSERT INTO t (id) VALUES (:id) RETURNING id", {"id": 7})


async def writer_many(database: Any) -> None:
    await database.execute_many(INSERT, [{"id": 7}])


async def writer_nested(database: Any) -> None:
    async with database.transaction():
        await database.execute(INSERT, {"id": 7})


WRITERS = [writer_execute, writer_fetch, writer_many, writer_nested]


@pytest.mark.parametrize("write", WRITERS)
async def test_every_writer_commits_by_itself_outside_a_transaction(
    table: AsyncDatabase, second: AsyncDatabase, write: Any
) -> None:
    await write(table)
    assert await ids(second) == [7]


@pytest.mark.parametrize("write", WRITERS)
async def test_every_writer_joins_the_transaction_that_commits(
    table: AsyncDatabase, second: AsyncDatabase, write: Any
) -> None:
    async with table.transaction():
        await write(table)
        if second is not table:
            assert await ids(second) == []
    assert await ids(second) == [7]


@pytest.mark.parametrize("write", WRITERS)
async def test_every_writer_joins_the_transaction_that_rolls_back(
    table: AsyncDatabase, second: AsyncDatabase, write: Any
) -> None:
    with suppress(Stop):
        async with table.transaction():
            await write(table)
            raise Stop
    assert await ids(second) == []


@pytest.mark.parametrize("write", WRITERS)
async def test_every_writer_joins_the_savepoint_that_rolls_back(
    table: AsyncDatabase, second: AsyncDatabase, write: Any
) -> None:
    async with table.transaction():
        await table.execute(INSERT, {"id": 1})
        with suppress(Stop):
            async with table.transaction():
                await write(table)
                raise Stop
    assert await ids(second) == [1]


@pytest.mark.parametrize("write", WRITERS)
async def test_every_writer_is_refused_in_a_failed_transaction(
    table: AsyncDatabase, second: AsyncDatabase, write: Any
) -> None:
    with pytest.raises(TransactionError, match="although"):
        async with table.transaction():
            with suppress(Exception):
                await table.execute("nonsense")
            with pytest.raises(TransactionError, match="failed before"):
                await write(table)
    assert await ids(second) == []


@pytest.mark.parametrize("write", WRITERS)
async def test_every_writer_is_refused_in_a_read_only_transaction(
    table: AsyncDatabase, second: AsyncDatabase, write: Any
) -> None:
    with pytest.raises(ReadOnlyError):
        async with table.transaction(read_only=True):
            await write(table)
    assert await ids(second) == []
    await write(table)
    assert await ids(second) == [7]


@pytest.mark.parametrize("write", WRITERS)
async def test_every_writer_works_on_the_transaction_itself(
    table: AsyncDatabase, second: AsyncDatabase, write: Any
) -> None:
    async with table.transaction() as transaction:
        if write is writer_nested:
            async with transaction.transaction() as nested:
                await writer_execute(nested)
        else:
            await write(transaction)
    assert await ids(second) == [7]


async def test_the_outer_transaction_waits_while_a_nested_one_is_open(table: AsyncDatabase) -> None:
    async with table.transaction() as outer:
        async with table.transaction():
            with pytest.raises(SavepointError):
                await outer.execute(INSERT, {"id": 1})
        await outer.execute(INSERT, {"id": 2})
    assert await ids(table) == [2]


async def test_a_transaction_is_used_once_and_inside_its_block(table: AsyncDatabase) -> None:
    transaction = table.transaction()
    with pytest.raises(TransactionError, match="new"):
        await transaction.execute(INSERT, {"id": 1})
    async with transaction:
        pass
    with pytest.raises(TransactionError, match="ended"):
        await transaction.execute(INSERT, {"id": 1})
    with pytest.raises(TransactionError, match="once"):
        await transaction.__aenter__()


async def test_a_transaction_ends_at_its_deadline(table: AsyncDatabase, second: AsyncDatabase) -> None:
    slow = "SELECT pg_sleep(30)"
    if table.kind == "sqlite":
        slow = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    started = monotonic()
    with pytest.raises(DeadlineError):
        async with table.transaction(timeout=0.3):
            await table.execute(INSERT, {"id": 1})
            await table.fetch_all(slow)
    assert monotonic() - started < 3
    assert await ids(second) == []


async def test_a_transaction_past_its_timeout_does_not_commit(table: AsyncDatabase, second: AsyncDatabase) -> None:
    with pytest.raises((DeadlineError, TransactionError)):
        async with table.transaction(timeout=0.05):
            await table.execute(INSERT, {"id": 1})
            until = monotonic() + 0.06
            while monotonic() < until:
                pass
    assert await ids(second) == []


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
async def test_isolation_is_what_the_server_says(table: AsyncDatabase, level: Any) -> None:
    async with table.transaction(isolation=level):
        if table.kind == "postgresql":
            assert await table.fetch_value("SHOW transaction_isolation") == level
            assert await table.fetch_value("SHOW transaction_read_only") == "off"
    async with table.transaction(isolation=level, read_only=True):
        if table.kind == "postgresql":
            assert await table.fetch_value("SHOW transaction_isolation") == level
            assert await table.fetch_value("SHOW transaction_read_only") == "on"
    if table.kind == "postgresql":
        assert await table.fetch_value("SHOW transaction_isolation") == "read committed"


async def test_a_snapshot_does_not_move(table: AsyncDatabase, second: AsyncDatabase) -> None:
    if second is table:
        return  # one connection: nobody can write meanwhile
    async with table.transaction(isolation="repeatable read", read_only=True):
        assert await ids(table) == []
        await second.execute(INSERT, {"id": 1})
        assert await ids(table) == []
    assert await ids(table) == [1]


async def test_bad_options_are_refused(table: AsyncDatabase) -> None:
    with pytest.raises(ValidationError, match="no isolation level"):
        table.transaction(isolation="chaos")  # type: ignore[arg-type]
    async with table.transaction():
        with pytest.raises(TransactionError, match="can't change isolation"):
            await table.transaction(isolation="serializable").__aenter__()
        with pytest.raises(TransactionError, match="can't change isolation"):
            await table.transaction(read_only=True).__aenter__()
        await table.execute(INSERT, {"id": 1})
    assert await ids(table) == [1]


async def test_run_transaction_returns_the_result_and_rolls_back_on_error(
    table: AsyncDatabase, second: AsyncDatabase
) -> None:
    async def work(transaction: AsyncTransaction) -> str:
        await transaction.execute(INSERT, {"id": 1})
        return "done"

    async def failing(transaction: AsyncTransaction) -> None:
        await transaction.execute(INSERT, {"id": 2})
        raise Stop

    assert await table.run_transaction(work) == "done"
    with pytest.raises(Stop):
        await table.run_transaction(failing)
    assert await ids(second) == [1]
    async with table.transaction():
        with pytest.raises(TransactionError, match="outermost"):
            await table.run_transaction(work)


async def test_a_serialization_failure_is_retried_from_the_start(table: AsyncDatabase, second: AsyncDatabase) -> None:
    if table.kind == "sqlite":
        return  # one writer: there is nothing to fail
    await table.execute(INSERT, {"id": 1})
    tries = 0

    async def add(transaction: AsyncTransaction) -> None:
        nonlocal tries
        tries += 1
        n = await transaction.fetch_value("SELECT n FROM t WHERE id = 1")
        if tries < 3:
            await second.execute("UPDATE t SET n = n + 100 WHERE id = 1")
        await transaction.execute("UPDATE t SET n = :n WHERE id = 1", {"n": n + 1})

    await table.run_transaction(add, isolation="repeatable read")
    assert tries == 3
    assert await second.fetch_value("SELECT n FROM t WHERE id = 1") == 201
    tries = 0
    with pytest.raises(SerializationError):
        await table.run_transaction(add, isolation="repeatable read", backoff=Backoff(retries=1, base=0.001))
    assert tries == 2


async def test_another_task_never_joins_by_accident(table: AsyncDatabase, second: AsyncDatabase) -> None:
    if second is table:
        return  # one connection: the other task would wait for it
    async with table.transaction(read_only=True):
        await elsewhere(lambda: table.execute(INSERT, {"id": 1}))
        assert await ids(second) == [1]


async def test_a_second_writer_waits_its_turn(table: AsyncDatabase) -> None:
    if table.kind == "postgresql":
        await table.execute(INSERT, {"id": 1})

    async def bump() -> None:
        async with table.transaction():
            n = await table.fetch_value("SELECT count(*) FROM t")
            await table.execute(INSERT, {"id": n + 10})

    if table.kind == "sqlite":
        assert await together(*[bump] * 20) == [None] * 20
        assert await table.fetch_value("SELECT count(*) FROM t") == 20
        return
    async with table.transaction():
        await table.execute("UPDATE t SET n = 1")
        with pytest.raises(LockTimeoutError):
            await elsewhere(lambda: impatient(table))


async def impatient(database: AsyncDatabase) -> None:
    async with database.transaction():
        await database.execute("SET LOCAL lock_timeout = '50ms'")
        await database.execute("UPDATE t SET n = 2")


async def test_a_transaction_adds_no_round_trip_to_begin_statements_commit(table: AsyncDatabase) -> None:
    if table.kind == "sqlite":
        return
    calls = []
    async with table.transaction() as transaction:
        link = transaction._link
        original = link.raw.exchange

        async def counting(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return await original(*args, **kwargs)

        link.raw.exchange = counting
        await table.execute(INSERT, {"id": 1})
        await table.execute(INSERT, {"id": 2})
    del link.raw.exchange
    assert len(calls) == 3  # two statements and COMMIT; BEGIN came before we counted
