# Generated from ../_async/sqlite.py by tests/unasync.py: edit that one.
"""Vectors in a SQLite file, searched exactly in a copy that this process holds in memory and that is never stale.

Protocol: each write raises the collection's generation in its own transaction. A search reads, in one read
transaction, the generation, whatever vectors are new since the copy was taken, and the documents that it found; so it
sees one state of the file, whichever process wrote it. ``_lock`` is held while the copy is brought up to date, which is
published unless the transaction may still be rolled back.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from persistence._sync.compat import Lock, in_background
from persistence._sync.manager import DatabaseManager
from persistence._sync.sqlite import SQLiteDatabase
from persistence._sync.store import SQLStore
from persistence.config import Metric
from persistence.dialect import to_micros
from persistence.errors import CorruptError, MigrationError, NotFoundError
from persistence.queries import load_queries
from vectorstore import schema
from vectorstore._sync.store import VectorStore
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

    database: SQLiteDatabase
    generation: int
    removals: int
    matrix: VectorMatrix

    @property
    def last(self) -> int:
        """The highest position in it."""
        return int(self.matrix.positions[-1]) if self.matrix.size else 0


class SQLiteVectorStore(VectorStore, SQLStore):
    """A vector store on the SQLite connection ``name`` of a manager: durable, exact under every filter.

    Its process keeps the vectors in memory, four bytes a number. Several processes may write to the same file.
    """

    line = schema.LINE

    def __init__(
        self,
        manager: DatabaseManager,
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
        SQLStore.__init__(self, manager, name, tenant=tenant, migrate=migrate)
        VectorStore.__init__(
            self, collection=collection, dimensions=dimensions, metric=metric, embedder=embedder, model=model
        )
        self._sql = load_queries("vectorstore", "sqlite")
        self._own = {"tenant": tenant, "collection": self.collection}
        self._opened: SQLiteDatabase | None = None
        self._lock = Lock()
        self._copy: _Copy | None = None

    def _ready(self) -> SQLiteDatabase:
        """Return the connection, the collection compared with what this store was opened for."""
        database = self._manager.get_sqlite(self._name)
        if database is not self._opened:
            self._database()
            self._open(database)
            if not database.in_transaction:  # a transaction may still roll it back
                self._opened = database
        return database

    def _open(self, database: SQLiteDatabase) -> None:
        wanted = {"collection": self.collection}
        row = database.fetch_one(self._sql.collection, wanted)
        if row is None:
            if not self._migrate:
                raise MigrationError(
                    f"the collection {self.collection!r} was not made yet",
                    hint="open it once with migrate=True",
                    connection=self._name,
                )
            made = {**wanted, "dimensions": self.dimensions, "metric": self.metric, "model": self.model, "now": _now()}
            database.execute(self._sql.register, made)
            row = database.fetch_one(self._sql.collection, wanted) or made
        self._check_registered(row)
        if row["model"] is None and self.model is not None:
            database.execute(self._sql.adopt_model, {**wanted, "model": self.model})

    def _write(self, batch: list[CheckedDocument]) -> None:
        database = self._ready()
        now = _now()
        with database.transaction():
            ids = json.dumps([document.id for document in batch], ensure_ascii=False)
            removed = database.execute(self._sql.delete_vectors, {**self._own, "ids": ids})
            first = self._insert(database, [document.embedding for document in batch])
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
            database.execute_many(self._sql.upsert, rows)
            database.execute(self._sql.advance, {**self._own, "removed": int(removed > 0)})

    def _insert(self, database: SQLiteDatabase, vectors: list[Matrix]) -> int:
        """Store vectors and return the position of the first; the others follow."""
        first = int(database.fetch_value(self._sql.last_position)) + 1
        rows = [
            {"position": position, "embedding": vector.astype("<f4").tobytes()}
            for position, vector in enumerate(vectors, first)
        ]
        database.execute_many(self._sql.insert_vector, rows)
        return first

    def _read(self, ids: list[str], with_embeddings: bool) -> list[Document]:
        database = self._ready()
        sql = schema.fill(self._sql.get_many, _EMBEDDING if with_embeddings else {})
        rows = database.fetch_all(sql, {**self._own, "ids": json.dumps(ids, ensure_ascii=False)})
        return [
            Document(row["id"], row["content"], metadata_value(row["metadata"]), self._vector(row["embedding"]))
            for row in rows
        ]

    def _vector(self, stored: bytes | None) -> Matrix | None:
        return None if stored is None else np.frombuffer(stored, "<f4").astype(np.float32)

    def _change(self, id: str, content: str | None, metadata: str | None, embedding: Matrix | None) -> None:
        database = self._ready()
        given: dict[str, Any] = {"content": content, "metadata": metadata, "position": None, "now": _now()}
        with database.transaction():
            removed = 0
            if embedding is not None:
                ids = json.dumps([id], ensure_ascii=False)
                removed = database.execute(self._sql.delete_vectors, {**self._own, "ids": ids})
                given["position"] = self._insert(database, [embedding])
            if not database.execute(self._sql.update, {**self._own, "id": id, **given}):
                raise NotFoundError(
                    f"there is no document {id[:80]!r} in {self.collection!r}",
                    hint="store_documents() writes new ones",
                    connection=self._name,
                )
            database.execute(self._sql.advance, {**self._own, "removed": removed})

    def _remove(self, ids: list[str]) -> int:
        database = self._ready()
        wanted = {**self._own, "ids": json.dumps(ids, ensure_ascii=False)}
        with database.transaction():
            database.execute(self._sql.delete_vectors, wanted)
            removed = database.execute(self._sql.delete, wanted)
            if removed:
                database.execute(self._sql.advance, {**self._own, "removed": 1})
        return removed

    def _count(self, node: Node | None) -> int:
        database = self._ready()
        condition, parameters = _condition(node)
        sql = schema.fill(self._sql.count, {"filter": condition})
        return int(database.fetch_value(sql, self._own | parameters))

    def _nearest(
        self, query: Matrix, k: int, node: Node | None, with_embeddings: bool, exact: bool | None
    ) -> list[SearchResult]:
        database = self._ready()
        for anew in (False, False, True):
            with self._one_state(database) as own:
                matrix = self._current(database, publish=own is not None, anew=anew or own is None)
                if matrix is not None:
                    return self._search(database, matrix, query, k, node, with_embeddings)
        return []  # not reached: what is read anew is never too new

    def _one_state(self, database: SQLiteDatabase) -> AbstractContextManager[object]:
        """Return what holds one state of the file: a transaction of our own, or None for the one that we are in."""
        return nullcontext() if database.in_transaction else database.transaction(read_only=True)

    def _current(self, database: SQLiteDatabase, *, publish: bool, anew: bool) -> VectorMatrix | None:
        """Return the vectors as this transaction sees them.

        Where the copy is newer than that, read all of them ``anew`` (the file may have been set back), or return None
        to begin again with a newer transaction, which is cheaper.
        """
        state = database.fetch_one(self._sql.state, self._own) or {"generation": 0, "removals": 0}
        copy, generation = self._copy, state["generation"]
        if copy is not None and copy.database is database and copy.generation == generation:
            return copy.matrix
        with self._lock:
            copy = self._copy
            if copy is None or copy.database is not database or (copy.generation > generation and anew):
                copy = _Copy(database, 0, 0, VectorMatrix(self.dimensions))
            if copy.generation > generation:
                return None
            matrix = self._brought_up_to(database, copy, state["removals"])
            if publish:
                self._copy = _Copy(database, generation, state["removals"], matrix)
            return matrix

    def _search(
        self,
        database: SQLiteDatabase,
        matrix: VectorMatrix,
        query: Matrix,
        k: int,
        node: Node | None,
        with_embeddings: bool,
    ) -> list[SearchResult]:
        among = None if node is None else self._passing(database, node)
        search = partial(matrix.search, query, k, self.metric, among)
        size = matrix.size if among is None else len(among)
        positions, distances = search() if size * len(query) < INLINE_NUMBERS else in_background(search)
        if not len(positions):
            return []
        ranks = np.unique(distances, return_inverse=True)[1]
        nearest = json.dumps(list(zip(positions.tolist(), ranks.tolist(), strict=True)))
        sql = schema.fill(self._sql.found, _EMBEDDING if with_embeddings else {})
        rows = database.fetch_all(sql, {**self._own, "found": nearest, "k": k})
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

    def _brought_up_to(self, database: SQLiteDatabase, copy: _Copy, removals: int) -> VectorMatrix:
        matrix = copy.matrix
        if copy.removals != removals:
            rows = database.fetch_all(self._sql.positions, self._own)
            matrix = matrix.kept(_positions(rows))
        after = copy.last
        while True:
            page = {**self._own, "after": after, "limit": PAGE_ROWS}
            rows = database.fetch_all(self._sql.vectors_after, page)
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

    def _passing(self, database: SQLiteDatabase, node: Node) -> Positions:
        """Return the positions of the documents that pass a filter."""
        condition, parameters = _condition(node)
        sql = schema.fill(self._sql.positions_where, {"filter": condition})
        return _positions(database.fetch_all(sql, self._own | parameters))


def _positions(rows: list[dict[str, Any]]) -> Positions:
    return np.fromiter((row["position"] for row in rows), np.int64, len(rows))


def _condition(node: Node | None) -> tuple[str, dict[str, Any]]:
    return ("1", {}) if node is None else to_sqlite(node, "d.metadata")


def _now() -> int:
    return to_micros(datetime.now(UTC))
