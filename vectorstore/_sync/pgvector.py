# Generated from ../_async/pgvector.py by tests/unasync.py: edit that one.
"""Vectors in PostgreSQL with pgvector: one table a collection, one round trip a search.

Protocol: a collection's table is made on first use, under an advisory lock and in one transaction with its row in
``holdfast_collections``, which says what it was made for. Batches are written in the order of their ids, so writers of
the same documents wait for one another and never deadlock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from persistence._sync.manager import DatabaseManager
from persistence._sync.postgresql import PgVectorDatabase
from persistence._sync.store import SQLStore
from persistence.config import Metric
from persistence.dialect import quote_identifier, to_json
from persistence.errors import CapabilityError, MigrationError, NotFoundError
from persistence.validation import check_whole
from vectorstore import schema
from vectorstore._sync.store import VectorStore
from vectorstore.distance import Matrix
from vectorstore.filter_sql import to_postgresql
from vectorstore.filters import Node
from vectorstore.records import (
    CheckedDocument,
    Document,
    Embedder,
    SearchResult,
    metadata_value,
)

BUILD_SECONDS = 3600.0
"""How long making an index may take."""


class PgVectorStore(VectorStore, SQLStore):
    """A vector store on the pgvector connection ``name`` of a manager.

    ``dimensions`` and ``metric`` are the connection's where they are left out; a collection keeps those that it was
    made with. There is no index of vectors until :meth:`build_index` is called, and a search compares all of them:
    below some 10,000 documents that is fast, and loading into a live hnsw index is thirty times slower. ``effort`` is
    hnsw's ``ef_search`` or ivfflat's ``probes`` (left out: 100, or the square root of the lists).
    """

    line = schema.LINE

    def __init__(
        self,
        manager: DatabaseManager,
        name: str,
        *,
        collection: str = "documents",
        tenant: str = "default",
        dimensions: int | None = None,
        metric: Metric | None = None,
        embedder: Embedder | None = None,
        model: str | None = None,
        effort: int | None = None,
        migrate: bool = True,
    ) -> None:
        config = manager.get_pgvector(name).config
        SQLStore.__init__(self, manager, name, tenant=tenant, migrate=migrate)
        VectorStore.__init__(
            self,
            collection=collection,
            dimensions=config.dimensions if dimensions is None else dimensions,
            metric=config.distance_metric if metric is None else metric,
            embedder=embedder,
            model=model,
        )
        self._effort = None if effort is None else check_whole("effort", effort)
        self._sql = schema.postgresql_statements(self.collection, self.metric)
        self._opened: PgVectorDatabase | None = None
        self._index: tuple[str, Mapping[str, Any]] | None = None

    def _ready(self) -> PgVectorDatabase:
        """Return the connection, the collection's table made and compared with what this store was opened for."""
        database = self._manager.get_pgvector(self._name)
        if database is not self._opened:
            self._database()
            self._open(database)
            if not database.in_transaction:  # a transaction may still roll the table back
                self._opened = database
        return database

    def _open(self, database: PgVectorDatabase) -> None:
        version = (database.capabilities()).vector or (0,)
        if version < schema.MINIMUM_PGVECTOR:
            found, wanted = (".".join(map(str, each)) for each in (version, schema.MINIMUM_PGVECTOR))
            raise CapabilityError(
                f"pgvector {found} is too old, {wanted} is needed",
                hint="install it on the server and run: ALTER EXTENSION vector UPDATE",
                connection=self._name,
            )
        row = self._registered(database)
        if row is None:
            if not self._migrate:
                raise MigrationError(
                    f"the collection {self.collection!r} was not made yet",
                    hint="open it once with migrate=True",
                    connection=self._name,
                )
            row = self._create(database)
        self._check_registered(row)
        if row["model"] is None and self.model is not None:
            database.execute(self._sql.adopt_model, {"collection": self.collection, "model": self.model})
        self._index = (row["index_type"], row["index_options"]) if row["indexed"] else None

    def _registered(self, database: PgVectorDatabase) -> dict[str, Any] | None:
        """Return what the collection was made for; None where it, or its table, isn't there."""
        row = database.fetch_one(self._sql.collection, {"collection": self.collection})
        return row if row is not None and row["present"] else None

    def _create(self, database: PgVectorDatabase) -> dict[str, Any]:
        """Make the collection's table, or find that another program just has."""
        with database.transaction():
            database.execute(self._sql.lock_collections)
            row = self._registered(database)
            if row is not None:
                return row
            for statement in schema.create_table(self.collection, self.dimensions):
                database.execute(statement, prepare=False)
            registered = database.fetch_one(
                self._sql.register,
                {
                    "collection": self.collection,
                    "relation": schema.relation(self.collection),
                    "dimensions": self.dimensions,
                    "metric": self.metric,
                    "model": self.model,
                },
            )
        return registered or {}

    def _write(self, batch: list[CheckedDocument]) -> None:
        database = self._ready()
        rows = [{"tenant": self._tenant, **document._asdict()} for document in batch]
        if len(rows) == 1:
            database.execute(self._sql.upsert, rows[0])
        else:
            database.execute_many(self._sql.upsert, rows)

    def _read(self, ids: list[str], with_embeddings: bool) -> list[Document]:
        database = self._ready()
        sql = schema.fill(self._sql.get_many, {"embedding": "d.embedding"} if with_embeddings else {})
        rows = database.fetch_all(sql, {"tenant": self._tenant, "ids": ids})
        return [Document(row["id"], row["content"], metadata_value(row["metadata"]), row["embedding"]) for row in rows]

    def _change(self, id: str, content: str | None, metadata: str | None, embedding: Matrix | None) -> None:
        database = self._ready()
        given = {"content": content, "metadata": metadata, "embedding": embedding}
        if not database.execute(self._sql.update, {"tenant": self._tenant, "id": id, **given}):
            raise NotFoundError(
                f"there is no document {id[:80]!r} in {self.collection!r}",
                hint="store_documents() writes new ones",
                connection=self._name,
            )

    def _remove(self, ids: list[str]) -> int:
        database = self._ready()
        return database.execute(self._sql.delete, {"tenant": self._tenant, "ids": ids})

    def _count(self, node: Node | None) -> int:
        database = self._ready()
        condition, parameters = _condition(node)
        sql = schema.fill(self._sql.count, {"filter": condition})
        prepare = None if node is None else False
        found = database.fetch_value(sql, {"tenant": self._tenant, **parameters}, prepare=prepare)
        return int(found)

    def _nearest(
        self, query: Matrix, k: int, node: Node | None, with_embeddings: bool, exact: bool | None
    ) -> list[SearchResult]:
        database = self._ready()
        condition, parameters = _condition(node)
        places = {"filter": condition, "embedding": "embedding" if with_embeddings else "NULL"}
        parameters |= {"tenant": self._tenant, "query": query, "k": k}
        # With a filter the plan must be made for its very values: a generic one takes the index for every filter.
        prepare = None if node is None else False
        rows: list[dict[str, Any]] = []
        if self._index is not None and not exact and k <= schema.MAX_EF_SEARCH:
            kind, options = self._index
            setting, value = schema.effort(kind, options, self._effort, k)
            settings = {"effort_name": setting, "effort": str(value), "scan_name": f"{kind}.iterative_scan"}
            sql = schema.fill(self._sql.search_by_index, places)
            rows = database.fetch_all(sql, parameters | settings, prepare=prepare)
        if len(rows) < k:  # an index scan gives up after max_scan_tuples, which must not look like the end
            sql = schema.fill(self._sql.search_exactly, places)
            rows = database.fetch_all(sql, parameters | {"collection": self.collection}, prepare=prepare)
            if rows and rows[0]["indexed"] and self._index is None:
                self._opened = None  # another program has built an index: look at it before the next search
        return [
            self._result(row["id"], row["content"], row["metadata"], row["distance"], row["embedding"]) for row in rows
        ]

    def build_index(
        self, *, index_type: Literal["hnsw", "ivfflat"] | None = None, options: Mapping[str, int] | None = None
    ) -> None:
        """Make the index of vectors, or make it anew, as the connection is configured unless told otherwise.

        Call it after a load; ivfflat also after much has changed. Searches go on meanwhile, writes wait.

        Raises:
            ConfigError: the configuration wants none, or the options are wrong.
            CapabilityError: pgvector has none for such vectors.
        """
        database = self._ready()
        config = database.config
        if index_type is not None or options is not None:
            kind = index_type or config.index_type
            kept = config.index_options if kind == config.index_type else {}
            config = dataclasses.replace(config, index_type=kind, index_options=kept if options is None else options)
        with database.transaction():
            table = schema.relation(self.collection)
            database.execute(f"ANALYZE {quote_identifier(table)}", timeout=BUILD_SECONDS)
            rows = int(database.fetch_value(self._sql.estimate_rows, {"relation": table}))
            chosen = schema.index_options(config, self.dimensions, self.metric, rows)
            for statement in schema.create_index(self.collection, self.metric, config.index_type, chosen):
                database.execute(statement, timeout=BUILD_SECONDS, prepare=False)
            marked = {"collection": self.collection, "index_type": config.index_type, "options": to_json(chosen)}
            database.execute(self._sql.mark_indexed, marked)
        self._opened = None  # it is read again before the next call


def _condition(node: Node | None) -> tuple[str, dict[str, Any]]:
    return ("true", {}) if node is None else to_postgresql(node, "metadata")
