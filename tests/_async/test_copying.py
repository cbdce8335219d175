"""``copy_into``: many rows, all or none, the same on every SQL database; on PostgreSQL by COPY."""

from __future__ import annotations

import asyncio  # async-only
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncPostgreSQLDatabase,
    ClosedError,
    ConnectionLostError,
    ConstraintError,
    DeadlineError,
    DuplicateError,
    PersistenceError,
    PgVectorConfig,
    PostgreSQLConfig,
    QueryError,
    TransactionError,
    ValidationError,
)

ALL = "SELECT id, body FROM t ORDER BY id"
COLUMNS = ("id", "body")


@pytest_asyncio.fixture
async def table(database: AsyncDatabase) -> AsyncDatabase:
    """A database with a table ``t`` (id, body)."""
    await database.execute("CREATE TABLE t (id integer PRIMARY KEY, body text NOT NULL CHECK (body <> 'forbidden'))")
    return database


async def test_rows_of_any_iterable_are_appended_and_counted(table: AsyncDatabase) -> None:
    before = table.stats().requests
    assert await table.copy_into("t", COLUMNS, [(1, "one"), [2, "two"]]) == 2
    assert await table.copy_into("t", ["body", "id"], ((f"n{n}", n) for n in range(3, 5))) == 2
    assert await table.copy_into("t", COLUMNS, []) == 0
    assert table.stats().requests - before == 3
    assert await table.fetch_all(ALL) == [
        {"id": 1, "body": "one"},
        {"id": 2, "body": "two"},
        {"id": 3, "body": "n3"},
        {"id": 4, "body": "n4"},
    ]


HARD = ["it's", "\t", "\n", "\r\n", "\\", "\\N", "\\.", '"', "é😀", "", "\x01", "x" * 300_000]


async def test_any_text_is_stored_verbatim(table: AsyncDatabase) -> None:
    assert await table.copy_into("t", COLUMNS, enumerate_rows(HARD)) == len(HARD)
    assert [row["body"] for row in await table.fetch_all(ALL)] == HARD


def enumerate_rows(bodies: list[Any]) -> Iterator[tuple[int, Any]]:
    yield from enumerate(bodies)


async def test_many_rows_are_never_held_at_once(table: AsyncDatabase) -> None:
    alive: set[int] = set()
    most = 0

    class Body(str):
        __slots__ = ("number",)
        number: int

        def __del__(self) -> None:
            alive.discard(self.number)

    def rows() -> Iterator[tuple[int, str]]:
        nonlocal most
        for number in range(20_000):
            body = Body(f"{number:01000}")
            body.number = number
            alive.add(number)
            most = max(most, len(alive))
            yield number, body

    if table.kind == "sqlite":
        with pytest.raises(ValidationError, match=r"rows\[0\]: a Body"):  # a subclass is no str to SQLite
            await table.copy_into("t", COLUMNS, rows())
        return
    assert await table.copy_into("t", COLUMNS, rows()) == 20_000
    assert most < 1000
    found = await table.fetch_all("SELECT count(*) AS n, sum(length(body)) AS size, max(body) AS last FROM t")
    assert found == [{"n": 20_000, "size": 20_000_000, "last": f"{19_999:01000}"}]


BAD_ROWS: list[tuple[Any, type[PersistenceError]]] = [
    ((7, 1, 2), ValidationError),
    ((7,), ValidationError),
    ("7x", ValidationError),
    ({"id": 7, "body": "x"}, ValidationError),
    (None, ValidationError),
    ((2**70, "x"), ValidationError),
    ((7, "\ud800"), ValidationError),
    ((7, object()), ValidationError),
    ((7, None), ConstraintError),
    ((7, "forbidden"), ConstraintError),
    ((3, "again"), DuplicateError),
]


@pytest.mark.parametrize(("bad", "error"), BAD_ROWS, ids=range(len(BAD_ROWS)))
async def test_a_row_that_can_not_be_stored_is_named_and_nothing_is_kept(
    table: AsyncDatabase, bad: Any, error: type[PersistenceError]
) -> None:
    await table.execute("INSERT INTO t VALUES (99999, 'kept')")
    before = 2500
    rows = [*[(n, "x") for n in range(before)], bad, *[(n, "x") for n in range(10_000, 12_000)]]
    with pytest.raises(error, match=rf"rows\[{before}\]") as caught:
        await table.copy_into("t", COLUMNS, rows)
    assert type(caught.value) is error
    assert caught.value.connection == "main"
    assert await table.fetch_all(ALL) == [{"id": 99999, "body": "kept"}]
    assert (table.stats().in_use, table.stats().discarded) == (0, 0)
    assert await table.copy_into("t", COLUMNS, rows[:before]) == before


@pytest.mark.parametrize(
    ("name", "columns", "error"),
    [
        ("nowhere", COLUMNS, QueryError),
        ("t", ("id", "nope"), QueryError),
        ("t", ("id", 'body") VALUES (1, 1); --'), QueryError),
        ('t" (id) VALUES (1); --', COLUMNS, QueryError),
        ("t", (), ValidationError),
        ("t", "id", ValidationError),
        ("", COLUMNS, ValidationError),
        ("t", ("id", ""), ValidationError),
        ("t", ("id", 5), ValidationError),
        ("t", ("id", "nul\0"), ValidationError),
        ("t", ("id", "\ud800"), ValidationError),
        (None, COLUMNS, ValidationError),
    ],
)
async def test_names_are_quoted_and_checked(
    table: AsyncDatabase, name: Any, columns: Any, error: type[PersistenceError]
) -> None:
    for rows in ([], [(1, "x")]):
        with pytest.raises(error):
            await table.copy_into(name, columns, rows)
    for rows in (5, "ab", {"id": 1}):  # type: ignore[assignment]
        with pytest.raises(ValidationError, match="iterable of tuples"):
            await table.copy_into("t", COLUMNS, rows)
    await table.execute('CREATE TABLE "Odd ""name"" :x ?" ("a b" integer, "select" text)')
    assert await table.copy_into('Odd "name" :x ?', ("a b", "select"), [(1, "x")]) == 1
    assert await table.fetch_all(ALL) == []


async def test_an_error_of_the_iterable_is_its_own_and_nothing_is_kept(table: AsyncDatabase) -> None:
    def rows() -> Iterator[tuple[int, str]]:
        for number in range(3000):
            yield number, "x"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await table.copy_into("t", COLUMNS, rows())
    assert await table.fetch_all(ALL) == []
    assert table.stats().in_use == 0


async def test_it_joins_the_transaction_it_is_called_in(table: AsyncDatabase) -> None:
    with pytest.raises(ZeroDivisionError):
        async with table.transaction():
            assert await table.copy_into("t", COLUMNS, [(1, "x")]) == 1
            assert await table.fetch_all(ALL) == [{"id": 1, "body": "x"}]
            raise ZeroDivisionError
    assert await table.fetch_all(ALL) == []
    async with table.transaction() as outer:
        await outer.copy_into("t", COLUMNS, [(1, "x")])
        with pytest.raises(DuplicateError, match=r"rows\[1\]"):
            async with outer.transaction():
                await table.copy_into("t", COLUMNS, [(2, "y"), (1, "z")])
    assert await table.fetch_all(ALL) == [{"id": 1, "body": "x"}]
    with pytest.raises(TransactionError, match="failed"):
        async with table.transaction():
            with pytest.raises(ValidationError):
                await table.copy_into("t", COLUMNS, [(3, "y"), (4,)])
            await table.execute("SELECT 1")
    assert await table.fetch_all(ALL) == [{"id": 1, "body": "x"}]


async def test_a_closed_database_copies_nothing(table: AsyncDatabase) -> None:
    await table.aclose()
    with pytest.raises(ClosedError):
        await table.copy_into("t", COLUMNS, [(1, "x")])


async def test_it_ends_at_its_deadline_and_keeps_nothing(table: AsyncDatabase) -> None:
    def endless() -> Iterator[tuple[int, str]]:
        number = 0
        while True:
            yield number, "x" * 100
            number += 1

    with pytest.raises(DeadlineError):
        await table.copy_into("t", COLUMNS, endless(), timeout=0.3)
    assert await table.fetch_all(ALL) == []
    assert await table.copy_into("t", COLUMNS, [(1, "x")]) == 1


@pytest_asyncio.fixture
async def main(manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig) -> AsyncPostgreSQLDatabase:
    return await manager.add_postgresql("main", postgresql_config)


MOMENT = datetime(2026, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
GOOD: dict[str, list[Any]] = {
    "smallint": [0, -(2**15), 2**15 - 1, None],
    "integer": [0, -(2**31), 2**31 - 1, None],
    "bigint": [0, -(2**63), 2**63 - 1, None],
    "real": [1.5, -math.inf, 2],
    "double precision": [1.5, 1e300, math.inf, 2, None],
    "boolean": [True, False, None],
    "text": ["x", "", None],
    "varchar(3)": ["abc"],
    "bytea": [b"", b"\0\xff", bytearray(b"x"), memoryview(b"y"), None],
    "numeric": [Decimal("1.10"), 7, Decimal("NaN"), None],
    "uuid": [UUID(int=5), None],
    "timestamptz": [MOMENT, None],
    "timestamp": [MOMENT.replace(tzinfo=None)],
    "date": [date(2026, 2, 3)],
    "time": [time(1, 2, 3)],
    "interval": [timedelta(days=1, microseconds=5)],
    "jsonb": [{"a": [1, None, "é"]}, [1, 2], '{"b": "text"}', None],
    "json": [{"a": [1, None, "é"]}, '[1, "text"]'],
    "integer[]": [[1, 2], [], None],
    "text[]": [["a", None, 'x"\\{}']],
    "char(3)": ["abc", None],
    "mood": ["sad", None],
    "whole": [5, None],
}


async def test_values_of_each_type_come_back_as_they_were(main: AsyncPostgreSQLDatabase) -> None:
    await main.execute("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN whole AS integer CHECK (VALUE > 0)")
    for number, (kind, values) in enumerate(GOOD.items()):
        await main.execute(f"CREATE TABLE v{number} (n integer, v {kind})")
        assert await main.copy_into(f"v{number}", ("n", "v"), enumerate(values)) == len(values)
        found = await main.fetch_all(f"SELECT v FROM v{number} ORDER BY n")
        expected = [{"b": "text"} if v == '{"b": "text"}' else [1, "text"] if v == '[1, "text"]' else v for v in values]
        expected = [bytes(v) if isinstance(v, bytearray | memoryview) else v for v in expected]
        assert repr([row["v"] for row in found]) == repr(expected).replace(
            "7, Decimal", "Decimal('7'), Decimal"
        ).replace("inf, 2", "inf, 2.0"), kind


BAD: dict[str, list[Any]] = {
    "smallint": [2**15, -(2**15) - 1, 1.0, "1"],
    "integer": [2**31, 2**40, -(2**31) - 1, 1.0, "1", b"1", np.int64(1)],
    "bigint": [2**63, -(2**63) - 1, 1.0],
    "double precision": ["1"],
    "boolean": [1, "f", "false"],
    "text": [1, b"x", "nul\0", "\ud800"],
    "varchar(3)": ["abcd"],
    "bytea": ["x", 5],
    "numeric": [1.5, "1"],
    "uuid": ["00000000-0000-0000-0000-000000000005"],
    "timestamptz": [datetime(2026, 1, 1), "2026-01-01", date(2026, 1, 1)],  # noqa: DTZ001
    "timestamp": [MOMENT],
    "date": [MOMENT, "2026-01-01"],
    "jsonb": [{"a": math.nan}, {1, 2}, 5, "no json", {"a": "\0"}, {"a": object()}],
    "char(3)": ["abcd"],
    "integer[]": [[2**31], "x"],
}


async def test_a_value_that_does_not_fit_its_column_is_refused_and_never_changed(
    main: AsyncPostgreSQLDatabase,
) -> None:
    for number, (kind, values) in enumerate(BAD.items()):
        await main.execute(f"CREATE TABLE v{number} (n integer, v {kind})")
        for value in values:
            with pytest.raises((ValidationError, QueryError), match=r"rows\[2\]"):
                await main.copy_into(f"v{number}", ("n", "v"), [(1, None), (2, None), (3, value), (4, None)])
        assert await main.fetch_all(f"SELECT * FROM v{number}") == [], kind
    assert main.stats().discarded == 0


@pytest.mark.parametrize("more", ["", ", m char(1)"], ids=["binary", "text"])
async def test_arrays_are_stored_as_vectors(
    manager: AsyncDatabaseManager, pgvector_config: PgVectorConfig, more: str
) -> None:
    main = await manager.add_pgvector("main", pgvector_config)
    await main.execute(f"CREATE TABLE v (id text, e vector(3){more})")
    columns = ("id", "e", "m")[: 3 if more else 2]
    vectors = np.random.default_rng(1).standard_normal((3000, 3)).astype(np.float32)
    rows = [(f"d{number:04}", vector, "x") for number, vector in enumerate(vectors)]
    assert await main.copy_into("v", columns, [row[: len(columns)] for row in rows]) == 3000
    found = await main.fetch_all("SELECT e FROM v ORDER BY id")
    assert np.array_equal(np.array([row["e"] for row in found]), vectors)
    arrays: list[Any] = [np.array([1.0, 2.0, 3.0]), np.array([1, 2, 3])]
    lists: list[Any] = [] if more else [[1.0, 2.0, 3.0], (1, 2, 3)]  # as text, a list is an array of PostgreSQL's
    for odd in (*arrays, *lists):
        assert await main.copy_into("v", columns, [("odd", odd, "x")[: len(columns)]]) == 1
    odds = await main.fetch_all("SELECT e FROM v WHERE id = 'odd'")
    assert [row["e"].tolist() for row in odds] == [[1.0, 2.0, 3.0]] * len(arrays + lists)
    for bad in (vectors[:2], np.ones(4), [1.0, math.nan, 2.0], "[1,2,3]x", [], ["a", "b", "c"], 5):
        with pytest.raises(ValidationError, match=r"rows\[0\]"):
            await main.copy_into("v", columns, [("bad", bad, "x")[: len(columns)]])
    assert await main.fetch_value("SELECT count(*) FROM v WHERE id = 'bad'") == 0


async def test_rows_may_come_from_the_same_database_but_not_from_the_same_transaction(
    main: AsyncPostgreSQLDatabase, postgresql_config: PostgreSQLConfig
) -> None:
    await main.execute("CREATE TABLE t (id integer PRIMARY KEY, body text)")
    await main.copy_into("t", COLUMNS, ((n, "x") for n in range(10)))
    with pytest.raises(TransactionError, match="rows are being copied"):
        async with main.transaction() as transaction:

            def rows() -> Iterator[tuple[int, str]]:
                transaction._check_active()
                yield 1, "x"

            await main.copy_into("t", COLUMNS, rows())
    assert await main.fetch_value("SELECT count(*) FROM t") == 10


async def test_a_connection_lost_in_a_copy_is_named_so(main: AsyncPostgreSQLDatabase) -> None:
    await main.execute("CREATE TABLE t (id integer PRIMARY KEY, body text)")
    with pytest.raises(ConnectionLostError):
        async with main.transaction() as transaction:
            raw = transaction._link.raw

            def rows() -> Iterator[tuple[int, str]]:
                for number in range(100_000):
                    if number == 5000:
                        transaction._link.interrupt()
                    yield number, "x" * 100

            await main.copy_into("t", COLUMNS, rows())
    assert raw.closed
    assert await main.fetch_all("SELECT * FROM t") == []
    assert main.stats().in_use == 0


# [async-only]
async def test_a_cancelled_copy_keeps_nothing(main: AsyncPostgreSQLDatabase) -> None:
    await main.execute("CREATE TABLE t (id integer PRIMARY KEY, body text)")

    def endless() -> Iterator[tuple[int, str]]:
        number = 0
        while True:
            yield number, "x" * 100
            number += 1

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await main.copy_into("t", COLUMNS, endless())
    assert await main.fetch_all("SELECT * FROM t") == []
    assert await main.copy_into("t", COLUMNS, [(1, "x")]) == 1


# [/async-only]
