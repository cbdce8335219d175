# Generated from ../_async/schema.py by tests/unasync.py: edit that one.
"""Runs the steps of migrations, reads the tables that a database has, and finds those that migrations would make."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from persistence._sync.database import Database
from persistence._sync.executor import Executor, Parameters, Row
from persistence._sync.sqlite import SQLiteDatabase
from persistence.config import SQLiteConfig
from persistence.dialect import quote_identifier, tokens
from persistence.errors import MigrationError, PersistenceError
from persistence.migrations import Migration
from persistence.queries import load_queries
from persistence.schemas import Schema, schema_from_rows

_SCRATCH = "holdfast_expected"
_TIDYING = frozenset(("VACUUM", "ANALYZE", "REINDEX", "CLUSTER", "CHECKPOINT"))


def read_schema(database: Database) -> Schema:
    """Return the tables of a SQLite file, or of the first schema of PostgreSQL's search path."""
    own = None if database.kind == "sqlite" else database.fetch_value("SELECT current_schema()")
    return _read(database, own)


def _read(executor: Executor, own: str | None) -> Schema:
    queries = load_queries("persistence", executor.kind)
    columns, indexes, constraints = executor.fetch_batch(
        [(queries.list_columns, None), (queries.list_indexes, None), (queries.list_constraints, None)]
    )
    return schema_from_rows(columns, indexes, constraints, own=own)


def expected_schema(database: Database, migrations: Iterable[Migration]) -> Schema:
    """Return the tables that migrations make, from nothing; the database is as it was afterwards.

    Raises:
        MigrationError: one of them doesn't run, or no schema can be made for it.
    """
    if database.kind == "sqlite":
        scratch = SQLiteDatabase(database.name, SQLiteConfig(path=":memory:"))
        try:
            _run_all(scratch, migrations)
            return _read(scratch, None)
        finally:
            scratch.close()
    found: Schema = {}
    try:
        with database.transaction() as transaction:
            transaction.execute(f"CREATE SCHEMA {quote_identifier(_SCRATCH)}")
            transaction.execute(
                load_queries("persistence", "postgresql").enter_schema, {"schema": quote_identifier(_SCRATCH)}
            )
            _run_all(transaction, migrations)
            found = _read(transaction, _SCRATCH)
            raise _Seen
    except _Seen:
        return found


def _run_all(executor: Executor, migrations: Iterable[Migration]) -> None:
    def run(text: str, parameters: Parameters | None) -> list[Row]:
        text = _within_transaction(text)
        # An empty text is one that makes no schema.
        return (executor.fetch_batch([(text, parameters)]))[0] if text else []

    for migration in migrations:
        run_steps(migration, run, trouble=" doesn't run from nothing")


def run_steps(
    migration: Migration,
    run: Callable[[str, Parameters | None], list[Row]],
    *,
    down: bool = False,
    trouble: str = "",
) -> None:
    """Have ``run`` run the steps of a migration, or those that undo it, each answered by its rows.

    Raises:
        MigrationError: a step failed; it names the migration and its ``trouble``.
    """
    steps = migration.steps(down=down)
    try:
        text, parameters = next(steps)
        while True:
            text, parameters = steps.send(run(text, parameters))
    except StopIteration:
        return
    except MigrationError:
        raise
    except PersistenceError as exc:
        raise MigrationError(f"{migration}{trouble}: {exc.message}", code=exc.code, connection=exc.connection) from exc
    finally:
        steps.close()


def _within_transaction(text: str) -> str:
    """Return a statement without CONCURRENTLY, which makes the same index; empty for one that only tidies."""
    words = [token.text.upper() for token in tokens(text) if token.kind == "word"]
    if words and words[0] in _TIDYING:
        return ""
    return "".join(token.text for token in tokens(text) if token.text.upper() != "CONCURRENTLY")


class _Seen(Exception):
    """Ends the transaction in which migrations were run to be looked at."""
