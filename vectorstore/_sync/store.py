# Generated from ../_async/store.py by tests/unasync.py: edit that one.
"""The contract of every vector store: the documents' life, and the search, as far as both depend on no backend.

A backend fills the methods that begin with an underscore. They get what is checked already; a write's namespace is
``self.namespace``, a search's is in its request.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial

from persistence.errors import ValidationError
from persistence.validation import check_text
from vectorstore import ranking, requests
from vectorstore._sync import embedding as calls
from vectorstore._sync.documents import Documents
from vectorstore.distance import Matrix, score
from vectorstore.filters import Filter, parse_filter
from vectorstore.records import Explanation, SearchResult, SearchResults, Vector, metadata_value
from vectorstore.requests import Diversity, Fusion, Mode, Reranker, SearchRequest


class VectorStore(Documents):
    """Documents with embeddings, found again by similarity.

    A store is bound to one collection, one tenant and one namespace; equal ids in others are other documents. All
    vectors of a collection have ``dimensions`` numbers and are compared by ``metric``. ``embedder`` turns texts into
    vectors, for documents that come without and for queries that are text; ``model`` names it, and a collection that
    was made with another one refuses this. ``text_search`` names the language of the contents (``"english"``;
    ``"simple"`` takes words as they are), which makes them searchable by words. ``keys`` declares metadata keys that
    filters often use with their types, ``{"year": int}``, for an index of each where the backend has such.
    """

    def search(
        self,
        query: Vector | str,
        k: int = 10,
        *,
        offset: int = 0,
        filter: Filter | None = None,
        min_score: float | None = None,
        namespace: str | None = None,
        mode: Mode = "vector",
        text: str | None = None,
        fusion: Fusion | None = None,
        diversity: Diversity | float | None = None,
        rerank: Reranker | None = None,
        with_embeddings: bool = False,
        exact: bool = False,
    ) -> SearchResults:
        """Return the ``k`` documents that are most similar to a vector or a text, best first, equal ones by id.

        All are returned when there are fewer. With an ``offset`` the first so many are left out: it gives what
        ``k=offset + k`` would give behind them, and costs about as much, but for their contents. ``filter`` leaves only
        documents whose metadata pass it (see ``vectorstore.filters``), ``min_score`` those with at least that score.
        ``namespace`` (None: the store's own) is the one that is searched. ``exact=True`` compares every document that
        passes; otherwise the store takes an index of vectors where one is there and pays, and ``.plan`` of the results
        says what it did.

        ``mode="text"`` goes by words, ``"hybrid"`` by both, put together as ``fusion`` says (left out: ``Fusion()``);
        the words are ``text``, or the query where that is a text. ``diversity`` chooses results that differ from one
        another, in the order in which they were chosen. ``rerank`` gives the candidates new scores by the words.

        Raises:
            ValidationError: the vector has another number of dimensions or is no vector, ``k`` is below 1, ``offset``
                below 0, or the filter is wrong.
            ConfigError: the query is a text, and the store has no embedder; or words are searched, and the collection
                has no ``text_search``.
        """
        wanted = self._request(query, k, offset, filter, namespace, mode, text, with_embeddings, exact)
        least = requests.check_min_score(min_score)
        if mode == "vector" and rerank is None and diversity is None:
            found = self._nearest(wanted)
        else:
            found = self._ranked(wanted, mode, fusion, requests.check_diversity(diversity), rerank, text or query)
        if least is not None:
            return SearchResults([each for each in found if each.score >= least], found.plan)
        return found

    def _request(
        self,
        query: Vector | str,
        k: int,
        offset: int,
        filter: Filter | None,
        namespace: str | None,
        mode: Mode,
        text: str | None,
        with_embeddings: bool,
        exact: bool,
    ) -> SearchRequest:
        requests.check_mode(mode)
        k, offset = requests.check_page(k, offset)
        node = None if filter is None else parse_filter(filter)
        place = self.namespace if namespace is None else requests.check_namespace(namespace)
        words = None
        if mode != "vector":
            words = check_text("the text", query if text is None else text)
        if mode == "text":
            return SearchRequest(None, words, k, node, place, with_embeddings, exact, offset)
        if isinstance(query, str):
            query = (calls.embed(self._embedder, [check_text("the query", query)], queries=True))[0]
        vector = self._as_vector(query, "the query")
        return SearchRequest(vector, words, k, node, place, with_embeddings, exact, offset)

    def _ranked(
        self,
        wanted: SearchRequest,
        mode: Mode,
        fusion: Fusion | None,
        diversity: Diversity | None,
        rerank: Reranker | None,
        query: object,
    ) -> SearchResults:
        """Return the results of a search that ranks candidates: fused, re-ranked or diversified, in this order."""
        fusion = requests.check_fusion(fusion)
        k = wanted.k if diversity is None else diversity.pool(wanted.k)
        offset = wanted.offset if rerank is None and diversity is None else 0  # else what is left out, the ranking says
        pool = wanted._replace(
            k=k if rerank is None else max(k, fusion.depth),
            offset=offset,
            with_embeddings=wanted.with_embeddings or diversity is not None,
        )
        if mode == "hybrid":
            found = self._fused(pool, fusion)
        else:
            found = (self._nearest(pool) if mode == "vector" else self._matching(pool))
        plan = found.plan
        if rerank is not None:
            found = SearchResults(self._reranked(rerank, query, found), plan)
        chosen = found[:k]
        if diversity is not None:
            chosen = ranking.diversify(chosen, wanted.k, diversity.balance, self.metric, wanted.vector)
            if not wanted.with_embeddings:
                chosen = [dataclasses.replace(each, embedding=None) for each in chosen]
        return SearchResults(chosen[wanted.offset - offset :], plan)

    def _reranked(self, rerank: Reranker, query: object, found: list[SearchResult]) -> list[SearchResult]:
        if not callable(rerank):
            raise ValidationError(f"rerank is a {type(rerank).__name__}, which can't be called")
        if not isinstance(query, str):
            raise ValidationError("a re-ranker needs the query's words", hint="pass text=")
        scores = calls.call("the re-ranker", partial(rerank, query, found))
        return ranking.rescored(found, requests.as_scores(scores, len(found)))

    @abstractmethod
    def _nearest(self, request: SearchRequest) -> SearchResults:
        """Return the documents nearest to the request's vector."""

    def _matching(self, request: SearchRequest) -> SearchResults:
        """Return the documents that match the request's words best; plan ``"text"``, and no distances."""
        raise self._lacks("text search")

    def _fused(self, request: SearchRequest, fusion: Fusion) -> SearchResults:
        """Return the k best of both halves."""
        half = request._replace(k=max(request.k, fusion.depth), offset=0)
        near, matching = self._nearest(half), self._matching(half)
        return SearchResults(ranking.fuse(near, matching, fusion)[request.offset : request.k], near.plan)

    def search_many(
        self,
        queries: Sequence[Vector | str],
        k: int = 10,
        *,
        offset: int = 0,
        filter: Filter | None = None,
        min_score: float | None = None,
        namespace: str | None = None,
        with_embeddings: bool = False,
        exact: bool = False,
    ) -> list[SearchResults]:
        """Return the results of several searches by vector, in the order of the queries; see :meth:`search`.

        Texts are embedded in one call, and the whole is one round trip; PostgreSQL answers twenty or more on several
        connections at a time, unless in a transaction.
        """
        if isinstance(queries, str | Mapping) or not hasattr(queries, "__len__"):
            raise ValidationError(f"queries is one {type(queries).__name__}", hint="give a list: [query]")
        k, offset = requests.check_page(k, offset)
        least = requests.check_min_score(min_score)
        node = None if filter is None else parse_filter(filter)
        place = self.namespace if namespace is None else requests.check_namespace(namespace)
        texts = [check_text("a query", each) for each in queries if isinstance(each, str)]
        made = iter(calls.embed(self._embedder, texts, queries=True) if texts else [])
        vectors = [
            self._as_vector(next(made) if isinstance(each, str) else each, f"query {place_of}")
            for place_of, each in enumerate(queries)
        ]
        if not vectors:
            return []
        wanted = SearchRequest(None, None, k, node, place, with_embeddings, exact, offset)
        found = self._nearest_many(vectors, wanted)
        if least is None:
            return found
        return [SearchResults([one for one in each if one.score >= least], each.plan) for each in found]

    def _nearest_many(self, vectors: list[Matrix], request: SearchRequest) -> list[SearchResults]:
        """Return the documents nearest to each vector; the request is the same for all but the vector."""
        return [self._nearest(request._replace(vector=vector)) for vector in vectors]

    def explain(
        self,
        query: Vector | str,
        k: int = 10,
        *,
        offset: int = 0,
        filter: Filter | None = None,
        namespace: str | None = None,
        mode: Mode = "vector",
        text: str | None = None,
        exact: bool = False,
    ) -> Explanation:
        """Run a search, and return how it was answered; a hybrid's is that of its vectors' half."""
        return self._explain(self._request(query, k, offset, filter, namespace, mode, text, False, exact))

    def _explain(self, request: SearchRequest) -> Explanation:
        raise self._lacks("explain")

    def similarity_search_by_vector(self, vector: Vector, k: int = 10, *, offset: int = 0) -> SearchResults:
        """Return the ``k`` documents most similar to a vector: ``search(vector, k, offset=offset)``."""
        return self.search(vector, k, offset=offset)

    def similarity_search(self, text: str, k: int = 10, *, offset: int = 0) -> SearchResults:
        """Return the ``k`` documents most similar to a text, which the store's embedder turns into a vector.

        Raises:
            ConfigError: the store has no embedder.
        """
        return self.search(check_text("the query", text), k, offset=offset)

    def similarity_search_with_filters(
        self, vector: Vector, k: int, filters: Filter, *, offset: int = 0
    ) -> SearchResults:
        """Return the ``k`` most similar documents that pass a filter: ``search(vector, k, filter=filters)``."""
        return self.search(vector, k, offset=offset, filter=filters)

    def similarity_search_with_threshold(
        self, vector: Vector, k: int, threshold: float, *, offset: int = 0
    ) -> SearchResults:
        """Return the ``k`` most similar documents of at least that score (``min_score=threshold``)."""
        return self.search(vector, k, offset=offset, min_score=threshold)

    def _result(self, id: str, content: str, metadata: str, distance: float, embedding: Matrix | None) -> SearchResult:
        return SearchResult(id, content, metadata_value(metadata), score(distance, self.metric), distance, embedding)
