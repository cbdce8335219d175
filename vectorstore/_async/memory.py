"""Vectors in this process's memory: for tests and small sets that can be made again; exact, and gone at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from persistence._async.compat import Mutex
from persistence.config import Metric
from persistence.errors import NotFoundError
from vectorstore._async.store import AsyncVectorStore
from vectorstore.distance import Matrix, Positions, VectorMatrix
from vectorstore.filters import Node, matches
from vectorstore.records import CheckedDocument, Document, Embedder, SearchResult, metadata_value


@dataclass(slots=True)
class _Entry:
    """A document and where its vector is; never changed, only replaced."""

    position: int
    document: CheckedDocument
    metadata: Mapping[str, Any]


class AsyncMemoryVectorStore(AsyncVectorStore):
    """A vector store in memory; any task or thread may use it at any time.

    Protocol: ``_mutex`` guards every field. Vectors that are gone leave the matrix at the next search, so that many
    changes in a row copy it once.
    """

    def __init__(
        self,
        *,
        dimensions: int,
        collection: str = "documents",
        metric: Metric = "cosine",
        embedder: Embedder | None = None,
        model: str | None = None,
    ) -> None:
        super().__init__(collection=collection, dimensions=dimensions, metric=metric, embedder=embedder, model=model)
        self._mutex = Mutex()
        self._entries: dict[str, _Entry] = {}
        self._by_position: dict[int, _Entry] = {}
        self._next = 0
        self._matrix = VectorMatrix(dimensions)
        self._has_gone = False

    async def _write(self, batch: list[CheckedDocument]) -> None:
        with self._mutex:
            self._forget([document.id for document in batch])
            self._put(batch)

    def _put(self, batch: list[CheckedDocument]) -> None:
        positions = np.arange(self._next, self._next + len(batch))
        self._next += len(batch)
        self._matrix = self._matrix.appended(positions, np.stack([document.embedding for document in batch]))
        for position, document in zip(positions.tolist(), batch, strict=True):
            entry = _Entry(position, document, metadata_value(document.metadata))
            self._entries[document.id] = self._by_position[position] = entry

    def _forget(self, ids: list[str]) -> int:
        gone = [self._entries.pop(id) for id in ids if id in self._entries]
        for entry in gone:
            del self._by_position[entry.position]
        self._has_gone = self._has_gone or bool(gone)
        return len(gone)

    async def _read(self, ids: list[str], with_embeddings: bool) -> list[Document]:
        with self._mutex:
            found = [self._entries[id].document for id in ids if id in self._entries]
        return [
            Document(
                document.id,
                document.content,
                metadata_value(document.metadata),
                document.embedding.copy() if with_embeddings else None,
            )
            for document in found
        ]

    async def _change(self, id: str, content: str | None, metadata: str | None, embedding: Matrix | None) -> None:
        with self._mutex:
            if id not in self._entries:
                raise NotFoundError(f"there is no document {id[:80]!r} in {self.collection!r}")
            old = self._entries[id].document
            new = CheckedDocument(
                id,
                old.content if content is None else content,
                old.metadata if metadata is None else metadata,
                old.embedding if embedding is None else embedding,
            )
            self._forget([id])
            self._put([new])

    async def _remove(self, ids: list[str]) -> int:
        with self._mutex:
            return self._forget(ids)

    async def _count(self, node: Node | None) -> int:
        with self._mutex:
            return len(self._entries) if node is None else len(_passing(self._entries.values(), node))

    async def _nearest(
        self, query: Matrix, k: int, node: Node | None, with_embeddings: bool, exact: bool | None
    ) -> list[SearchResult]:
        with self._mutex:
            if self._has_gone:
                self._matrix = self._matrix.kept(np.fromiter(self._by_position, np.int64, len(self._by_position)))
                self._has_gone = False
            among = None if node is None else _passing(self._entries.values(), node)
            positions, distances = self._matrix.search(query, k, self.metric, among)
            documents = [self._by_position[position].document for position in positions.tolist()]
        found = sorted(zip(distances.tolist(), documents, strict=True), key=lambda each: (each[0], each[1].id))
        return [
            self._result(
                document.id,
                document.content,
                document.metadata,
                distance,
                document.embedding.copy() if with_embeddings else None,
            )
            for distance, document in found[:k]
        ]


def _passing(entries: Iterable[_Entry], node: Node) -> Positions:
    """Return the positions of the documents that pass a filter."""
    return np.array([entry.position for entry in entries if matches(node, entry.metadata)], np.int64)
