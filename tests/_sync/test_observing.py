# Generated from ../_async/test_observing.py by tests/unasync.py: edit that one.
"""Statements that are watched: what listeners hear, what the slow log says, and that neither shows a value."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from persistence import (
    Database,
    DatabaseManager,
    ConfigError,
    DuplicateError,
    PostgreSQLConfig,
    QueryError,
    RedisConfig,
    SQLiteConfig,
    StatementEvent,
    ValidationError,
)

SECRET = "s3cret-value"


def test_a_listener_hears_of_each_statement_and_what_came_of_it(
    manager: DatabaseManager, database: Database
) -> None:
    events: list[StatementEvent] = []
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    manager.on_statement.append(events.append)
    insert = "INSERT INTO t (id, v) VALUES (:id, :v)"
    database.execute(insert, {"id": 1, "v": SECRET})
    database.fetch_all("SELECT * FROM t WHERE v = :v", {"v": SECRET})
    database.fetch_all("SELECT * FROM t WHERE v = :v", {"v": "none"})
    with database.transaction() as transaction:
        transaction.execute_many(insert, [{"id": 2, "v": SECRET}, {"id": 3, "v": SECRET}])
        database.fetch_value("SELECT v FROM t WHERE id = :id", {"id": 2})
    database.fetch_batch([("SELECT 1 AS one", None), ("SELECT * FROM t", None)])
    database.copy_into("t", ["id", "v"], [(4, SECRET)])
    with pytest.raises(DuplicateError) as caught:
        database.execute(insert, {"id": 1, "v": SECRET})
    seen = [(event.operation, event.statement, event.rows) for event in events]
    assert seen == [
        ("execute", insert, 1),
        ("fetch_all", "SELECT * FROM t WHERE v = :v", 1),
        ("fetch_all", "SELECT * FROM t WHERE v = :v", 0),
        ("execute_many", insert, 2),
        ("fetch_value", "SELECT v FROM t WHERE id = :id", 1),
        ("commit", "COMMIT", None),
        ("fetch_batch", "SELECT 1 AS one; SELECT * FROM t", 4),
        ("copy_into", "COPY t (id, v)", 1),
        ("execute", insert, None),
    ]
    assert events[-1].error is caught.value
    assert {(event.connection, event.kind) for event in events} == {("main", database.kind)}
    assert all(0 <= event.seconds < 60 for event in events)
    assert SECRET not in repr([event._replace(error=None) for event in events])
    manager.on_statement.clear()
    database.fetch_value("SELECT 1")
    assert len(events) == len(seen)


def test_a_listener_hears_of_redis_commands(manager: DatabaseManager, redis_config: RedisConfig) -> None:
    cache = manager.add_redis("cache", redis_config)
    events: list[StatementEvent] = []
    manager.on_statement.append(events.append)
    cache.client.set("k", SECRET)
    with cache.client.pipeline() as pipe:
        pipe.get("k")
        pipe.incr("n")
        pipe.execute()
    with pytest.raises(QueryError) as caught:
        cache.client.lpush("k", SECRET)
    assert [(event.operation, event.statement, event.error) for event in events] == [
        ("SET", "SET", None),
        ("pipeline", "GET; INCRBY", None),
        ("LPUSH", "LPUSH", caught.value),
    ]
    assert SECRET not in repr(events)


def test_a_listener_that_fails_is_logged_and_spoils_nothing(
    manager: DatabaseManager, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: StatementEvent) -> None:
        raise RuntimeError("broken listener")

    events: list[StatementEvent] = []
    manager.on_statement += [broken, events.append]
    assert database.fetch_value("SELECT 1") == 1
    assert len(events) == 1
    assert "main: a listener failed" in caplog.text
    assert "broken listener" in caplog.text


SLOW = {
    "postgresql": "SELECT :v AS v, pg_sleep(0.21)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500000)\n"
    "SELECT :v AS v, max(i) FROM n",
}


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_a_slow_statement_is_logged_once_without_its_values_and_a_fast_one_is_not(
    kind: str,
    manager: DatabaseManager,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    database: Database
    if kind == "postgresql":
        config: PostgreSQLConfig = request.getfixturevalue("postgresql_config")
        database = manager.add_postgresql("main", replace(config, slow_threshold="200ms"))
    else:
        database = manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "x.db"), slow_threshold=0.2))
    caplog.set_level(logging.DEBUG, "persistence.slow")
    database.fetch_one("SELECT :v AS v", {"v": SECRET})
    database.fetch_one(SLOW[kind], {"v": SECRET})
    with database.transaction():
        database.fetch_one(SLOW[kind], {"v": SECRET})
    lines = [record.getMessage() for record in caplog.records if record.name == "persistence.slow"]
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("main: fetch_one took ")
        assert line.endswith(" s: " + " ".join(SLOW[kind].split()))
    assert SECRET not in caplog.text


def test_a_slow_statement_that_fails_says_so_and_a_long_one_is_cut(
    manager: DatabaseManager, caplog: pytest.LogCaptureFixture
) -> None:
    database = manager.add_sqlite("main", SQLiteConfig(path=":memory:", slow_threshold=1e-9))
    with pytest.raises(QueryError):
        database.fetch_one("SELECT nothing")
    assert "and failed with QueryError: SELECT nothing" in caplog.text
    database.fetch_one(f"SELECT 1 /* {'x' * 2000} */")
    assert caplog.records[-1].getMessage().endswith("x…")
    assert len(caplog.records[-1].getMessage()) < 600


def test_a_threshold_that_makes_no_sense_is_refused() -> None:
    for wrong in (0, -1, "soon", True):
        with pytest.raises(ConfigError, match="slow_threshold"):
            SQLiteConfig(slow_threshold=wrong)  # type: ignore[arg-type]


def test_any_number_of_keys_is_asked_for_in_bounded_statements(
    manager: DatabaseManager, database: Database
) -> None:
    database.execute('CREATE TABLE "odd table" (id integer PRIMARY KEY, "a ""name" text)')
    database.copy_into("odd table", ["id", 'a "name'], [(n, f"v{n}") for n in range(2500)])
    events: list[StatementEvent] = []
    manager.on_statement.append(events.append)
    rows = database.fetch_by_keys("odd table", [*range(2400, 2600), *range(2200), 7, 7])
    assert sorted(row["id"] for row in rows) == [*range(2200), *range(2400, 2500)]
    assert {row["id"]: row['a "name'] for row in rows}[7] == "v7"
    assert len(events) == 3
    assert len({event.statement for event in events}) == 1
    names = [f"v{n}" for n in range(3)]
    assert database.existing_keys("odd table", [*names, "x' OR 1=1 --"], key='a "name') == set(names)
    assert database.fetch_by_keys("odd table", []) == []
    assert database.fetch_by_keys("odd table", [1], columns=["id"]) == [{"id": 1}]
    assert len(events) == 5
    for wrong in ({"table": ""}, {"table": "odd table", "key": "x" * 64}, {"table": "odd table", "batch_size": 0}):
        with pytest.raises(ValidationError):
            database.fetch_by_keys(keys=[1], **wrong)  # type: ignore[arg-type]
