# Generated from ../_async/measurement.py by tests/unasync.py: edit that one.
"""Measures a database and its tables within a time that an operator waits for, however large they are."""

from __future__ import annotations

from time import monotonic

from persistence._sync.database import Database
from persistence._sync.executor import Row
from persistence.dialect import quote_identifier
from persistence.errors import DeadlineError
from persistence.fields import Duration
from persistence.measuring import (
    COUNT_SECONDS,
    COUNTED_ROWS,
    NO_SIZES,
    TOO_LARGE,
    DatabaseSize,
    TableSize,
    fullest_first,
)
from persistence.queries import load_queries
from persistence.validation import check_timeout


def measure(database: Database, *, limit: int = 20, timeout: Duration = 10.0) -> DatabaseSize:
    """Return how large a database is, and its ``limit`` largest tables; nothing is changed.

    PostgreSQL's rows are estimates as the planner makes them, and counted up to a bound where it has none; a SQLite
    file is read page by page, which counts them all. What isn't known within about ``timeout`` seconds is unknown.
    """
    until = monotonic() + check_timeout("timeout", timeout)
    size = int(database.fetch_value(load_queries("persistence", database.kind).measure_database))
    if database.kind == "postgresql":
        return DatabaseSize(size, _on_server(database, limit, until))
    tables, note = _in_file(database, limit, until)
    return DatabaseSize(size, tables, note)


def _on_server(database: Database, limit: int, until: float) -> tuple[TableSize, ...]:
    rows = database.fetch_all(load_queries("persistence", "postgresql").list_table_sizes, {"limit": limit})
    return tuple([_table(database, row, until) for row in rows])


def _table(database: Database, row: Row, until: float) -> TableSize:
    """Return a table of PostgreSQL by its row, counted where the planner knows nothing of it."""
    if row["rows"] is not None:
        return TableSize(row["name"], row["bytes"], row["rows"], "estimated" if row["rows"] else "counted")
    if not row["countable"]:
        return TableSize(row["name"], row["bytes"], None, "unknown")
    return count_rows(database, row["name"], until, size=row["bytes"])


def _in_file(database: Database, limit: int, until: float) -> tuple[tuple[TableSize, ...], str | None]:
    queries, note = load_queries("persistence", "sqlite"), NO_SIZES
    if database.fetch_value(queries.has_page_statistics):
        try:
            left = max(0.001, until - monotonic())
            rows = database.fetch_all(queries.list_table_sizes, {"limit": limit}, timeout=left)
        except DeadlineError:
            until, note = monotonic() + COUNT_SECONDS, TOO_LARGE
        else:
            return tuple(TableSize(row["name"], row["bytes"], row["rows"], "counted") for row in rows), None
    return count_tables(database, limit, until), note


def count_tables(database: Database, limit: int, until: float) -> tuple[TableSize, ...]:
    """Return the fullest tables of a SQLite file, whose sizes aren't known."""
    names = database.fetch_all(load_queries("persistence", "sqlite").list_stored_tables)
    return tuple(sorted([count_rows(database, row["name"], until) for row in names], key=fullest_first)[:limit])


def count_rows(database: Database, name: str, until: float, *, size: int | None = None) -> TableSize:
    """Count a table's rows up to a bound, and not beyond ``until`` (monotonic seconds)."""
    left = min(COUNT_SECONDS, until - monotonic())
    if left <= 0:
        return TableSize(name, size, None, "unknown")
    text = f"SELECT count(*) FROM (SELECT 1 FROM {quote_identifier(name)} LIMIT :most) AS counted"
    try:
        rows = int(database.fetch_value(text, {"most": COUNTED_ROWS}, timeout=left))
    except DeadlineError:
        return TableSize(name, size, None, "unknown")
    return TableSize(name, size, rows, "counted" if rows < COUNTED_ROWS else "at least")
