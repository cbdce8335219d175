"""Batches: several statements in one round trip and one commit, all or none, the same on every SQL database."""

from __future__ import annotations

import asyncio  # async-only
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncPostgreSQLDatabase,
    ClosedError,
    ConnectionLostError,
    DeadlineError,
    DuplicateError,
    ForeignKeyError,
    PersistenceError,
    PostgreSQLConfig,
    QueryError,
    TransactionError,
    ValidationError,
)
from tests._async.side import together

INSERT = "INSERT INTO t (id, body) VALUES (:id, :body)"
ALL = "SELECT id, body FROM t ORDER BY id"


@pytest_asyncio.fixture
async def table(database: AsyncDatabase) -> AsyncDatabase:
    """A database with a table ``t`` (id, body)."""
    await database.execute("CREATE TABLE t (id integer PRIMARY KEY, body text)")
    return database


async def test_each_call_gives_its_rows_and_sees_the_calls_before(table: AsyncDatabase) -> None:
    before = table.stats().requests
    found = await table.fetch_batch(
        [
            (INSERT, {"id": 2, "body": "two"}),
            (ALL, None),
            ("INSERT INTO t (id, body) VALUES (:id, :body) RETURNING id", {"id": 1, "body": None}),
            (ALL, {}),
            ("SELECT id FROM t WHERE id > :id", {"id": 5}),
            ("DELETE FROM t WHERE id = :id", {"id": 2}),
        ]
    )
    two, one = {"id": 2, "body": "two"}, {"id": 1, "body": None}
    assert found == [[], [two], [{"id": 1}], [one, two], [], []]
    assert table.stats().requests - before == 1
    assert await table.fetch_all(ALL) == [one]
    assert await table.fetch_batch([]) == []
    assert await table.fetch_batch(iter([(ALL, None)])) == [[one]]


BAD_CALLS: list[tuple[Any, type[PersistenceError]]] = [
    ((INSERT, {"id": 1, "body": "again"}), DuplicateError),
    (("SELEC 1", None), QueryError),
    (("SELECT * FROM nowhere", None), QueryError),
    (("SELECT 1; SELECT 2", None), QueryError),
    ((INSERT, {"id": 2, "body": "\ud800"}), ValidationError),
    ((INSERT, {"id": 2**70, "body": "x"}), ValidationError),
    ((INSERT, {"id": 2}), ValidationError),
    ((INSERT, {"id": 2, "body": "x", "more": 1}), ValidationError),
]


@pytest.mark.parametrize("prepare", [None, True])
@pytest.mark.parametrize(("call", "error"), BAD_CALLS, ids=range(len(BAD_CALLS)))
async def test_a_call_that_fails_is_named_and_nothing_is_kept(
    table: AsyncDatabase, call: Any, error: type[PersistenceError], prepare: bool | None
) -> None:
    await table.execute(INSERT, {"id": 1, "body": "first"})
    with pytest.raises(error, match=r"calls\[1\]") as caught:
        await table.fetch_batch([(INSERT, {"id": 3, "body": "x"}), call, ("DELETE FROM t", None)], prepare=prepare)
    assert type(caught.value) is error
    assert await table.fetch_all(ALL) == [{"id": 1, "body": "first"}]
    assert await table.fetch_batch([(ALL, None)]) == [[{"id": 1, "body": "first"}]]
    assert (table.stats().in_use, table.stats().discarded) == (0, 0)


async def test_what_fails_only_at_the_commit_keeps_nothing_either(table: AsyncDatabase) -> None:
    await table.execute(
        "CREATE TABLE child (id integer PRIMARY KEY, parent integer REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)"
    )
    call = ("INSERT INTO child VALUES (:id, :parent)", {"id": 1, "parent": 9})
    for prepare in (False, True):
        with pytest.raises(ForeignKeyError):
            await table.fetch_batch([(INSERT, {"id": 1, "body": "x"}), call], prepare=prepare)
        assert await table.fetch_batch([(ALL, None), ("SELECT * FROM child", None)]) == [[], []]
    await table.fetch_batch([call, (INSERT, {"id": 9, "body": "late"})])
    assert await table.fetch_value("SELECT count(*) FROM child") == 1


async def test_a_batch_joins_the_transaction_it_is_called_in(table: AsyncDatabase) -> None:
    with pytest.raises(ZeroDivisionError):
        async with table.transaction():
            assert await table.fetch_batch([(INSERT, {"id": 1, "body": "x"}), (ALL, None)]) == [
                [],
                [{"id": 1, "body": "x"}],
            ]
            raise ZeroDivisionError
    assert await table.fetch_all(ALL) == []
    async with table.transaction() as outer:
        await table.execute(INSERT, {"id": 1, "body": "kept"})
        with pytest.raises(DuplicateError, match=r"calls\[1\]"):
            async with outer.transaction():
                await table.fetch_batch([(INSERT, {"id": 2, "body": "x"}), (INSERT, {"id": 1, "body": "x"})])
    assert await table.fetch_all(ALL) == [{"id": 1, "body": "kept"}]
    with pytest.raises(TransactionError, match="failed"):
        async with table.transaction() as transaction:
            with pytest.raises(DuplicateError):
                await transaction.fetch_batch([(INSERT, {"id": 3, "body": "x"}), (INSERT, {"id": 1, "body": "x"})])
            await transaction.fetch_batch([(ALL, None)])
    assert await table.fetch_all(ALL) == [{"id": 1, "body": "kept"}]


async def test_many_calls_of_many_bytes_are_one_batch(table: AsyncDatabase) -> None:
    body = "x" * 5000
    inserts: list[Any] = [(INSERT, {"id": n, "body": body}) for n in range(2000)]
    assert await table.fetch_batch([*inserts, *[(ALL, None)] * 3]) == [
        *[[]] * 2000,
        *[[{"id": n, "body": body} for n in range(2000)]] * 3,
    ]


async def test_batches_side_by_side_each_get_their_own_answers(table: AsyncDatabase) -> None:
    async def batch(number: int) -> Any:
        calls: list[Any] = [
            (INSERT, {"id": number, "body": "x"}),
            ("SELECT id FROM t WHERE id = :id", {"id": number}),
            ("SELECT :n + 0 AS n", {"n": number}),
        ]
        found = await table.fetch_batch(calls)
        return found[1][0]["id"], found[2][0]["n"]

    results = await together(*[lambda number=number: batch(number) for number in range(30)])
    assert results == [(number, number) for number in range(30)]


async def test_a_batch_ends_at_its_deadline_and_keeps_nothing(table: AsyncDatabase) -> None:
    slow = "SELECT pg_sleep(30)"
    if table.kind == "sqlite":
        slow = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    with pytest.raises(DeadlineError):
        await table.fetch_batch([(INSERT, {"id": 1, "body": "x"}), (slow, None)], timeout=0.3)
    assert await table.fetch_all(ALL) == []
    assert await table.fetch_batch([(INSERT, {"id": 1, "body": "x"}), (ALL, None)]) == [[], [{"id": 1, "body": "x"}]]


async def test_a_closed_database_runs_no_batch(table: AsyncDatabase) -> None:
    await table.aclose()
    with pytest.raises(ClosedError):
        await table.fetch_batch([(ALL, None)])


@pytest_asyncio.fixture
async def main(manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig) -> AsyncPostgreSQLDatabase:
    database = await manager.add_postgresql("main", postgresql_config)
    await database.execute("CREATE TABLE t (id integer PRIMARY KEY, body text)")
    return database


async def test_a_batch_is_one_round_trip_and_one_transaction(main: AsyncPostgreSQLDatabase) -> None:
    for prepare in (None, False, True, True):
        async with main.transaction() as transaction:
            raw = transaction._link.raw
            trips: list[int] = []
            original = raw._converse

            async def counting(deadline: float, original: Any = original, trips: list[int] = trips) -> None:
                trips.append(1)
                await original(deadline)

            raw._converse = counting
            await main.fetch_batch([("SELECT :n + 1 AS n", {"n": 1}), (ALL, None)] * 5, prepare=prepare)
            assert len(trips) == 1
            del raw._converse
        ids = await main.fetch_batch([("SELECT pg_current_xact_id()::text AS id", None)] * 4, prepare=prepare)
        assert len({rows[0]["id"] for rows in ids}) == 1


@pytest.mark.parametrize("binary", [False, True])
async def test_statements_of_batches_are_prepared_like_others(main: AsyncPostgreSQLDatabase, binary: bool) -> None:
    prepared = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'holdfast%'"
    calls: list[Any] = [("SELECT :b AS b, :n AS n", {"b": b"\0\xff", "n": 7}), (INSERT, {"id": 1, "body": "x"})]
    for number in range(8):
        found = await main.fetch_batch([*calls, ("DELETE FROM t", None), (prepared, None)], binary=binary)
        assert found[0] == [{"b": b"\0\xff", "n": 7}]
        assert found[3] == [{"count": 4 if number >= 5 else 0}]
    await main.execute("DISCARD ALL")
    assert (await main.fetch_batch(calls, binary=binary))[0] == [{"b": b"\0\xff", "n": 7}]
    for _ in range(8):
        assert (
            await main.fetch_batch([(ALL, None), ("SELECT * FROM t", None)], binary=binary)
            == [[{"id": 1, "body": "x"}]] * 2
        )
    await main.execute("DO $$ BEGIN EXECUTE 'ALTER TABLE t ADD COLUMN more integer'; END $$")
    changed = {"id": 1, "body": "x", "more": None}
    assert await main.fetch_batch([(INSERT, {"id": 2, "body": "y"}), ("SELECT * FROM t LIMIT 1", None)]) == [
        [],
        [changed],
    ]
    assert (await main.fetch_batch([(INSERT, {"id": 3, "body": "z"}), ("SELECT * FROM t", None)]))[1][0] == changed
    assert await main.fetch_value("SELECT count(*) FROM t") == 3
    assert main.stats().errors == 0


async def test_a_connection_lost_in_a_batch_is_named_so(main: AsyncPostgreSQLDatabase) -> None:
    with pytest.raises(ConnectionLostError):
        await main.fetch_batch(
            [(INSERT, {"id": 1, "body": "x"}), ("SELECT pg_terminate_backend(pg_backend_pid())", None), (ALL, None)]
        )
    assert await main.fetch_all(ALL) == []
    assert main.stats().in_use == 0


# [async-only]
async def test_a_cancelled_batch_keeps_nothing(main: AsyncPostgreSQLDatabase) -> None:
    opened = main.stats().opened
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await main.fetch_batch([(INSERT, {"id": 1, "body": "x"}), ("SELECT pg_sleep(30)", None), (ALL, None)])
    assert await main.fetch_batch([(ALL, None), ("SELECT 1 AS one", None)]) == [[], [{"one": 1}]]
    assert main.stats().opened == opened


async def test_what_a_cancelled_batch_was_to_prepare_is_prepared_anew(main: AsyncPostgreSQLDatabase) -> None:
    opened = main.stats().opened
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await main.fetch_batch([("SELECT pg_sleep(30)", None), (ALL, None)], prepare=True)
    async with main.transaction():
        assert await main.fetch_all(ALL) == []
        assert await main.fetch_all(ALL, prepare=True) == []
    assert main.stats().opened == opened


# [/async-only]
