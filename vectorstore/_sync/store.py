# Generated from ../_async/store.py by tests/unasync.py: edit that one.
"""The contract of every vector store, and all of it that doesn't depend on where the vectors are."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from inspect import isawaitable
from itertools import islice
from typing import Any

import numpy as np

from persistence._sync.compat import in_background
from persistence._sync.executor import Row
from persistence.config import Metric
from persistence.errors import ConfigError, ValidationError
from persistence.validation import check_id, check_text, check_whole, shown
from vectorstore.distance import Matrix, as_vector, check_dimensions, check_metric, score
from vectorstore.filters import Filter, Node, parse_filter
from vectorstore.records import (
    CheckedDocument,
    Document,
    Embedder,
    SearchResult,
    Vector,
    check_collection,
    check_document,
    check_ids,
    metadata_text,
    metadata_value,
)


class VectorStore(ABC):
    """Documents with embeddings, found again by similarity.

    A store is bound to one collection and one tenant; equal ids in others are other documents. All vectors of a
    collection have ``dimensions`` numbers and are compared by ``metric``. ``embedder`` turns texts into vectors, for
    documents that come without and for queries that are text; ``model`` names it, and a collection that was made with
    another one refuses this.
    """

    dimensions: int
    metric: Metric
    collection: str

    def __init__(
        self,
        *,
        collection: str,
        dimensions: int,
        metric: Metric,
        embedder: Embedder | None = None,
        model: str | None = None,
    ) -> None:
        self.collection = check_collection(collection)
        self.dimensions = check_dimensions(dimensions)
        self.metric = check_metric(metric)
        self.model = None if model is None else check_text("model", model)
        self._embedder = embedder

    def store_documents(
        self,
        documents: Iterable[Document],
        *,
        batch_size: int = 1000,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Store documents, replacing those whose ids are there, and return how many were written.

        The iterable is read batch by batch. Each batch is stored as a whole or not at all, and is checked before
        anything of it is sent; batches before a bad one stay. Of equal ids in one batch the last wins and counts.
        ``progress`` is called after each batch with the number written so far.

        Raises:
            ValidationError: a document can't be stored faithfully; the message names its id.
        """
        check_whole("batch_size", batch_size)
        source = iter(_check_iterable(documents))
        written = 0
        while batch := list(islice(source, batch_size)):
            # By id, so that two loaders of the same documents lock them in the same order.
            self._write(sorted((self._checked(batch)).values()))
            written += len({document.id for document in batch})
            if progress is not None:
                progress(written)
        return written

    def _checked(self, batch: Sequence[Document]) -> dict[str, CheckedDocument]:
        """Return a batch by id, the missing embeddings made."""
        if self._embedder is not None:
            batch = self._embedded(batch)
        checked = [check_document(document, self.dimensions, self.metric) for document in batch]
        return {document.id: document for document in checked}

    def _embedded(self, batch: Sequence[Document]) -> list[Document]:
        bare = [each for each in batch if getattr(each, "embedding", 0) is None]
        for each in bare:
            key = check_id("the document's id", each.id)
            check_text(f"the content of document {shown(key)}", each.content)
        vectors = iter(self._embed([each.content for each in bare]) if bare else [])
        missing = set(map(id, bare))
        return [dataclasses.replace(each, embedding=next(vectors)) if id(each) in missing else each for each in batch]

    def _embed(self, texts: list[str]) -> list[Vector]:
        """Return one vector a text.

        Raises:
            ConfigError: the store has no embedder, or it is none.
        """
        if self._embedder is None:
            raise ConfigError("the store has no embedder for texts", hint="pass embedder=, or give a vector")
        # In a thread: most embedders compute, and would hold up everything else meanwhile.
        found = in_background(partial(self._embedder, texts))
        if isawaitable(found):
            getattr(found, "close", list)()  # a coroutine that nobody runs would warn
            raise ConfigError("the embedder is asynchronous", hint="use the async store with it")
        vectors = list(found)
        if len(vectors) != len(texts):
            raise ConfigError(f"the embedder gave {len(vectors)} vectors for {len(texts)} texts")
        return vectors

    @abstractmethod
    def _write(self, batch: list[CheckedDocument]) -> None:
        """Store documents of different ids, all or none."""

    def get(self, id: str, *, with_embedding: bool = True) -> Document | None:
        """Return a document, or None when there is none of that id."""
        found = self.get_many([id], with_embeddings=with_embedding)
        return found[0] if found else None

    def get_many(self, ids: Iterable[str], *, with_embeddings: bool = True) -> list[Document]:
        """Return documents in the order of their ids; those that are missing are left out."""
        wanted = check_ids(ids)
        return self._read(wanted, with_embeddings) if wanted else []

    @abstractmethod
    def _read(self, ids: list[str], with_embeddings: bool) -> list[Document]: ...

    def update_document(
        self,
        id: str,
        *,
        content: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        embedding: Vector | None = None,
    ) -> None:
        """Change what is given of a document, and keep the rest; metadata is replaced as a whole.

        A new content without an embedding is embedded where the store has an embedder; elsewhere the embedding stays.

        Raises:
            NotFoundError: there is no document of that id.
            ValidationError: nothing is given, or it can't be stored faithfully.
        """
        key = check_id("the document's id", id)
        what = f"document {shown(key)}"
        if content is None and metadata is None and embedding is None:
            raise ValidationError(f"no change of {what} is given", hint="content=, metadata= or embedding=")
        text = None if content is None else check_text(f"the content of {what}", content)
        stored = None if metadata is None else metadata_text(metadata, what)
        if text is not None and embedding is None and self._embedder is not None:
            embedding = (self._embed([text]))[0]
        vector = None
        if embedding is not None:
            vector = as_vector(embedding, self.dimensions, self.metric, f"the embedding of {what}")
        self._change(id, text, stored, vector)

    @abstractmethod
    def _change(self, id: str, content: str | None, metadata: str | None, embedding: Matrix | None) -> None: ...

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents and return how many were there."""
        wanted = check_ids(ids)
        return self._remove(wanted) if wanted else 0

    @abstractmethod
    def _remove(self, ids: list[str]) -> int: ...

    def count(self, filter: Filter | None = None) -> int:
        """Return how many documents there are, or how many pass a filter (see ``vectorstore.filters``)."""
        return self._count(None if filter is None else parse_filter(filter))

    @abstractmethod
    def _count(self, node: Node | None) -> int: ...

    def search(
        self,
        query: Vector | str,
        k: int = 10,
        *,
        filter: Filter | None = None,
        min_score: float | None = None,
        with_embeddings: bool = False,
        exact: bool | None = None,
    ) -> list[SearchResult]:
        """Return the ``k`` documents that are most similar to a vector or a text, best first, equal ones by id.

        All are returned when there are fewer. ``filter`` leaves only documents whose metadata pass it (see
        ``vectorstore.filters``), ``min_score`` those with at least that score. ``exact=True`` compares every document,
        ``False`` uses an index of vectors where there is one; None decides by itself.

        Raises:
            ValidationError: the vector has another number of dimensions or is no vector, ``k`` is below 1, or the
                filter is wrong.
            ConfigError: the query is a text, and the store has no embedder.
        """
        k = min(check_whole("k", k), 2**31 - 1)
        limit = _check_min_score(min_score)
        node = None if filter is None else parse_filter(filter)
        if isinstance(query, str):
            query = (self._embed([check_text("the query", query)]))[0]
        vector = as_vector(query, self.dimensions, self.metric, "the query")
        found = self._nearest(vector, k, node, with_embeddings, exact)
        return [result for result in found if limit is None or result.score >= limit]

    @abstractmethod
    def _nearest(
        self, query: Matrix, k: int, node: Node | None, with_embeddings: bool, exact: bool | None
    ) -> list[SearchResult]: ...

    def similarity_search_by_vector(self, vector: Vector, k: int = 10) -> list[SearchResult]:
        """Return the ``k`` documents most similar to a vector: ``search(vector, k)``."""
        return self.search(vector, k)

    def similarity_search(self, text: str, k: int = 10) -> list[SearchResult]:
        """Return the ``k`` documents most similar to a text, which the store's embedder turns into a vector.

        Raises:
            ConfigError: the store has no embedder.
        """
        return self.search(check_text("the query", text), k)

    def similarity_search_with_filters(self, vector: Vector, k: int, filters: Filter) -> list[SearchResult]:
        """Return the ``k`` most similar documents that pass a filter: ``search(vector, k, filter=filters)``."""
        return self.search(vector, k, filter=filters)

    def similarity_search_with_threshold(self, vector: Vector, k: int, threshold: float) -> list[SearchResult]:
        """Return the ``k`` most similar documents of at least that score (``min_score=threshold``)."""
        return self.search(vector, k, min_score=threshold)

    def _result(self, id: str, content: str, metadata: str, distance: float, embedding: Matrix | None) -> SearchResult:
        return SearchResult(id, content, metadata_value(metadata), score(distance, self.metric), distance, embedding)

    def _check_registered(self, row: Row) -> None:
        """Compare what a collection was made for with what this store was opened for.

        Raises:
            ConfigError: they differ; the message names both.
        """
        dimensions, metric, model = row["dimensions"], row["metric"], row["model"]
        problems = []
        if dimensions != self.dimensions:
            problems.append(f"{dimensions} dimensions, not {self.dimensions}")
        if metric != self.metric:
            problems.append(f"the metric {metric}, not {self.metric}")
        if model is not None and self.model is not None and model != self.model:
            problems.append(f"the embedding model {model!r}, not {self.model!r}")
        if problems:
            raise ConfigError(
                f"the collection {self.collection!r} was made for {'; '.join(problems)}",
                problems=tuple(problems),
                hint="open it as it was made, or choose another collection",
            )


def _check_iterable(documents: object) -> Iterable[Document]:
    if isinstance(documents, Document | str | Mapping) or not isinstance(documents, Iterable):
        raise ValidationError(f"documents is one {type(documents).__name__}", hint="give a list: [document]")
    return documents


def _check_min_score(min_score: object) -> float | None:
    if min_score is None:
        return None
    if isinstance(min_score, bool) or not isinstance(min_score, int | float | np.floating) or min_score != min_score:
        raise ValidationError(f"min_score {min_score!r} is no number")
    return float(min_score)
