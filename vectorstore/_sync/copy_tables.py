# Generated from ../_async/copy_tables.py by tests/unasync.py: edit that one.
"""Makes the tables of collections in the database that they are copied to."""

from __future__ import annotations

from typing import Any

from persistence._sync.database import Database
from persistence.dialect import quote_identifier
from persistence.errors import CapabilityError
from persistence.queries import load_queries
from persistence.transfers import TablePair, Tables
from vectorstore import copy_plans, schema


def further_tables(
    source: Database, target: Database, tables: Tables, *, make: bool
) -> list[TablePair]:
    """Return the table of each collection; ``make``: make those that the target hasn't.

    Raises:
        CapabilityError: a collection is a table of the user's own, which is not copied with it; or a SQLite file has
            nothing for its vectors or words.
    """
    if source.kind == target.kind == "sqlite":
        return []
    rows = source.fetch_all("SELECT * FROM holdfast_collections ORDER BY collection LIMIT 100000")
    found: list[TablePair] = []
    for row in rows:
        if row.get("columns") is not None:
            raise CapabilityError(
                f"the collection {row['collection']!r} is a table of your own, which is not copied",
                hint="copy that table, and leave the package out of this copy",
                connection=source.name,
            )
        if target.kind == "sqlite":
            found.append(copy_plans.to_sqlite(row, tables[str(row["relation"])]))
            continue
        if make:
            _make(target, row)
        if source.kind == "sqlite":
            found.append(copy_plans.from_sqlite(row["collection"], tables[copy_plans.DOCUMENTS]))
        else:
            name = str(row["relation"])
            found.append(TablePair(name, "vectorstore", quote_identifier(name), tables[name], name))
    return found


def _make(target: Database, row: dict[str, Any]) -> None:
    queries = load_queries("vectorstore", "postgresql")
    name = schema.relation(row["collection"])
    with target.transaction():
        target.execute(queries.lock_collections)
        if not target.fetch_all(queries.column_types, {"table": quote_identifier(name)}):
            for statement in copy_plans.statements(row):
                target.execute(statement, prepare=False)
