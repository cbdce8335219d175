"""The contract of every SQL database: statements, rows, errors, deadlines."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from time import monotonic
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    ClosedError,
    ConstraintError,
    DeadlineError,
    DuplicateError,
    ForeignKeyError,
    QueryError,
    ValidationError,
)


@pytest_asyncio.fixture
async def table(database: AsyncDatabase) -> AsyncDatabase:
    """A database with a table ``t`` (id, body) and a table ``child`` that refers to it."""
    await database.execute("CREATE TABLE t (id integer PRIMARY KEY, body text CHECK (body <> 'forbidden'))")
    await database.execute("CREATE TABLE child (id integer PRIMARY KEY, parent integer NOT NULL REFERENCES t (id))")
    return database


INSERT = "INSERT INTO t (id, body) VALUES (:id, :body)"


async def test_rows_come_back_by_name_and_in_order(table: AsyncDatabase) -> None:
    assert await table.execute(INSERT, {"id": 2, "body": "two"}) == 1
    assert await table.execute(INSERT, {"id": 1, "body": None}) == 1
    assert await table.fetch_one("SELECT * FROM t WHERE id = :id", {"id": 2}) == {"id": 2, "body": "two"}
    assert await table.fetch_one("SELECT * FROM t WHERE id = :id", {"id": 3}) is None
    assert await table.fetch_all("SELECT id FROM t ORDER BY id") == [{"id": 1}, {"id": 2}]
    assert await table.fetch_all("SELECT id FROM t WHERE id > 5") == []
    assert await table.fetch_value("SELECT body FROM t WHERE id = :id", {"id": 2}) == "two"
    assert await table.fetch_value("SELECT body FROM t WHERE id = :id", {"id": 9}) is None
    assert await table.execute("UPDATE t SET body = 'x'") == 2
    assert await table.execute("SELECT * FROM t") == 0


async def test_a_write_that_returns_rows_takes_effect_as_a_whole(table: AsyncDatabase) -> None:
    first = await table.fetch_one("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c') RETURNING id")
    assert first == {"id": 1}
    assert await table.execute("UPDATE t SET body = 'z' RETURNING id") == 3
    assert await table.fetch_value("SELECT count(*) FROM t WHERE body = 'z'") == 3
    deleted = await table.fetch_all("DELETE FROM t WHERE id > 1 RETURNING id")
    assert sorted(row["id"] for row in deleted) == [2, 3]


HARD_TEXTS = ["it's", "':id'", "%s", "%", "$1", "?", "\\", '"', "--", "/*", "é", "😀", "a" * 100_000, ""]


@pytest.mark.parametrize("text", HARD_TEXTS)
async def test_any_text_is_stored_verbatim(table: AsyncDatabase, text: str) -> None:
    await table.execute(INSERT, {"id": 1, "body": text})
    assert await table.fetch_value("SELECT body FROM t WHERE body = :body", {"body": text}) == text


async def test_a_parameter_is_found_only_where_one_is(table: AsyncDatabase) -> None:
    row = await table.fetch_one(
        "SELECT ':id' AS a, CAST(:id AS integer) AS b, :id + 1 AS c, '12:30' AS \"d:id\" -- :no\n /* :no */", {"id": 7}
    )
    assert row == {"a": ":id", "b": 7, "c": 8, "d:id": "12:30"}


async def test_a_missing_or_unknown_parameter_is_named_before_anything_is_sent(table: AsyncDatabase) -> None:
    before = table.stats().requests
    with pytest.raises(ValidationError, match=":body"):
        await table.execute(INSERT, {"id": 1})
    with pytest.raises(ValidationError, match=":id"):
        await table.execute(INSERT)
    with pytest.raises(ValidationError, match="has no :bod"):
        await table.execute(INSERT, {"id": 1, "body": "x", "bod": "y"})
    for unnamed in ([1, "x"], (1,), "x"):
        for sql in (INSERT, "SELECT 1"):
            with pytest.raises(ValidationError, match=r"not a mapping \(name them"):
                await table.execute(sql, unnamed)  # type: ignore[arg-type]
    assert table.stats().requests == before


async def test_values_of_common_types_are_stored(table: AsyncDatabase) -> None:
    moment = datetime(2026, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
    postgresql = table.kind == "postgresql"
    kind = {"m": "timestamptz", "d": "numeric", "u": "uuid", "j": "jsonb", "b": "bytea", "f": "float8", "n": "bigint"}
    columns = ", ".join(f"{name} {type_ if postgresql else ''}" for name, type_ in kind.items())
    await table.execute(f"CREATE TABLE v ({columns})")
    given: dict[str, Any] = {
        "m": moment,
        "d": Decimal("1.10"),
        "u": UUID(int=5),
        "j": {"a": [1, None, "x"]},
        "b": b"\0\xff",
        "f": math.inf,
        "n": 2**62,
    }
    await table.execute("INSERT INTO v VALUES (:m, :d, :u, :j, :b, :f, :n)", given)
    row = await table.fetch_one("SELECT * FROM v")
    assert row is not None
    assert table.dialect.moment(row["m"]) == moment
    assert (str(row["d"]), str(row["u"])) == ("1.10", str(UUID(int=5)))
    assert row["j"] == ({"a": [1, None, "x"]} if postgresql else '{"a":[1,null,"x"]}')
    assert (row["b"], row["f"], row["n"]) == (b"\0\xff", math.inf, 2**62)


@pytest.mark.parametrize("body", ["\ud800", object(), {1, 2}], ids=["surrogate", "object", "set"])
async def test_a_value_that_can_not_be_stored_is_refused_and_nothing_is_lost(table: AsyncDatabase, body: Any) -> None:
    await table.execute(INSERT, {"id": 1, "body": "kept"})
    with pytest.raises((ValidationError, QueryError)):
        await table.execute("UPDATE t SET body = :body", {"body": body})
    assert await table.fetch_all("SELECT * FROM t") == [{"id": 1, "body": "kept"}]


async def test_what_the_database_would_change_silently_is_refused(table: AsyncDatabase) -> None:
    if table.kind == "postgresql":
        bad: Any = "nul\0"
    else:
        bad = math.nan  # SQLite would store NULL
    with pytest.raises(ValidationError):
        await table.execute(INSERT, {"id": 1, "body": bad})
    with pytest.raises(ValidationError):
        await table.execute(INSERT, {"id": 2**70, "body": "x"})
    assert await table.fetch_all("SELECT * FROM t") == []


@pytest.mark.parametrize(
    ("sql", "parameters", "error"),
    [
        (INSERT, {"id": 1, "body": "again"}, DuplicateError),
        ("INSERT INTO child VALUES (:id, :parent)", {"id": 1, "parent": 99}, ForeignKeyError),
        ("INSERT INTO child (id) VALUES (:id)", {"id": 1}, ConstraintError),
        (INSERT, {"id": 2, "body": "forbidden"}, ConstraintError),
        ("SELEC 1", None, QueryError),
        ("SELECT * FROM nowhere", None, QueryError),
        ("SELECT nothing FROM t", None, QueryError),
    ],
)
async def test_each_refusal_is_an_error_of_its_own(
    table: AsyncDatabase, sql: str, parameters: Any, error: type[Exception]
) -> None:
    await table.execute(INSERT, {"id": 1, "body": "first"})
    with pytest.raises(error) as caught:
        await table.execute(sql, parameters)
    assert type(caught.value) is error
    assert caught.value.__cause__ is not None
    assert caught.value.connection == "main"  # type: ignore[attr-defined]
    assert caught.value.code  # type: ignore[attr-defined]
    assert await table.fetch_all("SELECT * FROM t") == [{"id": 1, "body": "first"}]


async def test_an_error_does_not_repeat_a_stored_value(table: AsyncDatabase) -> None:
    await table.execute("CREATE TABLE s (secret text PRIMARY KEY)")
    await table.execute("INSERT INTO s VALUES (:s)", {"s": "canary"})
    with pytest.raises(DuplicateError) as caught:
        await table.execute("INSERT INTO s VALUES (:s)", {"s": "canary"})
    assert "canary" not in str(caught.value)


async def test_fetching_from_a_statement_without_rows_is_an_error(table: AsyncDatabase) -> None:
    with pytest.raises(QueryError):
        await table.fetch_all("CREATE TABLE other (id integer)")


async def test_many_sets_of_parameters_are_all_or_none(table: AsyncDatabase) -> None:
    rows = [{"id": i, "body": str(i)} for i in range(2500)]
    assert await table.execute_many(INSERT, rows) == 2500
    with pytest.raises(DuplicateError):
        await table.execute_many(INSERT, [{"id": 9000, "body": "x"}, {"id": 7, "body": "taken"}])
    assert await table.fetch_value("SELECT count(*) FROM t") == 2500
    assert await table.execute_many(INSERT, []) == 0
    with pytest.raises(ValidationError, match=":body"):
        await table.execute_many(INSERT, [{"id": 9000, "body": "x"}, {"id": 9001}])
    assert await table.fetch_value("SELECT count(*) FROM t WHERE id >= 9000") == 0
    for number, bad in ((2, {"id": 3, "body": "taken"}), (1500, {"id": 9999, "body": "\ud800"})):
        rows = [{"id": 10_000 + i, "body": "x" * 5000} for i in range(2000)]
        rows[number] = bad
        with pytest.raises((DuplicateError, ValidationError), match=rf"parameters\[{number}\]"):
            await table.execute_many(INSERT, rows)
    assert await table.fetch_value("SELECT count(*) FROM t") == 2500


async def test_many_statements_that_return_rows_count_those_changed(table: AsyncDatabase) -> None:
    upsert = f"{INSERT} ON CONFLICT (id) DO UPDATE SET body = 'again' RETURNING body"
    assert await table.execute_many(upsert, [{"id": number, "body": "new"} for number in (1, 2, 1)]) == 3
    assert await table.execute_many("DELETE FROM t WHERE id > :id RETURNING id", [{"id": 0}, {"id": 0}]) == 2
    with pytest.raises(ValidationError, match=r"parameters\[1\]"):
        await table.execute_many(upsert, [{"id": 3, "body": "new"}, {"id": 4, "body": "\ud800"}])
    assert await table.fetch_all("SELECT id FROM t") == []


@pytest.mark.parametrize("size", [1, 7, 100, 101])
async def test_iterating_gives_every_row_once_and_in_order(table: AsyncDatabase, size: int) -> None:
    await table.execute_many(INSERT, [{"id": i, "body": "even" if i % 2 == 0 else "odd"} for i in range(200)])
    seen = []
    sql = "SELECT id, body FROM t WHERE body = :body"
    async for row in table.iterate(sql, {"body": "even"}, key="id", batch_size=size):
        seen.append(row["id"])
        assert table.stats().in_use == 0  # no connection is held while a row is handed out
        await table.execute("UPDATE t SET body = body WHERE id = :id", {"id": row["id"]})
    assert seen == list(range(0, 200, 2))


async def test_iterating_refuses_what_it_can_not_order_by(table: AsyncDatabase) -> None:
    await table.execute(INSERT, {"id": 1, "body": "x"})
    with pytest.raises(QueryError):
        [row async for row in table.iterate("SELECT id FROM t", key='nope"; DROP TABLE t; --')]
    with pytest.raises(ValidationError):
        [row async for row in table.iterate("SELECT id FROM t", key="")]
    assert await table.fetch_value("SELECT count(*) FROM t") == 1


async def test_a_slow_statement_ends_at_its_deadline(table: AsyncDatabase) -> None:
    slow = "SELECT pg_sleep(30)"
    if table.kind == "sqlite":
        slow = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    await table.execute(INSERT, {"id": 1, "body": "kept"})
    started = monotonic()
    with pytest.raises(DeadlineError):
        await table.fetch_all(slow, timeout=0.3)
    assert 0.25 < monotonic() - started < 3
    assert await table.fetch_all("SELECT * FROM t") == [{"id": 1, "body": "kept"}]


async def test_statistics_count_what_happened(table: AsyncDatabase) -> None:
    before = table.stats()
    await table.fetch_all("SELECT * FROM t")
    with pytest.raises(QueryError):
        await table.execute("nonsense")
    after = table.stats()
    assert (after.requests - before.requests, after.errors - before.errors) == (2, 1)
    assert after.in_use == 0
    assert after.open == after.idle >= 1
    assert after.open <= after.max_open


async def test_a_closed_database_says_so(table: AsyncDatabase) -> None:
    await table.aclose()
    await table.aclose()
    assert table.is_closed
    for call in (
        lambda: table.execute("SELECT 1"),
        lambda: table.fetch_all("SELECT 1"),
        lambda: table.ping(),
        lambda: table.transaction().__aenter__(),
    ):
        with pytest.raises(ClosedError, match="main: it was closed"):
            await call()
    assert table.stats().open == 0


async def test_capabilities_are_those_of_the_live_server(database: AsyncDatabase) -> None:
    found = await database.capabilities()
    assert found.kind == database.kind
    assert found.version_text == database.server_version
    if database.kind == "postgresql":
        assert found.server_version == tuple(
            int(part) for part in str(await database.fetch_value("SHOW server_version")).split(".")
        )
        installed = await database.fetch_value("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        assert found.vector == tuple(int(part) for part in str(installed).split("."))
        assert (found.pooler, found.in_recovery, found.listen_notify) == (False, False, True)
    else:
        assert found.server_version == tuple(
            int(part) for part in str(await database.fetch_value("SELECT sqlite_version()")).split(".")
        )
        assert (found.vector, found.listen_notify, found.concurrent_writers) == (None, False, False)


async def test_two_managers_see_each_others_commits(manager: AsyncDatabaseManager, table: AsyncDatabase) -> None:
    await table.execute(INSERT, {"id": 1, "body": "x"})
    if table.kind == "sqlite" and table.config.path == ":memory:":  # type: ignore[attr-defined]
        assert await table.fetch_value("SELECT body FROM t") == "x"  # one connection is all there is
        return
    async with AsyncDatabaseManager() as other:
        if table.kind == "sqlite":
            second: AsyncDatabase = await other.add_sqlite("main", table.config)  # type: ignore[attr-defined]
        else:
            second = await other.add_postgresql("main", table.config)  # type: ignore[attr-defined]
        assert await second.fetch_all("SELECT * FROM t") == [{"id": 1, "body": "x"}]
