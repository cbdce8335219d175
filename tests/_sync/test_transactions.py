# Generated from ../_async/test_transactions.py by tests/unasync.py: edit that one.
"""Transactions on every SQL database: what commits, what rolls back, what nests, and who joins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
import pytest

from persistence import (
    Database,
    DatabaseManager,
    Transaction,
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
from tests._sync.side import elsewhere, together

INSERT = "INSERT INTO t (id) VALUES (:id)"


class Stop(Exception):
    """Raised by a test inside a transaction."""


@pytest.fixture
def table(database: Database) -> Database:
    """A database with a table ``t`` (id, n)."""
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0)")
    return database


@pytest.fixture
def second(table: Database) -> Iterator[Database]:
    """Another manager's connection to the same database; in memory there is only the one."""
    with DatabaseManager() as other:
        if table.kind == "postgresql":
            yield other.add_postgresql("main", table.config)  # type: ignore[attr-defined]
        elif table.config.path != ":memory:":  # type: ignore[attr-defined]
            yield other.add_sqlite("main", table.config)  # type: ignore[attr-defined]
        else:
            yield table


def ids(database: Database) -> list[int]:
    return [row["id"] for row in database.fetch_all("SELECT id FROM t ORDER BY id")]


def test_a_transaction_commits_as_a_whole(table: Database, second: Database) -> None:
    with table.transaction() as transaction:
        transaction.execute(INSERT, {"id": 1})
        transaction.execute(INSERT, {"id": 2})
        if second is not table:
            assert ids(second) == []
        assert ids(table) == [1, 2]
    assert ids(second) == [1, 2]
    assert table.stats().in_use == 0


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, ZeroDivisionError])
def test_any_exception_rolls_back_and_goes_on(
    table: Database, second: Database, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        with table.transaction():
            table.execute(INSERT, {"id": 1})
            raise error
    assert ids(second) == []
    assert table.stats().in_use == 0
    table.execute(INSERT, {"id": 2})
    assert ids(second) == [2]


def test_a_nested_failure_undoes_only_its_own_part(table: Database, second: Database) -> None:
    with table.transaction():
        table.execute(INSERT, {"id": 1})
        with suppress(Stop):
            with table.transaction():
                table.execute(INSERT, {"id": 2})
                raise Stop
        with suppress(DuplicateError):
            with table.transaction():
                table.execute(INSERT, {"id": 3})
                table.execute(INSERT, {"id": 1})
        table.execute(INSERT, {"id": 4})
    assert ids(second) == [1, 4]


def test_three_levels_nest_on_one_connection(table: Database, second: Database) -> None:
    with table.transaction():
        table.execute(INSERT, {"id": 1})
        with table.transaction():
            table.execute(INSERT, {"id": 2})
            with table.transaction():
                table.execute(INSERT, {"id": 3})
            with suppress(Stop):
                with table.transaction():
                    table.execute(INSERT, {"id": 4})
                    raise Stop
            assert ids(table) == [1, 2, 3]
            assert table.stats().in_use == 1
    assert ids(second) == [1, 2, 3]


def test_the_outer_rollback_undoes_what_nested_ones_committed(
    table: Database, second: Database
) -> None:
    with suppress(Stop):
        with table.transaction():
            with table.transaction():
                table.execute(INSERT, {"id": 1})
            raise Stop
    assert ids(second) == []


def test_more_nested_transactions_than_connections_do_not_deadlock(table: Database) -> None:
    with table.transaction():
        for number in range(60):
            with table.transaction():
                table.execute(INSERT, {"id": number})
    assert ids(table) == list(range(60))


def test_after_a_failed_statement_only_a_rollback_is_left(table: Database, second: Database) -> None:
    table.execute(INSERT, {"id": 1})
    with pytest.raises(TransactionError, match="although its error was caught") as caught:
        with table.transaction():
            table.execute(INSERT, {"id": 2})
            with suppress(DuplicateError):
                table.execute(INSERT, {"id": 1})
            with pytest.raises(TransactionError, match="failed before"):
                table.execute(INSERT, {"id": 3})
    assert isinstance(caught.value.__cause__, DuplicateError)
    assert ids(second) == [1]


def test_a_refused_parameter_does_not_fail_the_transaction(table: Database) -> None:
    with table.transaction():
        with pytest.raises(ValidationError):
            table.execute(INSERT, {"di": 1})
        table.execute(INSERT, {"id": 1})
    assert ids(table) == [1]


def writer_execute(database: Any) -> None:
    database.execute(INSERT, {"id": 7})


def writer_fetch(database: Any) -> None:
    database.fetch_value("INSERT INTO t (id) VALUES (:id) RETURNING id", {"id": 7})


def writer_many(database: Any) -> None:
    database.execute_many(INSERT, [{"id": 7}])


def writer_nested(database: Any) -> None:
    with database.transaction():
        database.execute(INSERT, {"id": 7})


WRITERS = [writer_execute, writer_fetch, writer_many, writer_nested]


@pytest.mark.parametrize("write", WRITERS)
def test_every_writer_commits_by_itself_outside_a_transaction(
    table: Database, second: Database, write: Any
) -> None:
    write(table)
    assert ids(second) == [7]


@pytest.mark.parametrize("write", WRITERS)
def test_every_writer_joins_the_transaction_that_commits(
    table: Database, second: Database, write: Any
) -> None:
    with table.transaction():
        write(table)
        if second is not table:
            assert ids(second) == []
    assert ids(second) == [7]


@pytest.mark.parametrize("write", WRITERS)
def test_every_writer_joins_the_transaction_that_rolls_back(
    table: Database, second: Database, write: Any
) -> None:
    with suppress(Stop):
        with table.transaction():
            write(table)
            raise Stop
    assert ids(second) == []


@pytest.mark.parametrize("write", WRITERS)
def test_every_writer_joins_the_savepoint_that_rolls_back(
    table: Database, second: Database, write: Any
) -> None:
    with table.transaction():
        table.execute(INSERT, {"id": 1})
        with suppress(Stop):
            with table.transaction():
                write(table)
                raise Stop
    assert ids(second) == [1]


@pytest.mark.parametrize("write", WRITERS)
def test_every_writer_is_refused_in_a_failed_transaction(
    table: Database, second: Database, write: Any
) -> None:
    with pytest.raises(TransactionError, match="although"):
        with table.transaction():
            with suppress(Exception):
                table.execute("nonsense")
            with pytest.raises(TransactionError, match="failed before"):
                write(table)
    assert ids(second) == []


@pytest.mark.parametrize("write", WRITERS)
def test_every_writer_is_refused_in_a_read_only_transaction(
    table: Database, second: Database, write: Any
) -> None:
    with pytest.raises(ReadOnlyError):
        with table.transaction(read_only=True):
            write(table)
    assert ids(second) == []
    write(table)
    assert ids(second) == [7]


@pytest.mark.parametrize("write", WRITERS)
def test_every_writer_works_on_the_transaction_itself(
    table: Database, second: Database, write: Any
) -> None:
    with table.transaction() as transaction:
        if write is writer_nested:
            with transaction.transaction() as nested:
                writer_execute(nested)
        else:
            write(transaction)
    assert ids(second) == [7]


def test_the_outer_transaction_waits_while_a_nested_one_is_open(table: Database) -> None:
    with table.transaction() as outer:
        with table.transaction():
            with pytest.raises(SavepointError):
                outer.execute(INSERT, {"id": 1})
        outer.execute(INSERT, {"id": 2})
    assert ids(table) == [2]


def test_a_transaction_is_used_once_and_inside_its_block(table: Database) -> None:
    transaction = table.transaction()
    with pytest.raises(TransactionError, match="new"):
        transaction.execute(INSERT, {"id": 1})
    with transaction:
        pass
    with pytest.raises(TransactionError, match="ended"):
        transaction.execute(INSERT, {"id": 1})
    with pytest.raises(TransactionError, match="once"):
        transaction.__enter__()


def test_a_transaction_ends_at_its_deadline(table: Database, second: Database) -> None:
    slow = "SELECT pg_sleep(30)"
    if table.kind == "sqlite":
        slow = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    started = monotonic()
    with pytest.raises(DeadlineError):
        with table.transaction(timeout=0.3):
            table.execute(INSERT, {"id": 1})
            table.fetch_all(slow)
    assert monotonic() - started < 3
    assert ids(second) == []


def test_a_transaction_past_its_timeout_does_not_commit(table: Database, second: Database) -> None:
    with pytest.raises((DeadlineError, TransactionError)):
        with table.transaction(timeout=0.05):
            table.execute(INSERT, {"id": 1})
            until = monotonic() + 0.06
            while monotonic() < until:
                pass
    assert ids(second) == []


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_isolation_is_what_the_server_says(table: Database, level: Any) -> None:
    with table.transaction(isolation=level):
        if table.kind == "postgresql":
            assert table.fetch_value("SHOW transaction_isolation") == level
            assert table.fetch_value("SHOW transaction_read_only") == "off"
    with table.transaction(isolation=level, read_only=True):
        if table.kind == "postgresql":
            assert table.fetch_value("SHOW transaction_isolation") == level
            assert table.fetch_value("SHOW transaction_read_only") == "on"
    if table.kind == "postgresql":
        assert table.fetch_value("SHOW transaction_isolation") == "read committed"


def test_a_snapshot_does_not_move(table: Database, second: Database) -> None:
    if second is table:
        return  # one connection: nobody can write meanwhile
    with table.transaction(isolation="repeatable read", read_only=True):
        assert ids(table) == []
        second.execute(INSERT, {"id": 1})
        assert ids(table) == []
    assert ids(table) == [1]


def test_bad_options_are_refused(table: Database) -> None:
    with pytest.raises(ValidationError, match="no isolation level"):
        table.transaction(isolation="chaos")  # type: ignore[arg-type]
    with table.transaction():
        with pytest.raises(TransactionError, match="can't change isolation"):
            table.transaction(isolation="serializable").__enter__()
        with pytest.raises(TransactionError, match="can't change isolation"):
            table.transaction(read_only=True).__enter__()
        table.execute(INSERT, {"id": 1})
    assert ids(table) == [1]


def test_run_transaction_returns_the_result_and_rolls_back_on_error(
    table: Database, second: Database
) -> None:
    def work(transaction: Transaction) -> str:
        transaction.execute(INSERT, {"id": 1})
        return "done"

    def failing(transaction: Transaction) -> None:
        transaction.execute(INSERT, {"id": 2})
        raise Stop

    assert table.run_transaction(work) == "done"
    with pytest.raises(Stop):
        table.run_transaction(failing)
    assert ids(second) == [1]
    with table.transaction():
        with pytest.raises(TransactionError, match="outermost"):
            table.run_transaction(work)


def test_a_serialization_failure_is_retried_from_the_start(table: Database, second: Database) -> None:
    if table.kind == "sqlite":
        return  # one writer: there is nothing to fail
    table.execute(INSERT, {"id": 1})
    tries = 0

    def add(transaction: Transaction) -> None:
        nonlocal tries
        tries += 1
        n = transaction.fetch_value("SELECT n FROM t WHERE id = 1")
        if tries < 3:
            second.execute("UPDATE t SET n = n + 100 WHERE id = 1")
        transaction.execute("UPDATE t SET n = :n WHERE id = 1", {"n": n + 1})

    table.run_transaction(add, isolation="repeatable read")
    assert tries == 3
    assert second.fetch_value("SELECT n FROM t WHERE id = 1") == 201
    tries = 0
    with pytest.raises(SerializationError):
        table.run_transaction(add, isolation="repeatable read", backoff=Backoff(retries=1, base=0.001))
    assert tries == 2


def test_another_task_never_joins_by_accident(table: Database, second: Database) -> None:
    if second is table:
        return  # one connection: the other task would wait for it
    with table.transaction(read_only=True):
        elsewhere(lambda: table.execute(INSERT, {"id": 1}))
        assert ids(second) == [1]


def test_a_second_writer_waits_its_turn(table: Database) -> None:
    if table.kind == "postgresql":
        table.execute(INSERT, {"id": 1})

    def bump() -> None:
        with table.transaction():
            n = table.fetch_value("SELECT count(*) FROM t")
            table.execute(INSERT, {"id": n + 10})

    if table.kind == "sqlite":
        assert together(*[bump] * 20) == [None] * 20
        assert table.fetch_value("SELECT count(*) FROM t") == 20
        return
    with table.transaction():
        table.execute("UPDATE t SET n = 1")
        with pytest.raises(LockTimeoutError):
            elsewhere(lambda: impatient(table))


def impatient(database: Database) -> None:
    with database.transaction():
        database.execute("SET LOCAL lock_timeout = '50ms'")
        database.execute("UPDATE t SET n = 2")


def test_a_transaction_adds_no_round_trip_to_begin_statements_commit(table: Database) -> None:
    if table.kind == "sqlite":
        return
    calls = []
    with table.transaction() as transaction:
        link = transaction._link
        original = link.raw.exchange

        def counting(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return original(*args, **kwargs)

        link.raw.exchange = counting
        table.execute(INSERT, {"id": 1})
        table.execute(INSERT, {"id": 2})
    del link.raw.exchange
    assert len(calls) == 3  # two statements and COMMIT; BEGIN came before we counted
