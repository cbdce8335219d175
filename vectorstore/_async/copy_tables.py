"""The tables of collections where a database is copied, archived, or rid of a tenant."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from persistence._async.compat import in_background
from persistence._async.database import AsyncDatabase
from persistence._async.postgresql import AsyncPostgreSQLDatabase
from persistence._async.sqlite import AsyncSQLiteDatabase
from persistence.copied_columns import Column
from persistence.dialect import quote_identifier, to_micros
from persistence.errors import CapabilityError, ConflictError, NotFoundError
from persistence.queries import load_queries
from persistence.transfers import TablePair, Tables
from vectorstore import copy_plans, schema
from vectorstore.matrix_file import matrix_path


async def prepare(target: AsyncDatabase) -> None:
    """Make what the migrations of this package need and don't make: PostgreSQL's type of vectors.

    Raises:
        CapabilityError: the server hasn't got it, or the role may not create it.
    """
    if isinstance(target, AsyncPostgreSQLDatabase):
        await target.capabilities(refresh=True)
        await target.ensure_vector()


async def further_tables(
    source: AsyncDatabase, target: AsyncDatabase, tables: Tables, *, make: bool
) -> list[TablePair]:
    """Return the table of each collection; ``make``: make those that the target hasn't.

    Raises:
        CapabilityError: a collection is a table of the user's own, which is not copied with it; or a SQLite file has
            nothing for its vectors or words.
    """
    if source.kind == target.kind == "sqlite":
        return []
    found: list[TablePair] = []
    for row in await _collections(source):
        if target.kind == "sqlite":
            found.append(copy_plans.to_sqlite(row, tables[str(row["relation"])]))
            continue
        if make:
            await _make(target, row)
        if source.kind == "sqlite":
            found.append(copy_plans.from_sqlite(row["collection"], tables[copy_plans.DOCUMENTS]))
        else:
            name = str(row["relation"])
            found.append(TablePair(name, "vectorstore", quote_identifier(name), tables[name], name))
    return found


async def _collections(source: AsyncDatabase) -> list[dict[str, Any]]:
    rows = await source.fetch_all("SELECT * FROM holdfast_collections ORDER BY collection LIMIT 100000")
    for row in rows:
        if row.get("columns") is not None:
            raise CapabilityError(
                f"the collection {row['collection']!r} is a table of your own, which is not copied",
                hint="copy that table, and leave the package out of this copy",
                connection=source.name,
            )
    return rows


async def archived_tables(source: AsyncDatabase, tables: Tables, tenant: str) -> list[TablePair]:
    """Return how the collections that have documents of a tenant go into an archive.

    Raises:
        CapabilityError: one of them is a table of the user's own, or has vectors or words that no SQLite file has.
    """
    found = []
    for row in await _collections(source):
        given, where = {"tenant": tenant}, "tenant_id = :tenant"
        if source.kind == "sqlite":
            name, where = copy_plans.DOCUMENTS, f"{where} AND collection = :collection"
            given["collection"] = row["collection"]
        else:
            name = str(row["relation"])
        if await source.fetch_all(f"SELECT 1 FROM {quote_identifier(name)} WHERE {where} LIMIT 1", given):
            found.append((copy_plans.archived if source.kind == "sqlite" else copy_plans.to_sqlite)(row, tables[name]))
    return found


def made_beside(tables: Tables) -> list[str]:
    """Return the tables of collections among those of a database."""
    return sorted(name for name in tables if name.startswith(schema.relation("")) and "tenant_id" in tables[name])


async def check_erasable(database: AsyncDatabase, tenant: str) -> None:
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
    for row in await database.fetch_all(f"{text} LIMIT 100000", {"tenant": tenant}):
        view = quote_identifier(row["relation"])
        is_there = await database.fetch_all(columns, {"table": view})
        if is_there and await database.fetch_all(f"SELECT 1 FROM {view} LIMIT 1"):
            raise CapabilityError(
                f"the tenant's collection {row['collection']!r} is a table of your own, from which nothing is erased",
                hint="delete its rows, or drop its view",
                connection=database.name,
            )


async def erase_beside(database: AsyncDatabase, tenant: str) -> None:
    """Delete the files of a tenant's vectors, which are made again if the documents stay after all."""
    if not isinstance(database, AsyncSQLiteDatabase) or database.config.path == ":memory:":
        return
    text = "SELECT collection, namespace FROM holdfast_collection_states WHERE tenant_id = :tenant ORDER BY 1, 2"
    for row in await database.fetch_all(f"{text} LIMIT 100000", {"tenant": tenant}):
        path = matrix_path(database.config.path, tenant, **row)
        await in_background(lambda path=path: path.unlink(missing_ok=True))  # type: ignore[misc]


async def restored_table(
    target: AsyncDatabase, made: Mapping[str, Any], columns: Mapping[str, Column], *, make: bool
) -> TablePair:
    """Return how the rows of a collection come out of an archive; ``make``: make it where it isn't there.

    Raises:
        NotFoundError: it isn't there.
        ConflictError: there is one of this name, and it was made for something else.
        ConfigError: its name, dimensions or metric are none.
    """
    row = copy_plans.checked(made)
    found = await target.fetch_one(
        "SELECT * FROM holdfast_collections WHERE collection = :collection", {"collection": row["collection"]}
    )
    if found is None:
        if not make:
            raise NotFoundError(f"there is no collection {row['collection']!r}", connection=target.name)
        await _register(target, row)
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
        await _make(target, row)
    return copy_plans.from_sqlite(row["collection"], columns)


async def _register(target: AsyncDatabase, row: dict[str, Any]) -> None:
    queries = load_queries("vectorstore", target.kind)
    made = {name: row[name] for name in ("collection", "dimensions", "metric", "model")}
    if target.kind == "sqlite":
        now = to_micros(datetime.now(UTC))
        await target.execute(queries.register, {**made, "language": row["language"], "now": now})
        return
    further = {"relation": schema.relation(row["collection"]), "vector_type": "vector", "columns": None}
    await target.execute(queries.register, {**made, **further})
    await target.execute(queries.extend, {"collection": row["collection"], "language": row["language"], "keys": "{}"})


async def _make(target: AsyncDatabase, row: dict[str, Any]) -> None:
    queries = load_queries("vectorstore", "postgresql")
    name = schema.relation(row["collection"])
    async with target.transaction():
        await target.execute(queries.lock_collections)
        if not await target.fetch_all(queries.column_types, {"table": quote_identifier(name)}):
            for statement in copy_plans.statements(row):
                await target.execute(statement, prepare=False)
