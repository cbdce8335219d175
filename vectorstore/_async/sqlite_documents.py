"""The life of documents in a SQLite file: written, read, changed and deleted, each call one transaction.

Protocol: a document that is written again, or whose end changes, gets its vector at a new position, so nothing that a
process holds in memory ever changes its meaning. Positions of different writes lie apart by chance.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from persistence._async.executor import Row
from persistence._async.manager import AsyncDatabaseManager, named_connection
from persistence._async.sqlite import AsyncSQLiteDatabase
from persistence._async.store import AsyncSQLStore
from persistence.config import Metric
from persistence.dialect import to_json, to_micros
from persistence.queries import load_queries
from vectorstore import schema
from vectorstore._async.sqlite_vectors import AsyncVectorCopies
from vectorstore._async.store import AsyncVectorStore
from vectorstore.copy_plans import GAP_BITS
from vectorstore.distance import Matrix
from vectorstore.filter_sql import to_sqlite
from vectorstore.filters import Node
from vectorstore.records import Change, CheckedDocument, Document, Embedder, Patch, metadata_value
from vectorstore.text import check_stemmed

EMBEDDING = {"embedding": "(SELECT v.embedding FROM holdfast_vectors AS v WHERE v.position = d.position)"}


class AsyncSQLiteDocuments(AsyncVectorStore, AsyncSQLStore):
    """What the store in a SQLite file does besides searching; ``AsyncSQLiteVectorStore`` is the whole of it."""

    line = schema.LINE

    @named_connection
    def __init__(
        self,
        manager: AsyncDatabaseManager,
        name: str,
        *,
        dimensions: int | None = None,
        collection: str = "documents",
        tenant: str = "default",
        namespace: str = "default",
        metric: Metric = "cosine",
        embedder: Embedder | None = None,
        model: str | None = None,
        text_search: str | None = None,
        keys: Mapping[str, type] | None = None,
        keep_file: bool = True,
        migrate: bool = True,
    ) -> None:
        manager.get_sqlite(name)
        AsyncSQLStore.__init__(self, manager, name, tenant=tenant, migrate=migrate)
        AsyncVectorStore.__init__(
            self,
            collection=collection,
            dimensions=dimensions,
            metric=metric,
            namespace=namespace,
            embedder=embedder,
            model=model,
            text_search=text_search,
            keys=keys,
        )
        check_stemmed(self.text_search, name)
        self._sql = load_queries("vectorstore", "sqlite")
        self._opened: AsyncSQLiteDatabase | None = None
        self._language: str | None = None
        own = {"tenant": tenant, "collection": self.collection}
        self._copies = AsyncVectorCopies(self._sql, own, self.dimensions, self.metric, keep_file=keep_file)

    async def _ready(self) -> AsyncSQLiteDatabase:
        """Return the connection, the collection compared with what this store was opened for."""
        database = self._manager.get_sqlite(self._name)
        if database is not self._opened:
            await self._database()
            await self._open(database)
            if not database.in_transaction:  # a transaction may still roll it back
                self._opened = database
        return database

    async def _open(self, database: AsyncSQLiteDatabase) -> None:
        wanted = {"collection": self.collection}
        row = await database.fetch_one(self._sql.collection, wanted)
        if row is None:
            if not self._migrate:
                raise self._not_made(self._name)
            made: dict[str, Any] = {"dimensions": self.dimensions, "metric": self.metric, "model": self.model}
            given = {**wanted, **made, "language": self.text_search, "now": now()}
            await database.execute(self._sql.register, given)
            row = await database.fetch_one(self._sql.collection, wanted) or given
        self._check_registered(row)
        if row["model"] is None and self.model is not None:
            await database.execute(self._sql.adopt_model, {**wanted, "model": self.model})
        if row["language"] is None and self.text_search is not None:
            row = await self._adopt_language(database, wanted)
        self._language = row["language"]

    async def _adopt_language(self, database: AsyncSQLiteDatabase, wanted: dict[str, str]) -> Row:
        """Make the contents of an older collection searchable, unless another program just has."""
        async with database.transaction():
            if await database.execute(self._sql.adopt_language, {**wanted, "language": self.text_search}):
                await database.execute(schema.fill(self._sql.index_words, tables_of(self.text_search)), wanted)
            row = await database.fetch_one(self._sql.collection, wanted) or {}
        self._check_registered(row)
        return row

    def _here(self, **given: Any) -> dict[str, Any]:
        """Return the parameters of a statement on this store's namespace."""
        return {
            "tenant": self._tenant,
            "collection": self.collection,
            "namespace": self.namespace,
            **given,
        }

    async def _write(self, batch: list[CheckedDocument]) -> None:
        database = await self._ready()
        async with database.transaction():
            await self._put(database, batch)
        self._copies.outdate(self.namespace)

    async def _put(self, database: AsyncSQLiteDatabase, batch: list[CheckedDocument]) -> None:
        here = self._here(now=now())
        first = await self._room(database)
        vectors = [
            {"position": position, "embedding": document.embedding.astype("<f4").tobytes()}
            for position, document in enumerate(batch, first)
        ]
        rows = [
            {
                **here,
                "id": document.id,
                "position": position,
                "content": document.content,
                "metadata": document.metadata,
                "source": document.source,
                "expires_at": database.dialect.time(document.expires_at),
            }
            for position, document in enumerate(batch, first)
        ]
        await database.execute_many(self._sql.insert_vector, vectors)
        await database.execute_many(self._sql.upsert, rows)

    async def _room(self, database: AsyncSQLiteDatabase) -> int:
        """Return a position behind all that were ever used, some way off: another history of the file has another."""
        return int(await database.fetch_value(self._sql.last_position)) + 1 + secrets.randbits(GAP_BITS)

    async def _replace(self, source: str, batches: AsyncIterator[list[CheckedDocument]]) -> int:
        # All are read before the file is locked: embedding them may take its time.
        found = {document.id: document async for batch in batches for document in batch}
        database = await self._ready()
        async with database.transaction():
            if found:
                await self._put(database, [found[id] for id in sorted(found)])
            await database.execute(
                self._sql.delete_other_of_source, self._here(source=source, ids=to_json(list(found)))
            )
        self._copies.outdate(self.namespace)
        return len(found)

    async def _read(self, ids: list[str], with_embeddings: bool) -> list[Document]:
        database = await self._ready()
        sql = schema.fill(self._sql.get_many, EMBEDDING if with_embeddings else {})
        return [
            self._document(database, row)
            for row in await database.fetch_all(sql, self._here(ids=to_json(ids), now=now()))
        ]

    async def _page(self, after: str | None, limit: int, node: Node | None, with_embeddings: bool) -> list[Document]:
        database = await self._ready()
        condition, parameters = condition_of(node)
        sql = schema.fill(self._sql.page, {"filter": condition, **(EMBEDDING if with_embeddings else {})})
        rows = await database.fetch_all(sql, self._here(after=after or "", limit=limit, now=now()) | parameters)
        return [self._document(database, row) for row in rows]

    def _document(self, database: AsyncSQLiteDatabase, row: Row) -> Document:
        moment = database.dialect.moment
        return Document(
            row["id"],
            row["content"],
            metadata_value(row["metadata"]),
            as_vector_of(row["embedding"]),
            source=row["source"],
            expires_at=moment(row["expires_at"]),
            created_at=moment(row["created_at"]),
            updated_at=moment(row["updated_at"]),
        )

    async def _change(self, id: str, change: Change) -> bool:
        database = await self._ready()
        moves = change.embedding is not None or change.expires_at is not None or change.never
        given = self._here(
            id=id,
            content=change.content,
            metadata=change.metadata,
            source=change.source,
            expires_at=database.dialect.time(change.expires_at),
            never=change.never,
            position=None,
            now=now(),
        )
        async with database.transaction():
            if moves:
                position = given["position"] = await self._room(database)
                if change.embedding is None:
                    await database.execute(self._sql.move_vector, self._here(id=id, position=position))
                else:
                    vector = {"position": position, "embedding": change.embedding.astype("<f4").tobytes()}
                    await database.execute(self._sql.insert_vector, vector)
            changed = await database.execute(self._sql.update, given)
            if moves and not changed:
                await database.execute(self._sql.drop_vector, {"position": given["position"]})
        self._copies.outdate(self.namespace)
        return changed > 0

    async def _merge(self, id: str, patch: Patch) -> bool:
        database = await self._ready()
        self._copies.outdate(self.namespace)
        return await database.execute(self._sql.patch, self._here(id=id, now=now(), **patch._asdict())) > 0

    async def _remove(self, ids: list[str]) -> int:
        database = await self._ready()
        self._copies.outdate(self.namespace)
        return await database.execute(self._sql.delete, self._here(ids=to_json(ids), now=now()))

    async def _remove_where(self, node: Node) -> int:
        database = await self._ready()
        condition, parameters = condition_of(node)
        sql = schema.fill(self._sql.delete_where, {"filter": condition})
        self._copies.outdate(self.namespace)
        return await database.execute(sql, self._here(now=now()) | parameters)

    async def _purge(self, limit: int) -> int:
        database = await self._ready()
        given = {"tenant": self._tenant, "collection": self.collection, "now": now(), "limit": limit}
        return await database.execute(self._sql.delete_expired, given)

    async def _count(self, node: Node | None) -> int:
        database = await self._ready()
        condition, parameters = condition_of(node)
        sql = schema.fill(self._sql.count, {"filter": condition})
        return int(await database.fetch_value(sql, self._here(now=now()) | parameters))


def as_vector_of(stored: bytes | None) -> Matrix | None:
    """Return the vector in a column."""
    return None if stored is None else np.frombuffer(stored, "<f4").astype(np.float32)


def tables_of(language: str | None) -> dict[str, str]:
    """Return what stands in the marked places of a statement on the words of a language."""
    words = f"holdfast_words_{language}"
    return {
        "words": words,
        "place": f"{words}.rowid",
        "terms": f"holdfast_terms_{language}",
        "sizes": f"{words}_docsize",
    }


def condition_of(node: Node | None) -> tuple[str, dict[str, Any]]:
    """Return a filter as a condition on the documents ``d``, and its parameters."""
    return ("1", {}) if node is None else to_sqlite(node, "d.metadata")


def now() -> int:
    """Return the time in microseconds UTC, as columns have it."""
    return to_micros(datetime.now(UTC))
