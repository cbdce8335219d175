"""The subcommand ``search``: documents of a collection by words, or by a vector."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from typing import Any

from persistence import DatabaseManager, MigrationLine, Migrator, PgVectorConfig, PostgreSQLConfig
from persistence.cli import DONE, Output, WrongUsageError
from persistence.connections_cli import add_connection_arguments, chosen, opened, table, whole
from persistence.dialect import quote_identifier
from persistence.errors import NotFoundError, ValidationError
from vectorstore import PgVectorStore, SQLiteVectorStore, VectorStore


class Search:
    """Searches a collection: by the words of a text, or by a vector read as a JSON list from standard input."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments."""
        add_connection_arguments(parser, one=True)
        parser.add_argument("text", nargs="?", metavar="TEXT", help="left out: a vector comes from standard input")
        parser.add_argument("--collection", default="documents", help="(default: %(default)s)")
        parser.add_argument("--namespace", default="default", help="(default: %(default)s)")
        parser.add_argument("--tenant", default="default", help="(default: %(default)s)")
        parser.add_argument("--filter", metavar="JSON", help="what the metadata must pass")
        parser.add_argument("-k", type=whole(), default=10, metavar="N", help="how many (default: %(default)s)")
        parser.add_argument("--offset", type=whole(0), default=0, metavar="N", help="behind so many: the next page")
        parser.add_argument("--min-score", type=float, metavar="S", help="at least this score")

    def run(self, arguments: argparse.Namespace, output: Output) -> int:
        """Do it, and return the exit code."""
        query = arguments.text if arguments.text is not None else _vector()
        wanted = None if arguments.filter is None else _json("--filter", arguments.filter)
        with opened(arguments) as manager:
            store = _store(manager, chosen(arguments, manager), arguments)
            found = store.search(
                query,
                arguments.k,
                offset=arguments.offset,
                filter=wanted,
                min_score=arguments.min_score,
                mode="text" if arguments.text is not None else "vector",
            )
        values = [
            {"id": each.id, "score": each.score, "content": each.content, "metadata": each.metadata} for each in found
        ]
        rows = [(each.score, each.id, " ".join(each.content.split())[:70]) for each in found]
        output.result({"results": values}, table(rows, ("score", "id", "content")) if rows else "nothing found")
        return DONE


def user_stores(manager: DatabaseManager, name: str, tenant: str) -> list[VectorStore]:
    """Return the stores of this package that keep something of users, for the export of one.

    A collection that is a table of the user's own is left out: what it keeps is theirs to tell.
    """
    database = manager.get_database(name)
    found = []
    for row in database.fetch_all("SELECT * FROM holdfast_collections ORDER BY collection LIMIT 100000"):
        if row.get("columns") is None:
            place = quote_identifier(row.get("relation", "holdfast_documents"))
            namespaces = database.fetch_all(
                f"SELECT DISTINCT namespace FROM {place} WHERE tenant_id = :tenant ORDER BY namespace LIMIT 100000",
                {"tenant": tenant},
            )
            for each in namespaces:
                place_of = {"collection": row["collection"], "namespace": each["namespace"], "tenant": tenant}
                found.append(_store(manager, name, argparse.Namespace(**place_of)))
    return found


def _vector() -> Any:
    """Return the vector on standard input, which nobody types."""
    if sys.stdin.isatty():
        raise WrongUsageError("search for what?", hint="TEXT, or a vector as a JSON list on standard input")
    return _json("standard input", sys.stdin.read())


def _json(what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ValidationError(f"{what} is no JSON: {exc}") from exc


def _store(manager: DatabaseManager, name: str, arguments: argparse.Namespace) -> VectorStore:
    """Return the store, opened as the collection was made."""
    database = manager.get_database(name)
    made = None
    if Migrator(database).status(MigrationLine.of_package("vectorstore")).current:
        text = "SELECT * FROM holdfast_collections WHERE collection = :collection"
        made = database.fetch_one(text, {"collection": arguments.collection})
    if made is None:
        raise NotFoundError(f"there is no collection {arguments.collection!r}", connection=name)
    options: dict[str, Any] = {
        "collection": arguments.collection,
        "namespace": arguments.namespace,
        "tenant": arguments.tenant,
        "dimensions": made["dimensions"],
        "metric": made["metric"],
        "text_search": made["language"],
        "migrate": False,
    }
    if database.kind == "sqlite":
        return SQLiteVectorStore(manager, name, **options)
    settings = manager.get_postgresql(name).config
    given = {field.name: getattr(settings, field.name) for field in fields(PostgreSQLConfig)}
    config = PgVectorConfig(**given, dimensions=made["dimensions"], create_extension=False)
    if f"{name} of vectors" not in manager.names():
        manager.add_pgvector(f"{name} of vectors", config, lazy=True)
    return PgVectorStore(manager, f"{name} of vectors", vector_type=made["vector_type"], **options)
