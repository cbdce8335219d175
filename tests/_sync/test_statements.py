# Generated from ../_async/test_statements.py by tests/unasync.py: edit that one.
"""Statements on a PostgreSQL connection: prepared or not, whatever happened to what they were prepared for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Callable, Coroutine
from dataclasses import replace
from decimal import Decimal
from functools import partial
from time import monotonic
from typing import Any

import psycopg
import pytest
import pytest

from persistence import (
    Database,
    DatabaseManager,
    PostgreSQLDatabase,
    ConnectionLostError,
    DeadlineError,
    DeadlockError,
    DuplicateError,
    PostgreSQLConfig,
    QueryError,
    ValidationError,
)
from tests._sync.side import Started, sleep

PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'holdfast%'"


@pytest.fixture
def main(manager: DatabaseManager, postgresql_config: PostgreSQLConfig) -> PostgreSQLDatabase:
    """A database with one connection and a table ``t``."""
    database = manager.add_postgresql("main", replace(postgresql_config, max_connections=1))
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, body text)")
    return database


@pytest.fixture
def other(postgresql_config: PostgreSQLConfig) -> Iterator[PostgreSQLDatabase]:
    """The same database through another manager."""
    with DatabaseManager() as manager:
        yield manager.add_postgresql("other", postgresql_config)


def test_a_statement_is_prepared_after_the_threshold_for_each_kind_of_parameter(
    main: PostgreSQLDatabase,
) -> None:
    for number in range(7):
        assert main.fetch_value("SELECT :n + 1", {"n": 5}) == 6
        assert main.fetch_value(PREPARED, prepare=False) == (number >= 5)
    for value in (2**40, Decimal("1.5"), None):
        expected = None if value is None else value + 1
        for _ in range(7):
            assert main.fetch_value("SELECT :n + 1", {"n": value}) == expected
    assert main.fetch_value(PREPARED, prepare=False) == 4
    assert main.fetch_value("SELECT :n + 1", {"n": 5}, prepare=True) == 6
    assert main.fetch_value("SELECT :n - 1", {"n": 5}, prepare=True) == 4
    assert main.fetch_value(PREPARED, prepare=False) == 5


def test_prepare_false_or_no_threshold_prepares_nothing(
    main: PostgreSQLDatabase, manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    never = manager.add_postgresql("never", replace(postgresql_config, prepare_threshold=None, max_connections=1))
    for _ in range(8):
        main.fetch_value("SELECT :n + 1", {"n": 5}, prepare=False)
        never.fetch_value("SELECT :n + 1", {"n": 5})
        never.fetch_value("SELECT :n + 1", {"n": 5}, prepare=True)
    assert main.fetch_value(PREPARED, prepare=False) == 0
    assert never.fetch_value(PREPARED) == 0


def test_no_connection_keeps_more_than_256_statements(main: PostgreSQLDatabase) -> None:
    for number in range(300):
        assert main.fetch_value(f"SELECT :n + {number}", {"n": 1}, prepare=True) == 1 + number
    assert main.fetch_value("SELECT 1 + :n", {"n": 1}, prepare=True) == 2  # at which the last evicted are closed
    assert 250 <= main.fetch_value(PREPARED, prepare=False) <= 257
    assert main.fetch_value("SELECT :n + 0", {"n": 7}, prepare=True) == 7  # evicted, and prepared anew


@pytest.mark.parametrize("binary", [False, True])
def test_a_column_that_changes_its_type_shows_the_new_one(
    main: PostgreSQLDatabase, other: PostgreSQLDatabase, binary: bool
) -> None:
    main.execute("INSERT INTO t VALUES (1, '1.50')")
    for _ in range(7):
        assert main.fetch_one("SELECT * FROM t", binary=binary) == {"id": 1, "body": "1.50"}
    other.execute("ALTER TABLE t ALTER body TYPE numeric USING body::numeric")
    assert main.fetch_one("SELECT * FROM t", binary=binary) == {"id": 1, "body": Decimal("1.50")}
    other.execute("ALTER TABLE t ADD COLUMN more integer DEFAULT 3")
    with main.transaction():
        main.execute("SELECT 1")
    assert main.fetch_one("SELECT * FROM t", binary=binary) == {"id": 1, "body": Decimal("1.50"), "more": 3}
    assert main.stats().errors == 0


@pytest.mark.parametrize("sweep", ["DISCARD ALL", "DEALLOCATE ALL", "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"])
def test_statements_that_were_swept_away_are_prepared_anew(main: PostgreSQLDatabase, sweep: str) -> None:
    for _ in range(7):
        main.fetch_value("SELECT :n + 1", {"n": 5})
    main.execute(sweep)
    for _ in range(7):
        assert main.fetch_value("SELECT :n + 1", {"n": 5}) == 6
    assert main.stats().errors == 0
    assert main.stats().discarded == 0


def test_a_schema_change_that_is_rolled_back_leaves_no_statement_behind(main: PostgreSQLDatabase) -> None:
    main.execute("INSERT INTO t VALUES (1, 'x')")
    with pytest.raises(ZeroDivisionError):
        with main.transaction():
            main.execute("ALTER TABLE t ADD COLUMN more integer")
            for _ in range(7):
                assert main.fetch_one("SELECT * FROM t") == {"id": 1, "body": "x", "more": None}
            raise ZeroDivisionError
    with main.transaction():
        for _ in range(7):
            assert main.fetch_one("SELECT * FROM t") == {"id": 1, "body": "x"}


def test_a_call_that_fails_when_it_is_prepared_says_why(main: PostgreSQLDatabase) -> None:
    for _ in range(2):
        with pytest.raises(QueryError, match="nowhere"):
            main.fetch_all("SELECT * FROM nowhere WHERE id = :id", {"id": 1}, prepare=True)
    main.execute("INSERT INTO t VALUES (:id, 'x')", {"id": 1}, prepare=True)
    with pytest.raises(DuplicateError):
        main.execute("INSERT INTO t VALUES (:id, 'y')", {"id": 1}, prepare=True)
    assert main.execute("INSERT INTO t VALUES (:id, 'y')", {"id": 2}, prepare=True) == 1
    assert main.fetch_all("SELECT * FROM t ORDER BY id") == [{"id": 1, "body": "x"}, {"id": 2, "body": "y"}]
    assert main.stats().discarded == 0


def test_text_and_binary_rows_of_one_statement_are_equal(main: PostgreSQLDatabase) -> None:
    sql = "SELECT 1 AS a, 'x' AS b, 1.5::float8 AS c, '\\x00ff'::bytea AS d, now() AS e, NULL AS f, 2 AS a"
    for _ in range(8):
        with main.transaction():
            text, binary = main.fetch_one(sql), main.fetch_one(sql, binary=True)
        assert text == binary
        assert list(text or {}) == ["a", "b", "c", "d", "e", "f"]
        assert {**(text or {}), "e": None} == {"a": 2, "b": "x", "c": 1.5, "d": b"\0\xff", "e": None, "f": None}
        assert main.fetch_all("SELECT FROM generate_series(1, 2)") == [{}, {}]


def test_several_statements_without_parameters_run_as_one(main: PostgreSQLDatabase) -> None:
    for number in range(7):
        main.execute(f"INSERT INTO t VALUES ({number}, 'x'); UPDATE t SET body = 'y'")
        main.execute("DELETE FROM t WHERE id > 2; UPDATE t SET body = 'z'")
    with pytest.raises(DuplicateError):
        main.execute("DELETE FROM t; INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (1, 'a')")
    assert main.fetch_all("SELECT * FROM t ORDER BY id") == [{"id": n, "body": "z"} for n in range(3)]
    assert main.execute("") == 0


def test_more_parameters_than_usual_are_sent(main: PostgreSQLDatabase) -> None:
    values = {f"p{n}": n for n in range(3000)}
    sql = f"SELECT {' + '.join(f':p{n}::bigint' for n in range(3000))}"
    for _ in range(2):
        assert main.fetch_value(sql, values, prepare=True) == sum(range(3000))
    with pytest.raises(ValidationError):
        main.fetch_value(f"SELECT {'+'.join(f':p{n}' for n in range(70_000))}", dict.fromkeys(
            (f"p{n}" for n in range(70_000)), 1))  # fmt: skip
    assert main.fetch_value("SELECT 1") == 1


def test_values_larger_than_every_buffer_go_both_ways(main: PostgreSQLDatabase) -> None:
    body = os.urandom(5_000_000)
    for prepare in (False, True):
        found = main.fetch_all("SELECT :b AS b FROM generate_series(1, 3)", {"b": body}, prepare=prepare)
        assert [row["b"] for row in found] == [body] * 3


def test_a_copy_run_as_a_statement_is_refused_and_harms_nobody(main: PostgreSQLDatabase) -> None:
    for sql in ("COPY t FROM STDIN", "COPY t TO STDOUT"):
        with pytest.raises(QueryError, match="COPY"):
            main.execute(sql)
    assert main.fetch_value("SELECT 1") == 1
    assert main.stats().in_use == 0


def test_another_client_encoding_is_taken_up(main: PostgreSQLDatabase) -> None:
    for encoding in ("LATIN1", "UTF8"):
        main.execute(f"SET client_encoding TO '{encoding}'")
        for _ in range(7):
            assert main.fetch_value("SELECT 'é' || :b", {"b": "ü"}) == "éü"


def test_notices_reach_their_handler(main: PostgreSQLDatabase) -> None:
    seen: list[str | None] = []

    def take(notice: psycopg.errors.Diagnostic) -> None:
        seen.append(notice.message_primary)

    with main.transaction() as transaction:
        transaction._link.raw.add_notice_handler(take)
        main.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
        transaction._link.raw.remove_notice_handler(take)
    assert seen == ["hello"]


def test_a_deadline_holds_while_much_is_sent_and_received(main: PostgreSQLDatabase) -> None:
    started = monotonic()
    with pytest.raises(DeadlineError):
        main.fetch_all(
            "SELECT :b AS b, pg_sleep(0.1) FROM generate_series(1, 1000)", {"b": b"x" * 1_000_000}, timeout=0.3
        )
    assert monotonic() - started < 10
    assert main.fetch_value("SELECT 1") == 1


def test_a_connection_lost_in_a_transaction_leaves_its_place_to_the_next(
    main: PostgreSQLDatabase, other: PostgreSQLDatabase, manager: DatabaseManager
) -> None:
    for _ in range(3):
        with pytest.raises(ConnectionLostError):
            with main.transaction():
                pid = main.fetch_value("SELECT pg_backend_pid()")
                other.execute("SELECT pg_terminate_backend(:pid, 5000)", {"pid": pid})
                try:
                    main.fetch_value("SELECT 1")
                finally:
                    # A new connection gets the number of the socket that is gone.
                    manager.add_postgresql("next", replace(main.config, max_connections=2), replace=True)
                    assert manager.get_postgresql("next").fetch_value("SELECT 2", timeout=5) == 2
        assert main.fetch_value("SELECT 1", timeout=5) == 1


def test_work_meanwhile_is_done_before_the_answer_and_its_failure_ends_the_statement(
    main: PostgreSQLDatabase, other: PostgreSQLDatabase, postgresql_config: PostgreSQLConfig
) -> None:
    pid = main.fetch_value("SELECT pg_backend_pid()")
    with psycopg.connect(**postgresql_config.connection_parameters(), autocommit=True) as beside:
        unlock = partial(beside.execute, "SELECT pg_advisory_unlock(7)")
        lock = "pg_advisory_xact_lock(7)"
        for statement in (f"SELECT {lock}", f"INSERT INTO t SELECT 1, 'x' FROM {lock}"):
            beside.execute("SELECT pg_advisory_lock(7)")
            main.execute(statement, meanwhile=unlock, timeout=20)  # there is no answer before
    started = monotonic()
    with pytest.raises(ZeroDivisionError):
        main.execute("INSERT INTO t SELECT 2, 'y' FROM pg_sleep(30)", meanwhile=lambda: 1 / 0)
    assert monotonic() - started < 5
    assert main.fetch_value("SELECT pg_backend_pid()") == pid
    assert other.fetch_all("SELECT * FROM t") == [{"id": 1, "body": "x"}]




WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
BOTH = """
WITH first AS (UPDATE t SET body = body || '+' WHERE id = 2 RETURNING id)
UPDATE t SET body = body || '+' WHERE id = 1 AND EXISTS (SELECT FROM first)
"""


@pytest.fixture
def hasty(main: PostgreSQLDatabase, postgresql_config: PostgreSQLConfig) -> Iterator[Database]:
    """The same database, by connections that look for a deadlock sooner, and so are those that are undone."""
    main.execute_many("INSERT INTO t VALUES (:id, 'a')", [{"id": 1}, {"id": 2}])
    name = main.fetch_value("SELECT quote_ident(current_database())")
    main.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '20ms'")
    with DatabaseManager() as manager:
        yield manager.add_postgresql("hasty", postgresql_config)


def locked_the_other_way(main: PostgreSQLDatabase, call: Callable[[], Coroutine[Any, Any, Any]]) -> Started:
    """Return the call of BOTH, which waits for a transaction that then waits for it."""
    with main.transaction():
        main.execute("SET LOCAL deadlock_timeout = '60s'")
        main.execute("UPDATE t SET body = 'b' WHERE id = 1")
        started = Started(call)
        while not main.fetch_value(WAITING):
            sleep(0.001)
        main.execute("UPDATE t SET body = 'b' WHERE id = 2")
    return started


def test_a_statement_that_is_undone_in_a_deadlock_is_run_anew(
    main: PostgreSQLDatabase, hasty: Database
) -> None:
    for call, answer in ((partial(hasty.execute, BOTH), 1), (partial(hasty.fetch_batch, [(BOTH, {})]), [[]])):
        started = locked_the_other_way(main, call)
        assert started.result() == answer
        assert main.fetch_value("SELECT string_agg(body, ',') FROM t") == "b+,b+"


def test_a_transaction_that_is_undone_in_a_deadlock_is_left_to_the_caller(
    main: PostgreSQLDatabase, hasty: Database
) -> None:
    def undone() -> None:
        with hasty.transaction():
            hasty.execute(BOTH)

    with pytest.raises(DeadlockError):
        (locked_the_other_way(main, undone)).result()
    assert main.fetch_value("SELECT string_agg(body, ',') FROM t") == "b,b"
