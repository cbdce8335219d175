# Generated from ../_async/redis.py by tests/unasync.py: edit that one.
"""Documents and vectors in Redis 8, in its vector sets: one script a call, all keys of a collection in one slot.

A search takes candidates from the vector set and computes their distances anew from the vectors as they were stored, so
scores and their order are those of the other stores. A filter reads the metadata of ever more candidates, until enough
of them pass or none are left. Redis is a fast copy of what can be made again: how durable a write is, its
``appendfsync`` says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import numpy as np

from persistence._sync.manager import DatabaseManager, named_connection
from persistence._sync.redis import RedisConnection
from persistence.dialect import from_micros, to_micros
from persistence.errors import CapabilityError, ConflictError
from persistence.validation import check_tenant, shown
from vectorstore._sync.store import VectorStore
from vectorstore.distance import Matrix, distances
from vectorstore.filters import Node, matches
from vectorstore.records import (
    Change,
    CheckedDocument,
    Document,
    Embedder,
    Explanation,
    Patch,
    SearchResults,
    metadata_value,
)
from vectorstore.redis_scripts import READS, script
from vectorstore.requests import SearchRequest

EXACT_ROWS = 2000
"""Up to so many vectors are all compared: the server does that as quickly as it walks its graph."""
PAGE_ROWS = 1000
MERGES = 100
"""So many times a patch is merged anew when others were faster."""
SEARCHES = 10
"""So many times a search is made anew when what it found has gone, or doesn't pass any more, before it was read."""
MIN_CANDIDATES = 100
_SAME = 1e-6
"""Scores of the server nearer than this may be those of equal vectors."""


class RedisVectorStore(VectorStore):
    """A vector store on the Redis connection ``name`` of a manager, by cosine.

    It needs the vector sets of Redis 8. It searches no words, joins no transaction, and reads a filter's metadata here.

    Raises:
        CapabilityError: a text search is asked for; each call raises it on a server without vector sets.
    """

    @named_connection
    def __init__(
        self,
        manager: DatabaseManager,
        name: str,
        *,
        dimensions: int | None = None,
        collection: str = "documents",
        tenant: str = "default",
        namespace: str = "default",
        embedder: Embedder | None = None,
        model: str | None = None,
        text_search: str | None = None,
        keys: Mapping[str, type] | None = None,
    ) -> None:
        super().__init__(
            collection=collection,
            dimensions=dimensions,
            metric="cosine",
            namespace=namespace,
            embedder=embedder,
            model=model,
            text_search=text_search,
            keys=keys,
        )
        if self.text_search is not None:
            raise CapabilityError("Redis' vector sets search no words", hint="leave out text_search", connection=name)
        manager.get_redis(name)
        self._manager = manager
        self._name = name
        self._tenant = check_tenant(tenant)
        self._opened: RedisConnection | None = None

    def _places(self, namespace: str) -> list[str]:
        collection = f"holdfast:{{vectors:{quote(self._tenant, safe='')}:{self.collection}}}"
        own = f"{collection}:{quote(namespace, safe='')}"
        names = ("vectors", "contents", "metadata", "embeddings", "times", "sources", "ends", "ids")
        return [*(f"{own}:{name}" for name in names), f"{collection}::namespaces", f"{collection}::made"]

    def _run(self, name: str, namespace: str, *arguments: object) -> Any:
        """Return the answer of a script, on a collection that is made for what this store was opened for."""
        connection = self._manager.get_redis(self._name)
        if connection is not self._opened:
            self._open(connection)
            self._opened = connection
        return self._send(connection, name, namespace, *arguments)

    def _open(self, connection: RedisConnection) -> None:
        found = self._send(connection, "open", self.namespace, self.dimensions, self.metric, self.model or "")
        if not found:
            raise CapabilityError(
                f"Redis {connection.server_version} has no vector sets",
                hint="Redis 8 has them; or use a SQLite or PostgreSQL store",
                connection=self._name,
            )
        dimensions, metric, model = found
        row = {"dimensions": int(dimensions), "metric": metric.decode(), "model": model and model.decode()}
        self._check_registered(row)

    def _send(self, connection: RedisConnection, name: str, namespace: str, *arguments: object) -> Any:
        given = (to_micros(datetime.now(UTC)), *arguments)
        return connection.run_script(script(name), self._places(namespace), given, reads=name in READS)

    def _write(self, batch: list[CheckedDocument]) -> None:
        self._put(batch, "")

    def _put(self, batch: list[CheckedDocument], source: str) -> None:
        given: list[object] = []
        for each in batch:
            stop = "-" if each.expires_at is None else to_micros(each.expires_at)
            given += [each.id, each.content, each.metadata, _packed(each.embedding), each.source or "", stop]
        self._run("write", self.namespace, self.namespace, source, *given)

    def _replace(self, source: str, batches: Iterator[list[CheckedDocument]]) -> int:
        found = {document.id: document for batch in batches for document in batch}
        self._put(list(found.values()), source)
        return len(found)

    def _read(self, ids: list[str], with_embeddings: bool) -> list[Document]:
        rows = self._run("read", self.namespace, int(with_embeddings), *ids)
        return [_document(row) for row in rows]

    def _page(self, after: str | None, limit: int, node: Node | None, with_embeddings: bool) -> list[Document]:
        found: list[Document] = []
        last = after or ""
        while True:
            size = max(limit, PAGE_ROWS) if node is not None else limit
            rows = self._run("page", self.namespace, int(with_embeddings), last, size)
            documents = [_document(row) for row in rows if len(row) > 1]
            found += [each for each in documents if node is None or matches(node, each.metadata)]
            if len(found) >= limit or len(rows) < size:
                return found[:limit]
            last = rows[-1][0].decode()

    def _change(self, id: str, change: Change) -> bool:
        stop = "-" if change.expires_at is None else to_micros(change.expires_at)
        embedding = None if change.embedding is None else _packed(change.embedding)
        given: list[object] = []
        for value in (change.content, change.metadata, embedding, change.source):
            given += [int(value is not None), "" if value is None else value]
        given += [int(change.never or change.expires_at is not None), stop]
        return bool(self._run("change", self.namespace, id, *given))

    def _merge(self, id: str, patch: Patch) -> bool:
        """Merge here, which keeps numbers as they are, into what nobody changed meanwhile."""
        there, merged = "", ""
        for _ in range(MERGES):
            found = self._run("merge", self.namespace, id, there, merged)
            if isinstance(found, int):
                return found == 1
            there = found.decode()
            merged = patch.merged(there)
        raise ConflictError(
            f"document {shown(id)} was changed {MERGES} times while it was patched",
            hint="run it again",
            operation="patch_document",
            connection=self._name,
        )

    def _remove(self, ids: list[str]) -> int:
        return int(self._run("remove", self.namespace, *ids))

    def _remove_where(self, node: Node) -> int:
        removed, after = 0, None
        while page := self._page(after, PAGE_ROWS, node, False):
            after = page[-1].id
            removed += self._remove([each.id for each in page])
        return removed

    def _purge(self, limit: int) -> int:
        self._run("count", self.namespace)
        client = self._manager.get_redis(self._name).client
        known: Any = client.execute_command("SMEMBERS", self._places("")[8])
        names = sorted(name.decode() for name in known)
        left = limit
        for name in names:
            if left > 0:
                left -= int(self._run("purge", name, left))
        return limit - left

    def _count(self, node: Node | None) -> int:
        if node is None:
            return int(self._run("count", self.namespace))
        count, after = 0, None
        while page := self._page(after, PAGE_ROWS, node, False):
            count, after = count + len(page), page[-1].id
        return count

    def _nearest(self, request: SearchRequest) -> SearchResults:
        return (self._searched(request))[0]

    def _searched(self, request: SearchRequest) -> tuple[SearchResults, int]:
        """Return the results, and how many candidates were looked at."""
        if request.vector is None:
            return SearchResults(), 0
        for _ in range(SEARCHES):
            ids, exact, looked_at = self._candidates(request, request.vector)
            rows = self._run("read", request.namespace, 1, *ids) if ids else []
            rows = [row for row in rows if self._passes(row, request.node)]
            if len(rows) == len(ids):
                break
        results = SearchResults(plan="exact" if exact else "index")
        vectors = np.array([np.frombuffer(row[5], "<f4") for row in rows], np.float32)
        found = distances(vectors, request.vector, self.metric).tolist() if rows else []
        order = sorted(zip(found, rows, strict=True), key=lambda each: (each[0], each[1][0]))
        for distance, row in order[request.offset : request.k]:
            embedding = np.frombuffer(row[5], "<f4").astype(np.float32) if request.with_embeddings else None
            results.append(self._result(row[0].decode(), row[1].decode(), row[2].decode(), distance, embedding))
        return results, looked_at

    @staticmethod
    def _passes(row: list[Any], node: Node | None) -> bool:
        """Tell whether a row, with its metadata in third place, passes a filter."""
        return node is None or matches(node, metadata_value(row[2].decode()))

    def _candidates(self, request: SearchRequest, vector: Matrix) -> tuple[list[str], bool, int]:
        """Return the ids among which the k nearest are that pass the filter, and all that tie with the last."""
        wanted = max(MIN_CANDIDATES, 2 * request.k)
        exact = request.exact
        while True:
            given = (_packed(vector), wanted, int(exact), EXACT_ROWS)
            there, was_exact, rows = self._run("nearest", request.namespace, *given)
            passing = [(row[0].decode(), float(row[1])) for row in rows if self._passes(row, request.node)]
            all_seen = wanted >= there
            if len(passing) > request.k:
                last = passing[request.k - 1][1]
                if all_seen or float(rows[-1][1]) < last - _SAME:
                    near = [id for id, score in passing if score >= last - _SAME]
                    return near, bool(was_exact), len(rows)
            elif all_seen:
                return [id for id, _ in passing], bool(was_exact), len(rows)
            wanted *= 4

    def _explain(self, request: SearchRequest) -> Explanation:
        start = time.perf_counter()
        results, looked_at = self._searched(request)
        seconds = time.perf_counter() - start
        return Explanation(plan=results.plan, compared=looked_at, seconds=seconds, detail="vector set")


def _packed(vector: Matrix) -> bytes:
    return vector.astype("<f4").tobytes()


def _document(row: list[Any]) -> Document:
    id, content, metadata, source, times, embedding = row
    made, changed, stop = times.decode().split()
    return Document(
        id.decode(),
        content.decode(),
        metadata_value(metadata.decode()),
        None if embedding is None else np.frombuffer(embedding, "<f4").astype(np.float32),
        source=source and source.decode(),
        expires_at=None if stop == "-" else from_micros(int(stop)),
        created_at=from_micros(int(made)),
        updated_at=from_micros(int(changed)),
    )
