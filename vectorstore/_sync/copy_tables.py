# Generated from ../_async/copy_tables.py by tests/unasync.py: edit that one.
"""The tables of collections where a database is copied, archived, or rid of a tenant."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from persistence._sync.compat import in_background
from persistence._sync.database import Database
from persistence._sync.postgresql import PostgreSQLDatabase
from persistence._sync.sqlite import SQLiteDatabase
from persistence.copied_columns import Column
from persistence.dialect import quote_identifier, to_micros
from persistence.errors import CapabilityError, ConflictError, NotFoundError
from persistence.queries import load_queries
from persistence.transfers import TablePair, Tables
from vectorstore import copy_plans, schema
from vectorstore.matrix_file import matrix_path


def prepare(target: Database) -> None:
    """Make what the migrations of this package need and don't make: PostgreSQL's type of vectors.

    Raises:
        CapabilityError: the server hasn't got it, or the role may not create it.
    """
    if isinstance(target, PostgreSQLDatabase):
        target.capabilities(refresh=True)
        target.ensure_vector()


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
    found: list[TablePair] = []
    for row in _collections(source):
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


def _collections(source: Database) -> list[dict[str, Any]]:
    rows = source.fetch_all("SELECT * FROM holdfast_collections ORDER BY collection LIMIT 100000")
    for row in rows:
        if row.get("columns") is not None:
            raise CapabilityError(
                f"the collection {row['collection']!r} is a table of your own, which is not copied",
                hint="copy that table, and leave the package out of this copy",
                connection=source.name,
            )
    return rows


def archived_tables(source: Database, tables: Tables, tenant: str) -> list[TablePair]:
    """Return how the collections that have documents of a tenant go into an archive.

    Raises:
        CapabilityError: one of them is a table of the user's own, or has vectors or words that no SQLite file has.
    """
    found = []
    for row in _collections(source):
        given, where = {"tenant": tenant}, "tenant_id = :tenant"
        if source.kind == "sqlite":
            name, where = copy_plans.DOCUMENTS, f"{where} AND collection = :collection"
            given["collection"] = row["collection"]
        else:
            name = str(row["relation"])
        if source.fetch_all(f"SELECT 1 FROM {quote_identifier(name)} WHERE {where} LIMIT 1", given):
            found.append((copy_plans.archived if source.kind == "sqlite" else copy_plans.to_sqlite)(row, tables[name]))
    return found


def made_beside(tables: Tables) -> list[str]:
    """Return the tables of collections among those of a database."""
    return sorted(name for name in tables if name.startswith(schema.relation("")) and "tenant_id" in tables[name])


def check_erasable(database: Database, tenant: str) -> None:
    """Refuse to erase a tenant that has documents in a table of the user's own.

    Raises:
        CapabilityError: it has; the collection is named.
    """
    if database.kind == "sqlite":
        return
    columns = load_queries("vectorstore", "postgresql").column_types
    text = (
        "SELECT collection, relation FROM holdfast_collections WHERE columns ->> 'tenant' = :tenant ORDER BY collection"
    )
    for row in database.fetch_all(f"{text} LIMIT 100000", {"tenant": tenant}):
        view = quote_identifier(row["relation"])
        is_there = database.fetch_all(columns, {"table": view})
        if is_there and database.fetch_all(f"SELECT 1 FROM {view} LIMIT 1"):
            raise CapabilityError(
                f"the tenant's collection {row['collection']!r} is a table of your own, from which nothing is erased",
                hint="delete its rows, or drop its view",
                connection=database.name,
            )


def erase_beside(database: Database, tenant: str) -> None:
    """Delete the files of a tenant's vectors, which are made again if the documents stay after all."""
    if not isinstance(database, SQLiteDatabase) or database.config.path == ":memory:":
        return
    text = "SELECT collection, namespace FROM holdfast_collection_states WHERE tenant_id = :tenant ORDER BY 1, 2"
    for row in database.fetch_all(f"{text} LIMIT 100000", {"tenant": tenant}):
        path = matrix_path(database.config.path, tenant, **row)
        in_background(lambda path=path: path.unlink(missing_ok=True))  # type: ignore[misc]


def restored_table(
    target: Database, made: Mapping[str, Any], columns: Mapping[str, Column], *, make: bool
) -> TablePair:
    """Return how the rows of a collection come out of an archive; ``make``: make it where it isn't there.

    Raises:
        NotFoundError: it isn't there.
        ConflictError: there is one of this name, and it was made for something else.
        ConfigError: its name, dimensions or metric are none.
    """
    row = copy_plans.checked(made)
    found = target.fetch_one(
        "SELECT * FROM holdfast_collections WHERE collection = :collection", {"collection": row["collection"]}
    )
    if found is None:
        if not make:
            raise NotFoundError(f"there is no collection {row['collection']!r}", connection=target.name)
        _register(target, row)
        found = row
    wanted = {**row, "vector_type": "vector", "columns": None}
    for name in ("dimensions", "metric", "language", "vector_type", "columns"):
        if found.get(name, wanted[name]) != wanted[name]:
            raise ConflictError(
                f"the collection {row['collection']!r} is there with {name} {found[name]}, not {wanted[name]}",
                hint="import into another database, or make that collection anew",
                connection=target.name,
            )
    if target.kind == "sqlite":
        return copy_plans.archived(row, columns)
    if make:
        _make(target, row)
    return copy_plans.from_sqlite(row["collection"], columns)


def _register(target: Database, row: dict[str, Any]) -> None:
    queries = load_queries("vectorstore", target.kind)
    made = {name: row[name] for name in ("collection", "dimensions", "metric", "model")}
    if target.kind == "sqlite":
        now = to_micros(datetime.now(UTC))
        target.execute(queries.register, {**made, "language": row["language"], "now": now})
        return
    further = {"relation": schema.relation(row["collection"]), "vector_type": "vector", "columns": None}
    target.execute(queries.register, {**made, **further})
    target.execute(queries.extend, {"collection": row["collection"], "language": row["language"], "keys": "{}"})


def _make(target: Database, row: dict[str, Any]) -> None:
    queries = load_queries("vectorstore", "postgresql")
    name = schema.relation(row["collection"])
    with target.transaction():
        target.execute(queries.lock_collections)
        if not target.fetch_all(queries.column_types, {"table": quote_identifier(name)}):
            for statement in copy_plans.statements(row):
                target.execute(statement, prepare=False)
