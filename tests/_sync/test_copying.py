# Generated from ../_async/test_copying.py by tests/unasync.py: edit that one.
"""``copy_into``: many rows, all or none, the same on every SQL database; on PostgreSQL by COPY."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import pytest

from persistence import (
    Database,
    DatabaseManager,
    PostgreSQLDatabase,
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


@pytest.fixture
def table(database: Database) -> Database:
    """A database with a table ``t`` (id, body)."""
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, body text NOT NULL CHECK (body <> 'forbidden'))")
    return database


def test_rows_of_any_iterable_are_appended_and_counted(table: Database) -> None:
    before = table.stats().requests
    assert table.copy_into("t", COLUMNS, [(1, "one"), [2, "two"]]) == 2
    assert table.copy_into("t", ["body", "id"], ((f"n{n}", n) for n in range(3, 5))) == 2
    assert table.copy_into("t", COLUMNS, []) == 0
    assert table.stats().requests - before == 3
    assert table.fetch_all(ALL) == [
        {"id": 1, "body": "one"},
        {"id": 2, "body": "two"},
        {"id": 3, "body": "n3"},
        {"id": 4, "body": "n4"},
    ]


HARD = ["it's", "\t", "\n", "\r\n", "\\", "\\N", "\\.", '"', "é😀", "", "\x01", "x" * 300_000]


def test_any_text_is_stored_verbatim(table: Database) -> None:
    assert table.copy_into("t", COLUMNS, enumerate_rows(HARD)) == len(HARD)
    assert [row["body"] for row in table.fetch_all(ALL)] == HARD


def enumerate_rows(bodies: list[Any]) -> Iterator[tuple[int, Any]]:
    yield from enumerate(bodies)


def test_many_rows_are_never_held_at_once(table: Database) -> None:
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
            table.copy_into("t", COLUMNS, rows())
        return
    assert table.copy_into("t", COLUMNS, rows()) == 20_000
    assert most < 1000
    found = table.fetch_all("SELECT count(*) AS n, sum(length(body)) AS size, max(body) AS last FROM t")
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
def test_a_row_that_can_not_be_stored_is_named_and_nothing_is_kept(
    table: Database, bad: Any, error: type[PersistenceError]
) -> None:
    table.execute("INSERT INTO t VALUES (99999, 'kept')")
    before = 2500
    rows = [*[(n, "x") for n in range(before)], bad, *[(n, "x") for n in range(10_000, 12_000)]]
    with pytest.raises(error, match=rf"rows\[{before}\]") as caught:
        table.copy_into("t", COLUMNS, rows)
    assert type(caught.value) is error
    assert caught.value.connection == "main"
    assert table.fetch_all(ALL) == [{"id": 99999, "body": "kept"}]
    assert (table.stats().in_use, table.stats().discarded) == (0, 0)
    assert table.copy_into("t", COLUMNS, rows[:before]) == before


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
def test_names_are_quoted_and_checked(
    table: Database, name: Any, columns: Any, error: type[PersistenceError]
) -> None:
    for rows in ([], [(1, "x")]):
        with pytest.raises(error):
            table.copy_into(name, columns, rows)
    for rows in (5, "ab", {"id": 1}):  # type: ignore[assignment]
        with pytest.raises(ValidationError, match="iterable of tuples"):
            table.copy_into("t", COLUMNS, rows)
    table.execute('CREATE TABLE "Odd ""name"" :x ?" ("a b" integer, "select" text)')
    assert table.copy_into('Odd "name" :x ?', ("a b", "select"), [(1, "x")]) == 1
    assert table.fetch_all(ALL) == []


def test_an_error_of_the_iterable_is_its_own_and_nothing_is_kept(table: Database) -> None:
    def rows() -> Iterator[tuple[int, str]]:
        for number in range(3000):
            yield number, "x"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        table.copy_into("t", COLUMNS, rows())
    assert table.fetch_all(ALL) == []
    assert table.stats().in_use == 0


def test_it_joins_the_transaction_it_is_called_in(table: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        with table.transaction():
            assert table.copy_into("t", COLUMNS, [(1, "x")]) == 1
            assert table.fetch_all(ALL) == [{"id": 1, "body": "x"}]
            raise ZeroDivisionError
    assert table.fetch_all(ALL) == []
    with table.transaction() as outer:
        outer.copy_into("t", COLUMNS, [(1, "x")])
        with pytest.raises(DuplicateError, match=r"rows\[1\]"):
            with outer.transaction():
                table.copy_into("t", COLUMNS, [(2, "y"), (1, "z")])
    assert table.fetch_all(ALL) == [{"id": 1, "body": "x"}]
    with pytest.raises(TransactionError, match="failed"):
        with table.transaction():
            with pytest.raises(ValidationError):
                table.copy_into("t", COLUMNS, [(3, "y"), (4,)])
            table.execute("SELECT 1")
    assert table.fetch_all(ALL) == [{"id": 1, "body": "x"}]


def test_a_closed_database_copies_nothing(table: Database) -> None:
    table.close()
    with pytest.raises(ClosedError):
        table.copy_into("t", COLUMNS, [(1, "x")])


def test_it_ends_at_its_deadline_and_keeps_nothing(table: Database) -> None:
    def endless() -> Iterator[tuple[int, str]]:
        number = 0
        while True:
            yield number, "x" * 100
            number += 1

    with pytest.raises(DeadlineError):
        table.copy_into("t", COLUMNS, endless(), timeout=0.3)
    assert table.fetch_all(ALL) == []
    assert table.copy_into("t", COLUMNS, [(1, "x")]) == 1


@pytest.fixture
def main(manager: DatabaseManager, postgresql_config: PostgreSQLConfig) -> PostgreSQLDatabase:
    return manager.add_postgresql("main", postgresql_config)


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


def test_values_of_each_type_come_back_as_they_were(main: PostgreSQLDatabase) -> None:
    main.execute("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN whole AS integer CHECK (VALUE > 0)")
    for number, (kind, values) in enumerate(GOOD.items()):
        main.execute(f"CREATE TABLE v{number} (n integer, v {kind})")
        assert main.copy_into(f"v{number}", ("n", "v"), enumerate(values)) == len(values)
        found = main.fetch_all(f"SELECT v FROM v{number} ORDER BY n")
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


def test_a_value_that_does_not_fit_its_column_is_refused_and_never_changed(
    main: PostgreSQLDatabase,
) -> None:
    for number, (kind, values) in enumerate(BAD.items()):
        main.execute(f"CREATE TABLE v{number} (n integer, v {kind})")
        for value in values:
            with pytest.raises((ValidationError, QueryError), match=r"rows\[2\]"):
                main.copy_into(f"v{number}", ("n", "v"), [(1, None), (2, None), (3, value), (4, None)])
        assert main.fetch_all(f"SELECT * FROM v{number}") == [], kind
    assert main.stats().discarded == 0


@pytest.mark.parametrize("more", ["", ", m char(1)"], ids=["binary", "text"])
def test_arrays_are_stored_as_vectors(
    manager: DatabaseManager, pgvector_config: PgVectorConfig, more: str
) -> None:
    main = manager.add_pgvector("main", pgvector_config)
    main.execute(f"CREATE TABLE v (id text, e vector(3){more})")
    columns = ("id", "e", "m")[: 3 if more else 2]
    vectors = np.random.default_rng(1).standard_normal((3000, 3)).astype(np.float32)
    rows = [(f"d{number:04}", vector, "x") for number, vector in enumerate(vectors)]
    assert main.copy_into("v", columns, [row[: len(columns)] for row in rows]) == 3000
    found = main.fetch_all("SELECT e FROM v ORDER BY id")
    assert np.array_equal(np.array([row["e"] for row in found]), vectors)
    arrays: list[Any] = [np.array([1.0, 2.0, 3.0]), np.array([1, 2, 3])]
    lists: list[Any] = [] if more else [[1.0, 2.0, 3.0], (1, 2, 3)]  # as text, a list is an array of PostgreSQL's
    for odd in (*arrays, *lists):
        assert main.copy_into("v", columns, [("odd", odd, "x")[: len(columns)]]) == 1
    odds = main.fetch_all("SELECT e FROM v WHERE id = 'odd'")
    assert [row["e"].tolist() for row in odds] == [[1.0, 2.0, 3.0]] * len(arrays + lists)
    for bad in (vectors[:2], np.ones(4), [1.0, math.nan, 2.0], "[1,2,3]x", [], ["a", "b", "c"], 5):
        with pytest.raises(ValidationError, match=r"rows\[0\]"):
            main.copy_into("v", columns, [("bad", bad, "x")[: len(columns)]])
    assert main.fetch_value("SELECT count(*) FROM v WHERE id = 'bad'") == 0


def test_rows_may_come_from_the_same_database_but_not_from_the_same_transaction(
    main: PostgreSQLDatabase, postgresql_config: PostgreSQLConfig
) -> None:
    main.execute("CREATE TABLE t (id integer PRIMARY KEY, body text)")
    main.copy_into("t", COLUMNS, ((n, "x") for n in range(10)))
    with pytest.raises(TransactionError, match="rows are being copied"):
        with main.transaction() as transaction:

            def rows() -> Iterator[tuple[int, str]]:
                transaction._check_active()
                yield 1, "x"

            main.copy_into("t", COLUMNS, rows())
    assert main.fetch_value("SELECT count(*) FROM t") == 10


def test_a_connection_lost_in_a_copy_is_named_so(main: PostgreSQLDatabase) -> None:
    main.execute("CREATE TABLE t (id integer PRIMARY KEY, body text)")
    with pytest.raises(ConnectionLostError):
        with main.transaction() as transaction:
            raw = transaction._link.raw

            def rows() -> Iterator[tuple[int, str]]:
                for number in range(100_000):
                    if number == 5000:
                        transaction._link.interrupt()
                    yield number, "x" * 100

            main.copy_into("t", COLUMNS, rows())
    assert raw.closed
    assert main.fetch_all("SELECT * FROM t") == []
    assert main.stats().in_use == 0


