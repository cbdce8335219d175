# Generated from ../_async/langchain_import.py by tests/unasync.py: edit that one.
"""Taking over the documents that langchain-postgres wrote, within one database or from another."""

from __future__ import annotations

from collections.abc import Iterator

from persistence._sync.database import Database
from persistence.errors import NotFoundError, ValidationError
from persistence.fields import Duration
from persistence.queries import load_queries
from persistence.validation import check_whole, shown
from vectorstore import langchain_tables
from vectorstore._sync.pgvector import PgVectorStore
from vectorstore._sync.store import VectorStore
from vectorstore.adoption import AdoptedTable
from vectorstore.langchain_tables import Source
from vectorstore.records import Document, metadata_value

IMPORT_SECONDS = 3600.0
"""How long an import within one database may take."""


def import_langchain(
    target: VectorStore,
    *,
    collection: str | None = None,
    table: AdoptedTable | str | None = None,
    source: Database | None = None,
    batch_size: int = 1000,
    timeout: Duration = IMPORT_SECONDS,
) -> int:
    """Copy what langchain-postgres wrote into a store of ours, ids and vectors as they are; return how many documents.

    ``collection`` is one of ``PGVector``, ``table`` one of ``PGVectorStore``: its name, or an ``AdoptedTable`` where
    its columns have names of your own. Its further columns become keys of the metadata.

    ``source`` is the PostgreSQL connection of the old table; left out, it is the target's own. Within one database all
    is one statement of at most ``timeout`` seconds, all or nothing, and no document leaves the server. Elsewhere the
    documents are read and stored ``batch_size`` at a time. It may be repeated: what is there is replaced. The old
    table is only read; let nobody write to it meanwhile.

    Raises:
        NotFoundError: there is no such collection, table or column.
        ValidationError: a document has no embedding, one of other dimensions, or anything else that isn't stored.
    """
    if (collection is None) == (table is None):
        raise ValidationError(
            "it takes a collection or a table", hint="collection= of PGVector, table= of PGVectorStore"
        )
    check_whole("batch_size", batch_size, most=10_000)
    if not isinstance(target, VectorStore):
        raise ValidationError(f"a {type(target).__name__} is no store to import into", hint="PgVectorStore(…), …")
    own = target.database if isinstance(target, PgVectorStore) else None
    old = own if source is None else source
    if old is None or old.kind != "postgresql":
        what = f"a {type(target).__name__}" if old is None else f"the connection {old.name!r}"
        raise ValidationError(f"{what} is no PostgreSQL to read from", hint="source=manager.get_postgresql(…)")
    found = _source(old, collection, table)
    if isinstance(target, PgVectorStore) and old is own and target.takes_selected():
        return target.store_selected(found.sql, found.parameters, timeout=timeout)
    return target.store_documents(_documents(old, found, batch_size), batch_size=batch_size)


def _source(database: Database, collection: str | None, table: AdoptedTable | str | None) -> Source:
    column_types = load_queries("vectorstore", "postgresql").column_types
    adopted = None if table is None else langchain_tables.as_table(table)
    name = langchain_tables.EMBEDDINGS if adopted is None else adopted.quoted
    types = {row["name"]: row["type"] for row in database.fetch_all(column_types, {"table": name})}
    if adopted is not None:
        return langchain_tables.of_table(adopted, types)
    found = langchain_tables.of_collection(collection, types)
    if database.fetch_value(langchain_tables.COLLECTION, found.parameters) is None:
        raise NotFoundError(f"PGVector has no collection {shown(str(collection))}", connection=database.name)
    return found


def _documents(database: Database, source: Source, size: int) -> Iterator[Document]:
    """Yield the documents of a table, in the order of their ids there."""
    for row in database.iterate(source.streamed, source.parameters, key="key", batch_size=size):
        if row["embedding"] is None:
            raise ValidationError(f"document {shown(str(row['id']))} has no embedding", connection=database.name)
        vector = langchain_tables.sent_vector(row["embedding"])
        yield Document(row["id"], row["content"], metadata_value(row["metadata"]), vector)
