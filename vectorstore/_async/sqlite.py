"""Vectors in a SQLite file, searched exactly in a copy that this process holds in memory and that is never stale.

Protocol: each write raises the collection's generation in its own transaction. A search reads, in one read
transaction, the generation, whatever vectors are new since the copy was taken, and the documents that it found; so it
sees one state of the file, whichever process wrote it. ``_lock`` is held while the copy is brought up to date, which is
published unless the transaction may still be rolled back.
"""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from persistence._async.compat import Lock, in_background
from persistence._async.manager import AsyncDatabaseManager
from persistence._async.sqlite import AsyncSQLiteDatabase
from persistence._async.store import AsyncSQLStore
from persistence.config import Metric
from persistence.dialect import to_micros
from persistence.errors import CorruptError, MigrationError, NotFoundError
from persistence.queries import load_queries
from vectorstore import schema
from vectorstore._async.store import AsyncVectorStore
from vectorstore.distance import Matrix, Positions, VectorMatrix
from vectorstore.filter_sql import to_sqlite
from vectorstore.filters import Node
from vectorstore.records import CheckedDocument, Document, Embedder, SearchResult, metadata_value

PAGE_ROWS = 5000
"""How many vectors are read at once, so that a large collection is no single long statement."""
INLINE_NUMBERS = 200_000
"""Up to so many numbers are compared where we are: less than a change of threads costs."""
_EMBEDDING = {"embedding": "(SELECT v.embedding FROM holdfast_vectors AS v WHERE v.position = d.position)"}


@dataclass(frozen=True, slots=True)
class _Copy:
    """The vectors of the collection as of one generation of one database."""

    database: AsyncSQLiteDatabase
    generation: int
    removals: int
    matrix: VectorMatrix

    @property
    def last(self) -> int:
        """The highest position in it."""
        return int(self.matrix.positions[-1]) if self.matrix.size else 0


class AsyncSQLiteVectorStore(AsyncVectorStore, AsyncSQLStore):
    """A vector store on the SQLite connection ``name`` of a manager: durable, exact under every filter.

    Its process keeps the vectors in memory, four bytes a number. Several processes may write to the same file.
    """

    line = schema.LINE

    def __init__(
        self,
        manager: AsyncDatabaseManager,
        name: str,
        *,
        dimensions: int,
        collection: str = "documents",
        tenant: str = "default",
        metric: Metric = "cosine",
        embedder: Embedder | None = None,
        model: str | None = None,
        migrate: bool = True,
    ) -> None:
        manager.get_sqlite(name)
        AsyncSQLStore.__init__(self, manager, name, tenant=tenant, migrate=migrate)
        AsyncVectorStore.__init__(
            self, collection=collection, dimensions=dimensions, metric=metric, embedder=embedder, model=model
        )
        self._sql = load_queries("vectorstore", "sqlite")
        self._own = {"tenant": tenant, "collection": self.collection}
        self._opened: AsyncSQLiteDatabase | None = None
        self._lock = Lock()
        self._copy: _Copy | None = None

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
                raise MigrationError(
                    f"the collection {self.collection!r} was not made yet",
                    hint="open it once with migrate=True",
                    connection=self._name,
                )
            made = {**wanted, "dimensions": self.dimensions, "metric": self.metric, "model": self.model, "now": _now()}
            await database.execute(self._sql.register, made)
            row = await database.fetch_one(self._sql.collection, wanted) or made
        self._check_registered(row)
        if row["model"] is None and self.model is not None:
            await database.execute(self._sql.adopt_model, {**wanted, "model": self.model})

    async def _write(self, batch: list[CheckedDocument]) -> None:
        database = await self._ready()
        now = _now()
        async with database.transaction():
            ids = json.dumps([document.id for document in batch], ensure_ascii=False)
            removed = await database.execute(self._sql.delete_vectors, {**self._own, "ids": ids})
            first = await self._insert(database, [document.embedding for document in batch])
            rows = [
                {
                    **self._own,
                    "id": document.id,
                    "position": position,
                    "content": document.content,
                    "metadata": document.metadata,
                    "now": now,
                }
                for position, document in enumerate(batch, first)
            ]
            await database.execute_many(self._sql.upsert, rows)
            await database.execute(self._sql.advance, {**self._own, "removed": int(removed > 0)})

    async def _insert(self, database: AsyncSQLiteDatabase, vectors: list[Matrix]) -> int:
        """Store vectors and return the position of the first; the others follow."""
        first = int(await database.fetch_value(self._sql.last_position)) + 1
        rows = [
            {"position": position, "embedding": vector.astype("<f4").tobytes()}
            for position, vector in enumerate(vectors, first)
        ]
        await database.execute_many(self._sql.insert_vector, rows)
        return first

    async def _read(self, ids: list[str], with_embeddings: bool) -> list[Document]:
        database = await self._ready()
        sql = schema.fill(self._sql.get_many, _EMBEDDING if with_embeddings else {})
        rows = await database.fetch_all(sql, {**self._own, "ids": json.dumps(ids, ensure_ascii=False)})
        return [
            Document(row["id"], row["content"], metadata_value(row["metadata"]), self._vector(row["embedding"]))
            for row in rows
        ]

    def _vector(self, stored: bytes | None) -> Matrix | None:
        return None if stored is None else np.frombuffer(stored, "<f4").astype(np.float32)

    async def _change(self, id: str, content: str | None, metadata: str | None, embedding: Matrix | None) -> None:
        database = await self._ready()
        given: dict[str, Any] = {"content": content, "metadata": metadata, "position": None, "now": _now()}
        async with database.transaction():
            removed = 0
            if embedding is not None:
                ids = json.dumps([id], ensure_ascii=False)
                removed = await database.execute(self._sql.delete_vectors, {**self._own, "ids": ids})
                given["position"] = await self._insert(database, [embedding])
            if not await database.execute(self._sql.update, {**self._own, "id": id, **given}):
                raise NotFoundError(
                    f"there is no document {id[:80]!r} in {self.collection!r}",
                    hint="store_documents() writes new ones",
                    connection=self._name,
                )
            await database.execute(self._sql.advance, {**self._own, "removed": removed})

    async def _remove(self, ids: list[str]) -> int:
        database = await self._ready()
        wanted = {**self._own, "ids": json.dumps(ids, ensure_ascii=False)}
        async with database.transaction():
            await database.execute(self._sql.delete_vectors, wanted)
            removed = await database.execute(self._sql.delete, wanted)
            if removed:
                await database.execute(self._sql.advance, {**self._own, "removed": 1})
        return removed

    async def _count(self, node: Node | None) -> int:
        database = await self._ready()
        condition, parameters = _condition(node)
        sql = schema.fill(self._sql.count, {"filter": condition})
        return int(await database.fetch_value(sql, self._own | parameters))

    async def _nearest(
        self, query: Matrix, k: int, node: Node | None, with_embeddings: bool, exact: bool | None
    ) -> list[SearchResult]:
        database = await self._ready()
        for anew in (False, False, True):
            async with self._one_state(database) as own:
                matrix = await self._current(database, publish=own is not None, anew=anew or own is None)
                if matrix is not None:
                    return await self._search(database, matrix, query, k, node, with_embeddings)
        return []  # not reached: what is read anew is never too new

    def _one_state(self, database: AsyncSQLiteDatabase) -> AbstractAsyncContextManager[object]:
        """Return what holds one state of the file: a transaction of our own, or None for the one that we are in."""
        return nullcontext() if database.in_transaction else database.transaction(read_only=True)

    async def _current(self, database: AsyncSQLiteDatabase, *, publish: bool, anew: bool) -> VectorMatrix | None:
        """Return the vectors as this transaction sees them.

        Where the copy is newer than that, read all of them ``anew`` (the file may have been set back), or return None
        to begin again with a newer transaction, which is cheaper.
        """
        state = await database.fetch_one(self._sql.state, self._own) or {"generation": 0, "removals": 0}
        copy, generation = self._copy, state["generation"]
        if copy is not None and copy.database is database and copy.generation == generation:
            return copy.matrix
        async with self._lock:
            copy = self._copy
            if copy is None or copy.database is not database or (copy.generation > generation and anew):
                copy = _Copy(database, 0, 0, VectorMatrix(self.dimensions))
            if copy.generation > generation:
                return None
            matrix = await self._brought_up_to(database, copy, state["removals"])
            if publish:
                self._copy = _Copy(database, generation, state["removals"], matrix)
            return matrix

    async def _search(
        self,
        database: AsyncSQLiteDatabase,
        matrix: VectorMatrix,
        query: Matrix,
        k: int,
        node: Node | None,
        with_embeddings: bool,
    ) -> list[SearchResult]:
        among = None if node is None else await self._passing(database, node)
        search = partial(matrix.search, query, k, self.metric, among)
        size = matrix.size if among is None else len(among)
        positions, distances = search() if size * len(query) < INLINE_NUMBERS else await in_background(search)
        if not len(positions):
            return []
        ranks = np.unique(distances, return_inverse=True)[1]
        nearest = json.dumps(list(zip(positions.tolist(), ranks.tolist(), strict=True)))
        sql = schema.fill(self._sql.found, _EMBEDDING if with_embeddings else {})
        rows = await database.fetch_all(sql, {**self._own, "found": nearest, "k": k})
        distance = dict(zip(positions.tolist(), distances.tolist(), strict=True))
        return [
            self._result(
                row["id"],
                row["content"],
                row["metadata"],
                distance[row["position"]],
                self._vector(row["embedding"]),
            )
            for row in rows
        ]

    async def _brought_up_to(self, database: AsyncSQLiteDatabase, copy: _Copy, removals: int) -> VectorMatrix:
        matrix = copy.matrix
        if copy.removals != removals:
            rows = await database.fetch_all(self._sql.positions, self._own)
            matrix = matrix.kept(_positions(rows))
        after = copy.last
        while True:
            page = {**self._own, "after": after, "limit": PAGE_ROWS}
            rows = await database.fetch_all(self._sql.vectors_after, page)
            if rows:
                after = rows[-1]["position"]
                matrix = matrix.appended(_positions(rows), self._vectors([row["embedding"] for row in rows]))
            if len(rows) < PAGE_ROWS:
                return matrix

    def _vectors(self, stored: list[bytes]) -> Matrix:
        if {len(each) for each in stored} != {4 * self.dimensions}:
            raise CorruptError(
                f"a vector of {self.collection!r} has not {self.dimensions} numbers",
                hint="the file was changed by other means: restore a backup",
                connection=self._name,
            )
        found = np.frombuffer(b"".join(stored), "<f4").astype(np.float32)
        return found.reshape(len(stored), self.dimensions)

    async def _passing(self, database: AsyncSQLiteDatabase, node: Node) -> Positions:
        """Return the positions of the documents that pass a filter."""
        condition, parameters = _condition(node)
        sql = schema.fill(self._sql.positions_where, {"filter": condition})
        return _positions(await database.fetch_all(sql, self._own | parameters))


def _positions(rows: list[dict[str, Any]]) -> Positions:
    return np.fromiter((row["position"] for row in rows), np.int64, len(rows))


def _condition(node: Node | None) -> tuple[str, dict[str, Any]]:
    return ("1", {}) if node is None else to_sqlite(node, "d.metadata")


def _now() -> int:
    return to_micros(datetime.now(UTC))
