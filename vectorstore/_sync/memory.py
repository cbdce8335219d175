# Generated from ../_async/memory.py by tests/unasync.py: edit that one.
"""Vectors in this process's memory: for tests and small sets that can be made again; exact, and gone at its end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import numpy as np

from persistence._sync.compat import Mutex, in_background
from persistence.config import Metric
from persistence.dialect import from_micros, to_micros
from vectorstore._sync.store import VectorStore
from vectorstore.distance import Positions, score
from vectorstore.filters import Node, matches
from vectorstore.kept import KeptMetadata
from vectorstore.matrix import NEVER, VectorMatrix
from vectorstore.records import (
    Change,
    CheckedDocument,
    Document,
    Embedder,
    Explanation,
    Patch,
    SearchResult,
    SearchResults,
    metadata_value,
)
from vectorstore.requests import SearchRequest
from vectorstore.text import TextIndex, check_stemmed

INLINE_NUMBERS = 200_000
"""Up to so many numbers are compared where we are: less than a change of threads costs."""


@dataclass(slots=True)
class _Entry:
    """A document and where its vector is; never changed, only replaced. Times are microseconds UTC."""

    position: int
    document: CheckedDocument
    metadata: KeptMetadata
    end: int
    created: int
    updated: int


@dataclass(slots=True)
class _Space:
    """The documents of one namespace."""

    matrix: VectorMatrix
    words: TextIndex | None
    entries: dict[str, _Entry] = field(default_factory=dict)
    by_position: dict[int, _Entry] = field(default_factory=dict)
    next: int = 0
    has_gone: bool = False

    def put(self, batch: list[CheckedDocument], now: int, created: Mapping[str, int]) -> None:
        """Add documents that are not there."""
        if not batch:
            return
        positions = np.arange(self.next, self.next + len(batch))
        self.next += len(batch)
        ends = [NEVER if each.expires_at is None else max(1, to_micros(each.expires_at)) for each in batch]
        vectors = np.stack([document.embedding for document in batch])
        self.matrix = self.matrix.appended(positions, vectors, np.array(ends, np.int64))
        for position, document, end in zip(positions.tolist(), batch, ends, strict=True):
            metadata = KeptMetadata(document.metadata)
            entry = _Entry(position, document, metadata, end, created.get(document.id, now), now)
            self.entries[document.id] = self.by_position[position] = entry
            if self.words is not None:
                self.words.add(position, document.content)

    def forget(self, ids: Iterable[str]) -> None:
        """Take documents out; their vectors leave the matrix at the next search, so many changes copy it once."""
        for entry in [self.entries.pop(id) for id in ids if id in self.entries]:
            del self.by_position[entry.position]
            self.has_gone = True
            if self.words is not None:
                self.words.remove(entry.position)

    def settled(self) -> VectorMatrix:
        """Return the matrix without what is gone."""
        if self.has_gone:
            self.matrix = self.matrix.kept(np.fromiter(self.by_position, np.int64, len(self.by_position)))
            self.has_gone = False
        return self.matrix

    def there(self, ids: Iterable[str], now: int) -> list[_Entry]:
        """Return the documents of these ids that have not expired."""
        found = (self.entries.get(id) for id in ids)
        return [entry for entry in found if entry is not None and entry.end > now]

    def passing(self, node: Node | None, now: int) -> list[_Entry]:
        """Return the documents that pass a filter and have not expired, by their positions."""
        return [
            entry
            for entry in self.by_position.values()
            if entry.end > now and (node is None or matches(node, entry.metadata.value))
        ]


class MemoryVectorStore(VectorStore):
    """A vector store in memory; any task or thread may use it at any time.

    ``text_search`` is ``"english"`` or ``"simple"``. Protocol: ``_mutex`` guards every field; a matrix never changes,
    and is searched outside.
    """

    def __init__(
        self,
        *,
        dimensions: int | None = None,
        collection: str = "documents",
        namespace: str = "default",
        metric: Metric = "cosine",
        embedder: Embedder | None = None,
        model: str | None = None,
        text_search: str | None = None,
        keys: Mapping[str, type] | None = None,
    ) -> None:
        super().__init__(
            collection=collection,
            dimensions=dimensions,
            metric=metric,
            namespace=namespace,
            embedder=embedder,
            model=model,
            text_search=text_search,
            keys=keys,
        )
        check_stemmed(self.text_search)
        self._mutex = Mutex()
        self._spaces: defaultdict[str, _Space] = defaultdict(self._new_space)

    def _new_space(self) -> _Space:
        words = None if self.text_search is None else TextIndex(self.text_search)
        return _Space(VectorMatrix(self.dimensions, self.metric), words)

    @property
    def _space(self) -> _Space:
        return self._spaces[self.namespace]

    def _write(self, batch: list[CheckedDocument]) -> None:
        with self._mutex:
            self._put(batch, [])

    def _put(self, batch: list[CheckedDocument], others: list[str]) -> None:
        """Put documents in the place of what has their ids, and take others out."""
        now = _now()
        ids = [document.id for document in batch]
        created = {entry.document.id: entry.created for entry in self._space.there(ids, now)}
        self._space.forget([*ids, *others])
        self._space.put(batch, now, created)

    def _replace(self, source: str, batches: Iterator[list[CheckedDocument]]) -> int:
        found = {document.id: document for batch in batches for document in batch}
        with self._mutex:
            entries = self._space.entries.values()
            others = [entry.document.id for entry in entries if entry.document.source == source]
            self._put([found[id] for id in sorted(found)], others)
        return len(found)

    def _read(self, ids: list[str], with_embeddings: bool) -> list[Document]:
        with self._mutex:
            found = self._space.there(ids, _now())
        return [_document(entry, with_embeddings) for entry in found]

    def _page(self, after: str | None, limit: int, node: Node | None, with_embeddings: bool) -> list[Document]:
        with self._mutex:
            found = {entry.document.id: entry for entry in self._space.passing(node, _now())}
        page = sorted(id for id in found if after is None or id > after)[:limit]
        return [_document(found[id], with_embeddings) for id in page]

    def _change(self, id: str, change: Change) -> bool:
        with self._mutex:
            now = _now()
            there = self._space.there([id], now)
            if not there:
                return False
            old = there[0].document
            expiry = old.expires_at if change.expires_at is None else change.expires_at
            new = CheckedDocument(
                id,
                old.content if change.content is None else change.content,
                old.metadata if change.metadata is None else change.metadata,
                old.embedding if change.embedding is None else change.embedding,
                old.source if change.source is None else change.source,
                None if change.never else expiry,
            )
            self._exchange(there[0], new, now)
            return True

    def _exchange(self, entry: _Entry, new: CheckedDocument, now: int) -> None:
        self._space.forget([new.id])
        self._space.put([new], now, {new.id: entry.created})

    def _merge(self, id: str, patch: Patch) -> bool:
        with self._mutex:
            now = _now()
            for entry in self._space.there([id], now):
                merged = patch.merged(entry.document.metadata)
                self._exchange(entry, entry.document._replace(metadata=merged), now)
                return True
            return False

    def _remove(self, ids: list[str]) -> int:
        with self._mutex:
            return self._take_out(self._space, self._space.there(ids, _now()))

    def _remove_where(self, node: Node) -> int:
        with self._mutex:
            return self._take_out(self._space, self._space.passing(node, _now()))

    def _purge(self, limit: int) -> int:
        with self._mutex:
            now, left = _now(), limit
            for space in self._spaces.values():
                expired = sorted((entry for entry in space.entries.values() if entry.end <= now), key=lambda e: e.end)
                left -= self._take_out(space, expired[:left])
            return limit - left

    def _take_out(self, space: _Space, entries: list[_Entry]) -> int:
        space.forget([entry.document.id for entry in entries])
        return len(entries)

    def _count(self, node: Node | None) -> int:
        with self._mutex:
            return len(self._space.passing(node, _now()))

    def _nearest(self, request: SearchRequest) -> SearchResults:
        return (self._searched(request))[0]

    def _searched(self, request: SearchRequest) -> tuple[SearchResults, int]:
        """Return the results, and how many vectors passed the filter."""
        if request.vector is None:
            return SearchResults(), 0
        while True:
            with self._mutex:
                space, now = self._spaces[request.namespace], _now()
                matrix = space.settled()
                among = None if request.node is None else _positions(space.passing(request.node, now))
            search = partial(matrix.search, request.vector, request.k, now, among)
            inline = matrix.size * self.dimensions < INLINE_NUMBERS
            positions, distances, compared = search() if inline else in_background(search)
            pairs = list(zip(positions.tolist(), distances.tolist(), strict=True))
            with self._mutex:
                found = [(space.by_position.get(position), distance) for position, distance in pairs]
            there = [(entry, distance) for entry, distance in found if entry is not None]
            if len(there) == len(found):  # else some were taken out meanwhile, and others have their place
                return self._results(there, request), compared

    def _results(self, found: list[tuple[_Entry, float]], request: SearchRequest) -> SearchResults:
        found.sort(key=lambda each: (each[1], each[0].document.id))
        return SearchResults(
            SearchResult(
                entry.document.id,
                entry.document.content,
                entry.metadata.fresh(),
                score(distance, self.metric),
                distance,
                entry.document.embedding.copy() if request.with_embeddings else None,
            )
            for entry, distance in found[request.offset : request.k]
        )

    def _matching(self, request: SearchRequest) -> SearchResults:
        with self._mutex:
            space = self._spaces[request.namespace]
            if space.words is None:
                raise self._no_text_search()
            now, node = _now(), request.node
            scored = [
                (score, space.by_position[position]) for position, score in space.words.search(request.text or "")
            ]
        found = sorted(
            (
                (score, entry.document)
                for score, entry in scored
                if entry.end > now and (node is None or matches(node, entry.metadata.value))
            ),
            key=lambda each: (-each[0], each[1].id),
        )
        return SearchResults(
            [
                SearchResult(
                    document.id,
                    document.content,
                    metadata_value(document.metadata),
                    score,
                    None,
                    document.embedding.copy() if request.with_embeddings else None,
                )
                for score, document in found[request.offset : request.k]
            ],
            "text",
        )

    def _explain(self, request: SearchRequest) -> Explanation:
        start = time.perf_counter()
        if request.vector is None:
            self._matching(request)
            return Explanation(plan="text", seconds=time.perf_counter() - start, detail="bm25 in memory")
        rows = (self._searched(request))[1]
        seconds = time.perf_counter() - start
        return Explanation(plan="exact", rows=rows, compared=rows, seconds=seconds, detail="vectors in memory")


def _document(entry: _Entry, with_embedding: bool) -> Document:
    document = entry.document
    return Document(
        document.id,
        document.content,
        entry.metadata.fresh(),
        document.embedding.copy() if with_embedding else None,
        source=document.source,
        expires_at=None if document.expires_at is None else document.expires_at.astimezone(UTC),
        created_at=from_micros(entry.created),
        updated_at=from_micros(entry.updated),
    )


def _positions(entries: list[_Entry]) -> Positions:
    return np.array([entry.position for entry in entries], np.int64)


def _now() -> int:
    return to_micros(datetime.now(UTC))
