# Generated from ../_async/test_given_back.py by tests/unasync.py: edit that one.
"""What is given back to a pool: no connection with a transaction left open, and none that can not do its work."""

from __future__ import annotations


import pytest

from persistence import (
    Database,
    DatabaseManager,
    PostgreSQLDatabase,
    PostgreSQLConfig,
    ReadOnlyError,
    TransactionError,
)

INSERT = "INSERT INTO t (id) VALUES (:id)"


def ids(database: Database) -> list[int]:
    return [row["id"] for row in database.fetch_all("SELECT id FROM t ORDER BY id")]


@pytest.mark.parametrize("opening", ["BEGIN", "/* now */ begin", "SAVEPOINT s"])
def test_a_statement_that_leaves_a_transaction_open_is_undone_and_refused(
    manager: DatabaseManager, database: Database, opening: str
) -> None:
    database.execute("CREATE TABLE t (id integer)")
    if opening != "SAVEPOINT s" or database.kind == "sqlite":
        with pytest.raises(TransactionError, match=r"left a transaction open; it was undone \(with transaction\(\)"):
            database.execute(opening)
    database.execute(INSERT, {"id": 1})
    with database.transaction():
        database.execute(INSERT, {"id": 2})
    assert ids(database) == [1, 2]
    with database.transaction(read_only=True):
        assert ids(database) == [1, 2]


def test_a_transaction_that_a_statement_in_it_ended_says_so(database: Database) -> None:
    database.execute("CREATE TABLE t (id integer)")
    with pytest.raises(TransactionError, match="had ended it"):
        with database.transaction() as transaction:
            transaction.execute(INSERT, {"id": 1})
            transaction.execute("ROLLBACK")
    with database.transaction() as transaction:
        transaction.execute(INSERT, {"id": 2})
    assert ids(database) == [2]
    assert database.stats().in_use == 0


@pytest.mark.parametrize("inside", [False, True])
def test_after_a_server_became_read_only_the_next_call_has_a_new_connection(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig, inside: bool
) -> None:
    database: PostgreSQLDatabase = manager.add_postgresql("main", postgresql_config)
    database.execute("CREATE TABLE t (id integer)")
    # As after a switch-over that breaks no connection: all of them read only, new ones write.
    with database.transaction():
        database.fetch_apart("SELECT set_config('default_transaction_read_only', 'on', false)")
    database.execute("SET default_transaction_read_only = on")
    database.fetch_apart("SELECT set_config('default_transaction_read_only', 'on', false)")
    assert database.stats().open == 2
    with pytest.raises(ReadOnlyError, match=r"the next call finds it"):
        if inside:
            with database.transaction() as transaction:
                transaction.execute(INSERT, {"id": 1})
        else:
            database.execute(INSERT, {"id": 1})
    database.execute(INSERT, {"id": 2})
    assert ids(database) == [2]
    assert database.stats().discarded == 2


def test_a_write_in_a_read_only_transaction_costs_no_connection(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = manager.add_postgresql("main", postgresql_config)
    database.execute("CREATE TABLE t (id integer)")
    with pytest.raises(ReadOnlyError):
        with database.transaction(read_only=True):
            database.execute(INSERT, {"id": 1})
    assert (database.stats().open, database.stats().discarded) == (1, 0)


