"""Documents and vectors in a SQLite file, searched exactly in a copy of the vectors that is never stale.

Protocol: a search looks through the copy, and reads the documents that it found beside the generation that the file has
by then; if that is another one than the copy's, the copy is brought up to date and searched again. So a search is one
statement, and sees one state of the file, whichever process wrote it. A document that is written again gets its vector
at a new position, so nothing in a copy ever changes its meaning.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from persistence._async.compat import in_background
from persistence._async.executor import Row
from persistence._async.sqlite import AsyncSQLiteDatabase
from persistence.dialect import to_json
from vectorstore import schema
from vectorstore._async.sqlite_documents import (
    EMBEDDING,
    AsyncSQLiteDocuments,
    as_vector_of,
    condition_of,
    now,
    tables_of,
)
from vectorstore._async.sqlite_vectors import Copy, Known, as_positions
from vectorstore.distance import Matrix, Positions, score
from vectorstore.kept import KeptMetadata
from vectorstore.ranking import fused_scores
from vectorstore.records import Explanation, SearchResult, SearchResults, metadata_value
from vectorstore.requests import Fusion, SearchRequest
from vectorstore.text import query_terms

Found = tuple[float, Known, int]
"""A document's number in the order of the results, itself, and its position."""

INLINE_NUMBERS = 200_000
"""Up to so many numbers are compared where we are: less than a change of threads costs."""


class AsyncSQLiteVectorStore(AsyncSQLiteDocuments):
    """A vector store on the SQLite connection ``name`` of a manager: durable, exact under every filter.

    Its process keeps the vectors in memory, four bytes a number, half as much again for their first pass. Several
    processes may write to the same file. ``keep_file`` also keeps the vectors of larger collections in a file of the
    folder ``<path>-vectors``, from which they are mapped when the store is opened again; it is a cache, may be deleted
    at any time, and is no part of a backup. ``text_search`` is ``"english"`` or ``"simple"``.
    """

    async def _nearest(self, request: SearchRequest) -> SearchResults:
        return (await self._searched(request))[0]

    async def _searched(self, request: SearchRequest, fusion: Fusion | None = None) -> tuple[SearchResults, int]:
        """Return the results, and how many vectors passed the filter."""
        database = await self._ready()
        copy = self._copies.known(database, request.namespace)
        found = None if copy is None else await self._search(database, copy, request, fusion)
        if found is not None:
            return found
        # One state of the file, for as long as it takes: its own transaction, or the one that we are in.
        own = not database.in_transaction
        async with database.transaction(read_only=True) if own else nullcontext():
            copy = await self._copies.brought_up_to_date(database, request.namespace, share=own)
            found = await self._search(database, copy, request, fusion)
        if own:
            await self._copies.save(copy, request.namespace)
        return found if found is not None else (SearchResults(), 0)

    async def _search(
        self, database: AsyncSQLiteDatabase, copy: Copy, request: SearchRequest, fusion: Fusion | None
    ) -> tuple[SearchResults, int] | None:
        """Return what the copy gives; None where it is not what the file holds."""
        if request.vector is None:
            return SearchResults(), 0
        among = None
        if request.node is not None:
            among = await self._passing(database, copy, request)
            if among is None:
                return None
        near = request.k if fusion is None else max(request.k, fusion.depth)
        search = partial(copy.matrix.search, request.vector, near, now(), among)
        size = copy.matrix.size if among is None else len(among)
        inline = size * self.dimensions < INLINE_NUMBERS
        positions, apart, compared = search() if inline else await in_background(search)
        distances = dict(zip(positions.tolist(), apart.tolist(), strict=True))
        scores = None
        if fusion is not None:
            if len(distances) > near:  # which of those that tie with the last, the ids say
                half = await self._found(database, copy, request._replace(k=near, offset=0), distances)
                if half is None:
                    return None
                distances = {position: distances[position] for _, _, position in half}
            rows = await self._matching_rows(database, request._replace(k=near))
            similar = [(position, score(distance, self.metric)) for position, distance in distances.items()]
            scores = fused_scores(similar, [(row["position"], -row["score"]) for row in rows], fusion)
        order = distances if scores is None else {place: -score for place, score in scores.items()}
        best = await self._found(database, copy, request, order)
        if best is None:
            return None
        vectors: dict[int, Matrix] = {}
        if request.with_embeddings:
            found = [position for _, _, position in best]
            vectors = dict(zip(found, copy.matrix.vectors_at(np.array(found, np.int64)), strict=True))
        metric, vector = self.metric, vectors.get
        return SearchResults(
            [
                SearchResult(
                    id,
                    content,
                    metadata.fresh(),
                    score(distances[position], metric) if scores is None else scores[position],
                    distances.get(position),
                    vector(position),
                )
                for _, (id, content, metadata), position in best
            ]
        ), compared

    async def _found(
        self, database: AsyncSQLiteDatabase, copy: Copy, request: SearchRequest, order: Mapping[int, float]
    ) -> list[Found] | None:
        """Return the page of the documents by their numbers, then ids; None where the copy is out of date."""
        kept = copy.documents.get
        order, offset = _behind(order, request.offset)
        known = [(number, kept(position), position) for position, number in order.items()]
        there = [(number, document, position) for number, document, position in known if document is not None]
        if len(there) == len(known):
            # All were read before: one row tells that none has changed since.
            state = await database.fetch_one(self._sql.state, self._at(request))
            if (state["generation"] if state else 0) != copy.generation:
                return None
        else:
            rows = await database.fetch_all(self._sql.found, self._page_of(request, order, offset))
            if (rows[0]["generation"] if rows else 0) != copy.generation:
                return None
            copy.keep(rows)
            read = [row for row in rows if row["position"] is not None]
            return [(place, _columns(row), row["position"]) for place, row in enumerate(read)]
        return sorted(there)[offset : offset + request.size]

    def _page_of(self, request: SearchRequest, order: Mapping[int, float], offset: int) -> dict[str, Any]:
        """Return the parameters of the statement that reads the documents of a page, those behind the offset."""
        ranks = json.dumps(_ranked(order, offset + request.size))
        return self._at(request, found=ranks, k=request.size, offset=offset)

    def _at(self, request: SearchRequest, **given: Any) -> dict[str, Any]:
        return {"tenant": self._tenant, "collection": self.collection, "namespace": request.namespace, **given}

    async def _passing(self, database: AsyncSQLiteDatabase, copy: Copy, request: SearchRequest) -> Positions | None:
        """Return the positions of the documents that pass the filter; None where the copy is out of date."""
        condition, parameters = condition_of(request.node)
        key = json.dumps([condition, parameters])
        known = copy.passing.get(key)
        if known is not None:
            return known  # the search's own statement tells whether it still holds
        sql = schema.fill(self._sql.passing, {"filter": condition})
        row = await database.fetch_one(sql, self._at(request) | parameters)
        if row is None or row["generation"] != copy.generation:
            return None
        found = as_positions(row)
        copy.remember(key, found)
        return found

    async def _matching(self, request: SearchRequest) -> SearchResults:
        database = await self._ready()
        # In one state of the file, which several statements see only in a transaction.
        async with nullcontext() if database.in_transaction else database.transaction(read_only=True):
            rows = await self._matching_rows(database, request)
            scores = {row["position"]: -row["score"] for row in rows}
            order, offset = _behind({row["position"]: row["score"] for row in rows}, request.offset)
            sql = schema.fill(self._sql.found, EMBEDDING) if request.with_embeddings else self._sql.found
            found = await database.fetch_all(sql, self._page_of(request, order, offset))
        return SearchResults(
            [
                SearchResult(
                    row["id"],
                    row["content"],
                    metadata_value(row["metadata"]),
                    scores[row["position"]],
                    None,
                    as_vector_of(row["embedding"]),
                )
                for row in found
                if row["position"] is not None
            ],
            "text",
        )

    async def _matching_rows(self, database: AsyncSQLiteDatabase, request: SearchRequest) -> list[Row]:
        """Return positions and scores of the documents that match the words best."""
        if self._language is None:
            raise self._no_text_search()
        condition, parameters = condition_of(request.node)
        places = {"filter": condition, **tables_of(self._language)}
        terms = to_json(query_terms(request.text or "", self._language))
        given = self._at(request, terms=terms, now=now()) | parameters
        rows = await database.fetch_all(schema.fill(self._sql.matching, places), {**given, "k": request.k + 1})
        if len(rows) > request.k and rows[-1]["score"] == rows[-2]["score"]:  # which of the equal ones, the ids say
            sql = schema.fill(self._sql.matching, places | {"order": "score, d.id"})
            rows = await database.fetch_all(sql, {**given, "k": request.k})
        return rows[: request.k]

    async def _fused(self, request: SearchRequest, fusion: Fusion) -> SearchResults:
        return (await self._searched(request, fusion))[0]

    async def _explain(self, request: SearchRequest) -> Explanation:
        start = time.perf_counter()
        if request.vector is None:
            await self._matching(request)
            return Explanation(plan="text", seconds=time.perf_counter() - start, detail="bm25 of FTS5")
        rows = (await self._searched(request))[1]
        seconds = time.perf_counter() - start
        return Explanation(plan="exact", rows=rows, compared=rows, seconds=seconds, detail="vectors in memory")


def _behind(order: Mapping[int, float], offset: int) -> tuple[Mapping[int, float], int]:
    """Leave out the lowest as far as no other is equal to one of them, and return how many are to be left out still."""
    if not offset:
        return order, 0
    pairs = sorted(order.items(), key=itemgetter(1))
    if offset >= len(pairs):
        return {}, 0
    first = bisect_left(pairs, pairs[offset][1], key=itemgetter(1))
    return dict(pairs[first:]), offset - first


def _ranked(order: Mapping[int, float], k: int) -> list[tuple[int, int]]:
    """Return (position, rank) of the k lowest and all that tie with the last, equal ones with equal ranks."""
    places: dict[float, int] = {}
    pairs = list[tuple[int, int]]()
    for position, value in sorted(order.items(), key=itemgetter(1)):
        if len(pairs) >= k and value not in places:
            break
        pairs.append((position, places.setdefault(value, len(places))))
    return pairs


def _columns(row: Row) -> Known:
    return row["id"], row["content"], KeptMetadata(row["metadata"])
