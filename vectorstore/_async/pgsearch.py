"""Searching a collection in PostgreSQL: by comparing what passes, through an index of vectors, or by words.

Which of the first two is taken is decided by the server's own estimate of how many documents pass: a filter that leaves
few makes an index scan pass over all the others, and a plan that was made for any filter is made for none. So filtered
statements are planned for their very values, and an estimate is asked for once and remembered (``estimates``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from persistence._async.compat import Parallel
from persistence._async.postgresql import AsyncPgVectorDatabase
from persistence.arrays import TextColumn, VectorColumn
from vectorstore import ranking, schema
from vectorstore._async.pgcollection import AsyncPgCollection, Known
from vectorstore.distance import Matrix
from vectorstore.filter_sql import Written, to_postgresql
from vectorstore.filters import Node, matches
from vectorstore.index import MAX_EF_SEARCH, Index, compares_all
from vectorstore.records import Explanation, Plan, SearchResult, SearchResults, metadata_value
from vectorstore.requests import Fusion, KeyType, SearchRequest

ENOUGH_BY_WORDS = 5000
"""Terms are looked up from the rarest on until so many documents have one of them."""
SAMPLE_ROWS = 3000
MANY_TOGETHER = 10
"""Of many queries so many, or more, are one statement."""
MANY_CONNECTIONS = 4
"""Many queries are spread over so many connections at most."""

_ANY = Written("true", {})
_IDS_ONLY = {"content": "''", "metadata": "'{}'"}


@dataclass(frozen=True, slots=True)
class _Way:
    """How a search is answered: a statement, its parameters, and whether it is planned for them."""

    plan: Plan
    sql: str
    parameters: dict[str, Any]
    prepare: bool | None
    index: Index | None = None
    passing: float | None = None
    undeclared: Mapping[str, KeyType] = field(default_factory=dict)

    @property
    def hint(self) -> str:
        """What would make it faster."""
        if not self.undeclared:
            return ""
        named = ", ".join(f"{key!r}: {'str' if kind == 'text' else 'float'}" for key, kind in self.undeclared.items())
        return f"no index answers this filter: open the store with keys={{{named}}}"


class AsyncPgSearch(AsyncPgCollection):
    """The searches of a vector store on PostgreSQL."""

    def _condition(self, known: Known, node: Node | None) -> Written:
        return _ANY if node is None else to_postgresql(node, "d.metadata", known.keys)

    async def _nearest(self, request: SearchRequest) -> SearchResults:
        database, known = await self._ready()
        way = await self._way(database, known, request)
        rows = await database.fetch_all(way.sql, way.parameters, prepare=way.prepare, binary=True)
        if way.plan == "index" and len(rows) < request.size:
            # A scan of an index gives up after max_scan_tuples, which must not look like the end.
            way = self._exactly(self._condition(known, request.node), request)
            rows = await database.fetch_all(way.sql, way.parameters, prepare=way.prepare, binary=True)
        if way.plan == "exact" and known.index is None and rows and rows[0]["indexed"]:
            self._known = None  # another program has built an index: look at it before the next search
        return SearchResults(map(self._found, rows), way.plan)

    def _found(self, row: Mapping[str, Any]) -> SearchResult:
        return self._result(row["id"], row["content"], row["metadata"], row["distance"], self._vector(row["embedding"]))

    def _vector(self, stored: Any) -> Matrix | None:
        """Return a vector as it was read; bits come as text."""
        if isinstance(stored, str):
            return np.frombuffer(stored.encode(), np.uint8).astype(np.float32) - ord("0")
        found: Matrix | None = stored
        return found

    async def _way(
        self, database: AsyncPgVectorDatabase, known: Known, request: SearchRequest, *, many: bool = False
    ) -> _Way:
        condition = self._condition(known, request.node)
        if known.index is None or request.exact or request.k > MAX_EF_SEARCH:
            return self._exactly(condition, request, many=many)
        passing = await self._passing(database, known, condition, request.namespace)
        if compares_all(passing, known.rows, request.k, by_index=condition.estimable):
            return self._exactly(condition, request, passing, many=many)
        setting, value = known.index.effort(self._effort, request.k, passing / max(known.rows, 1))
        settings = {
            "effort_name": setting,
            "effort": str(value),
            "scan_name": f"{known.index.type}.iterative_scan",
            # What hardly anything is left out of needs no second look, for which a scan would keep what it passes over.
            "scan": "off" if request.node is None and passing >= 0.9 * known.rows else "relaxed_order",
        }
        sql = schema.fill(
            self._sql.search_many_by_index if many else self._sql.search_by_index,
            self._places(condition, request) | {"k": str(request.k)},  # a scan passes over what is left out
        )
        parameters = self._parameters(condition, request) | settings
        if not many:
            parameters["query"] = request.vector
        return _Way("index", sql, parameters, None, known.index, passing, condition.undeclared)

    def _exactly(
        self, condition: Written, request: SearchRequest, passing: float | None = None, *, many: bool = False
    ) -> _Way:
        parameters = self._parameters(condition, request)
        if many:
            sql = self._sql.search_many_exactly
        else:
            sql = self._sql.search_exactly
            parameters |= {"collection": self.collection, "query": request.vector}
        filled = schema.fill(sql, self._places(condition, request))
        return _Way("exact", filled, parameters, self._prepare(request), None, passing, condition.undeclared)

    def _places(self, condition: Written, request: SearchRequest) -> dict[str, str]:
        shown = self._shape.shown("embedding") if request.with_embeddings else "NULL"
        return {"filter": condition.sql, "embedding": shown, "k": str(request.size), "offset": str(request.offset)}

    def _parameters(self, condition: Written, request: SearchRequest) -> dict[str, Any]:
        return {**condition.parameters, "tenant": self._tenant, "namespace": request.namespace}

    @staticmethod
    def _prepare(request: SearchRequest) -> bool | None:
        # With a filter the plan must be made for its very values: a generic one takes the index for every filter.
        return None if request.node is None else False

    async def _passing(
        self, database: AsyncPgVectorDatabase, known: Known, condition: Written, namespace: str
    ) -> float:
        """Return about how many documents pass."""
        parameters = {**condition.parameters, "tenant": self._tenant, "namespace": namespace}
        key = (condition.sql, *parameters.values())
        found = self._estimates.get(key)
        if found is None:
            found = await self._estimate(database, known, condition, parameters)
            self._estimates.put(key, found)
        return found

    async def _estimate(
        self, database: AsyncPgVectorDatabase, known: Known, condition: Written, parameters: dict[str, Any]
    ) -> float:
        places = {"filter": condition.sql}
        plan = await database.fetch_value(schema.fill(self._sql.estimate, places), parameters, prepare=False)
        estimate = float((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]["Plan Rows"])
        if condition.estimable or known.rows <= SAMPLE_ROWS or known.columns is not None:
            return estimate
        share = {**parameters, "percent": 100 * SAMPLE_ROWS / known.rows}
        row = await database.fetch_one(schema.fill(self._sql.sample, places), share, prepare=False) or {}
        return min(estimate, known.rows * row["passed"] / row["seen"]) if row.get("seen") else estimate

    async def _nearest_many(self, vectors: list[Matrix], request: SearchRequest) -> list[SearchResults]:
        """Return what each vector finds; many go side by side, each part by a process of the server's own."""
        database, known = await self._ready()
        way = await self._way(database, known, request, many=True)
        count = 1 if database.in_transaction else min(MANY_CONNECTIONS, database.config.max_connections)
        size = max(MANY_TOGETHER, -(-len(vectors) // count))
        parts = [vectors[start : start + size] for start in range(0, len(vectors), size)]
        parallel = Parallel()
        try:
            found = await parallel.run([partial(self._together, database, way, part, request) for part in parts])
        finally:
            parallel.close()
        return [results for part in found for results in part]

    async def _together(
        self, database: AsyncPgVectorDatabase, way: _Way, vectors: list[Matrix], request: SearchRequest
    ) -> list[SearchResults]:
        """Return what each vector finds, by one statement for all."""
        parameters = {**way.parameters, "queries": VectorColumn(np.stack(vectors))}
        rows = await database.fetch_all(way.sql, parameters, prepare=way.prepare, binary=True)
        found = [SearchResults(plan=way.plan) for _ in vectors]
        for row in rows:
            found[row["place"] - 1].append(self._found(row))
        if way.plan == "index":
            # As above, a scan that gave up must not look like the end.
            for place, results in enumerate(found):
                if len(results) < request.size:
                    found[place] = await self._nearest(request._replace(vector=vectors[place], exact=True))
        return found

    async def _matching(self, request: SearchRequest) -> SearchResults:
        database, known = await self._ready()
        way = self._by_words(known, request)
        rows = await database.fetch_all(way.sql, way.parameters, prepare=way.prepare, binary=True)
        return SearchResults(map(self._matched, rows), "text")

    def _by_words(self, known: Known, request: SearchRequest) -> _Way:
        if known.language is None:
            raise self._no_text_search()
        condition = self._condition(known, request.node)
        parameters = self._parameters(condition, request) | {
            "relation": schema.relation(self.collection),
            "language": known.language,
            "text": request.text,
            "enough": ENOUGH_BY_WORDS,
        }
        sql = schema.fill(self._sql.search_words, self._places(condition, request))
        return _Way("text", sql, parameters, self._prepare(request))

    def _matched(self, row: Mapping[str, Any]) -> SearchResult:
        vector = self._vector(row["embedding"])
        return SearchResult(row["id"], row["content"], metadata_value(row["metadata"]), row["score"], None, vector)

    async def _fused(self, request: SearchRequest, fusion: Fusion) -> SearchResults:
        """Return the k best of both halves: a round trip for the ids of the halves, one for what is shown."""
        database, known = await self._ready()
        half = request._replace(k=max(request.k, fusion.depth), offset=0, with_embeddings=False)
        ways = [await self._way(database, known, half), self._by_words(known, half)]
        calls = [(schema.fill(way.sql, _IDS_ONLY), way.parameters) for way in ways]
        near, matching = await database.fetch_batch(calls, prepare=self._prepare(request), binary=True)
        plan = ways[0].plan
        if plan == "index" and len(near) < request.k:  # as in a search by vectors alone, this may not be the end
            way = self._exactly(self._condition(known, half.node), half)
            near, plan = await database.fetch_all(schema.fill(way.sql, _IDS_ONLY), way.parameters, binary=True), "exact"
        fused = ranking.fuse([self._found(row) for row in near], [self._matched(row) for row in matching], fusion)
        return SearchResults(await self._filled(database, fused[request.offset : request.k], request), plan)

    async def _filled(
        self, database: AsyncPgVectorDatabase, found: Sequence[SearchResult], request: SearchRequest
    ) -> list[SearchResult]:
        """Return results with their contents; those that were deleted meanwhile, or pass no more, are left out."""
        sql = schema.fill(self._sql.get_many, self._read_places(request.with_embeddings))
        ids = TextColumn([each.id for each in found])
        parameters = {"tenant": self._tenant, "namespace": request.namespace, "ids": ids}
        rows = {row["id"]: row for row in await database.fetch_all(sql, parameters, binary=True)}
        filled = []
        for each in found:
            row = rows.get(each.id)
            if row is None:
                continue
            metadata = metadata_value(row["metadata"])
            if request.node is None or matches(request.node, metadata):
                embedding = self._vector(row["embedding"])
                filled.append(replace(each, content=row["content"], metadata=metadata, embedding=embedding))
        return filled

    def _read_places(self, with_embeddings: bool) -> dict[str, str]:
        return {"embedding": self._shape.shown("d.embedding")} if with_embeddings else {}

    async def _explain(self, request: SearchRequest) -> Explanation:
        started = perf_counter()
        if request.vector is None:
            found = await self._matching(request)
            return Explanation(
                plan="text", compared=None, seconds=perf_counter() - started, detail=f"{len(found)} rows"
            )
        database, known = await self._ready()
        way = await self._way(database, known, request)
        lines = await database.fetch_all(
            f"EXPLAIN (ANALYZE, COSTS OFF, SUMMARY OFF, FORMAT JSON) {way.sql}", way.parameters, prepare=False
        )
        plan = next(iter(lines[0].values()))
        tree = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
        passing = way.passing
        if passing is None:
            passing = await self._passing(database, known, self._condition(known, request.node), request.namespace)
        return Explanation(
            plan=way.plan,
            index=None if way.index is None else way.index.name,
            rows=round(passing),
            compared=_rows_read(tree, known.base),
            seconds=tree["Actual Total Time"] / 1000,
            detail=json.dumps(tree, indent=1),
            hint=way.hint if known.columns is None else "",
        )


def _rows_read(node: Mapping[str, Any], relation: str) -> int | None:
    """Return how many rows of the table the plan read: those it gave on and those it threw away."""
    if node.get("Relation Name") == relation:
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        return int((node["Actual Rows"] + removed) * node["Actual Loops"])
    found = [_rows_read(child, relation) for child in node.get("Plans", ())]
    return next((each for each in found if each is not None), None)
