"""LangChain's vector store on ours, and the importer of what langchain-postgres wrote (extra ``langchain``).

::

    with HoldfastVectorStore.from_url("postgresql://localhost/app", embeddings) as store:
        store.add_documents(documents)
        retriever = store.as_retriever(search_kwargs={"k": 5, "filter": {"year": {"$gte": 2020}}})

Methods such as ``add_texts`` go to the sync store, ``aadd_texts`` and its like to the async one. Neither side runs the
other. Texts are embedded here, by LangChain's own calls, batch by batch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from persistence._async.manager import AsyncDatabaseManager
from persistence._sync.manager import DatabaseManager
from persistence.config import Metric
from persistence.errors import ConfigError, ValidationError
from persistence.extras import extra
from persistence.validation import check_text, check_whole
from vectorstore._async.langchain_import import import_langchain as aimport_langchain
from vectorstore._async.pgvector import AsyncPgVectorStore
from vectorstore._async.redis import AsyncRedisVectorStore
from vectorstore._async.sqlite import AsyncSQLiteVectorStore
from vectorstore._async.store import AsyncVectorStore
from vectorstore._sync.langchain_import import import_langchain
from vectorstore._sync.pgvector import PgVectorStore
from vectorstore._sync.redis import RedisVectorStore
from vectorstore._sync.sqlite import SQLiteVectorStore
from vectorstore._sync.store import VectorStore
from vectorstore.embedders import EmbedderAdapter
from vectorstore.langchain_documents import (
    check_relevance,
    embed_into,
    from_texts,
    kind_of,
    missing_side,
    mmr,
    to_holdfast,
)
from vectorstore.records import Document, SearchResult, SearchResults

with extra("langchain"):
    from langchain_core.documents import Document as LangChainDocument
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore as LangChainVectorStore

__all__ = ["HoldfastVectorStore", "aimport_langchain", "import_langchain"]

BATCH_SIZE = 1000

Scored = list[tuple[LangChainDocument, float]]


class HoldfastVectorStore(LangChainVectorStore):
    """A LangChain vector store over one of ours, sync, async or one of each, on any backend.

    ``embedding`` embeds what is added and what is searched for; left out, the store's own embedder does. Keywords of
    a search that LangChain doesn't know (``filter``, ``namespace``, ``mode``, ``fusion``, ``rerank``, ``exact``) are
    those of ``VectorStore.search``, and ``filter`` is in its language.

    A document without an id gets one; one whose id is there replaces it.

    Raises:
        CapabilityError: a method of the side that wasn't given is called.
        ValidationError: a document can't be stored faithfully, or a search is wrong.
    """

    def __init__(self, *stores: VectorStore | AsyncVectorStore, embedding: Embeddings | None = None) -> None:
        self._sync: VectorStore | None = None
        self._async: AsyncVectorStore | None = None
        self._url: str | None = None
        self._options: dict[str, Any] = {}
        self._manager: DatabaseManager | None = None
        self._async_manager: AsyncDatabaseManager | None = None
        self._embedding = _check_embedding(embedding)
        for store in stores:
            if isinstance(store, VectorStore) and self._sync is None:
                self._sync = store
            elif isinstance(store, AsyncVectorStore) and self._async is None:
                self._async = store
            else:
                raise ValidationError(
                    f"a {type(store).__name__} can't be used here",
                    hint="HoldfastVectorStore takes a VectorStore, an AsyncVectorStore, or one of each",
                )

    @classmethod
    def from_url(
        cls,
        url: str,
        embedding: Embeddings,
        *,
        dimensions: int | None = None,
        metric: Metric = "cosine",
        collection: str = "documents",
        namespace: str = "default",
        tenant: str = "default",
        text_search: str | None = None,
        keys: Mapping[str, type] | None = None,
    ) -> Self:
        """Return a store that ``with`` or ``async with`` connects and closes: PostgreSQL, SQLite or Redis by its URL.

        ``dimensions`` left out is what the embedding tells of itself, or else what it makes of one text. The rest is
        as ``PgVectorStore`` and its like take it.
        """
        made = cls(embedding=embedding)
        made._url = check_text("the url", url)
        made._options = {
            "dimensions": EmbedderAdapter(embedding).dimensions if dimensions is None else dimensions,
            "metric": metric,
            "collection": collection,
            "namespace": namespace,
            "tenant": tenant,
            "text_search": text_search,
            "keys": keys,
            "embedder": embedding,
        }
        return made

    def __enter__(self) -> Self:
        if self._url is not None:
            if self._manager is not None:
                raise ValidationError("this store is open already", hint="make another one from the URL")
            options = self._options
            if options["dimensions"] is None:
                options = {**options, "dimensions": len(options["embedder"].embed_query("dimensions"))}
            manager = DatabaseManager()
            try:
                self._sync = _opened(manager, self._url, options)
            except BaseException:
                manager.close()
                raise
            self._manager = manager
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            self._sync = None
            manager.close()

    async def __aenter__(self) -> Self:
        if self._url is not None:
            if self._async_manager is not None:
                raise ValidationError("this store is open already", hint="make another one from the URL")
            options = self._options
            if options["dimensions"] is None:
                options = {**options, "dimensions": len(await options["embedder"].aembed_query("dimensions"))}
            manager = AsyncDatabaseManager()
            try:
                self._async = await _aopened(manager, self._url, options)
            except BaseException:
                await manager.aclose()
                raise
            self._async_manager = manager
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        manager, self._async_manager = self._async_manager, None
        if manager is not None:
            self._async = None
            await manager.aclose()

    @property
    def embeddings(self) -> Embeddings | None:
        """What embeds texts; None where the store's own embedder does."""
        return self._embedding

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Store texts and return their ids; as ``add_documents``."""
        return self._add(from_texts(texts, metadatas, ids), kwargs)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """As ``add_texts``."""
        return await self._aadd(from_texts(texts, metadatas, ids), kwargs)

    def add_documents(self, documents: list[LangChainDocument], **kwargs: Any) -> list[str]:
        """Store documents, replacing those whose ids are there, and return their ids in order.

        ``ids`` go before those that the documents have; where both are missing, one is made. Each ``batch_size``
        (left out: 1,000) documents are embedded and stored together, all or none. Further keywords are those of
        ``VectorStore.store_documents``.

        Raises:
            ValidationError: a document can't be stored faithfully, or there is another number of ids.
        """
        return self._add(to_holdfast(documents, kwargs.pop("ids", None)), kwargs)

    async def aadd_documents(self, documents: list[LangChainDocument], **kwargs: Any) -> list[str]:
        """As ``add_documents``."""
        return await self._aadd(to_holdfast(documents, kwargs.pop("ids", None)), kwargs)

    def _add(self, documents: list[Document], options: dict[str, Any]) -> list[str]:
        size = check_whole("batch_size", options.pop("batch_size", BATCH_SIZE))
        self._store.store_documents(self._embedded(documents, size), batch_size=size, **options)
        return [document.id for document in documents]

    async def _aadd(self, documents: list[Document], options: dict[str, Any]) -> list[str]:
        size = check_whole("batch_size", options.pop("batch_size", BATCH_SIZE))
        await self._astore.store_documents(self._aembedded(documents, size), batch_size=size, **options)
        return [document.id for document in documents]

    def _embedded(self, documents: list[Document], size: int) -> Iterator[Document]:
        """Yield documents, embedded as they are wanted."""
        for start in range(0, len(documents), size):
            batch = documents[start : start + size]
            if self._embedding is not None:
                embed_into(batch, self._embedding.embed_documents([each.content for each in batch]))
            yield from batch

    async def _aembedded(self, documents: list[Document], size: int) -> AsyncIterator[Document]:
        for start in range(0, len(documents), size):
            batch = documents[start : start + size]
            if self._embedding is not None:
                embed_into(batch, await self._embedding.aembed_documents([each.content for each in batch]))
            for document in batch:
                yield document

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents by their ids, or all that pass ``filter``; True, were they there or not.

        Raises:
            ValidationError: neither is given; ``filter={}`` is all documents of the namespace.
        """
        self._store.delete(ids, **kwargs)
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """As ``delete``."""
        await self._astore.delete(ids, **kwargs)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """Return documents in the order of their ids; those that are missing are left out."""
        return [_document(found) for found in self._store.get_many(ids, with_embeddings=False)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """As ``get_by_ids``."""
        return [_document(found) for found in await self._astore.get_many(ids, with_embeddings=False)]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[LangChainDocument]:
        """Return the ``k`` documents most similar to a text, best first, equal ones by id."""
        return [_document(found) for found in self._found(query, k, kwargs)]

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[LangChainDocument]:
        """As ``similarity_search``."""
        return [_document(found) for found in await self._afound(query, k, kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        """Return documents with their scores, which ``SearchResult`` describes: higher is better, never a distance."""
        return _scored(self._found(query, k, kwargs))

    async def asimilarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        """As ``similarity_search_with_score``."""
        return _scored(await self._afound(query, k, kwargs))

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[LangChainDocument]:
        """Return the ``k`` documents most similar to a vector."""
        return [_document(found) for found in self._store.search(embedding, k, **kwargs)]

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[LangChainDocument]:
        """As ``similarity_search_by_vector``."""
        return [_document(found) for found in await self._astore.search(embedding, k, **kwargs)]

    def similarity_search_with_score_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> Scored:
        """Return the ``k`` documents most similar to a vector, with their scores."""
        return _scored(self._store.search(embedding, k, **kwargs))

    async def asimilarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> Scored:
        """As ``similarity_search_with_score_by_vector``."""
        return _scored(await self._astore.search(embedding, k, **kwargs))

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[LangChainDocument]:
        """Return ``k`` of the ``fetch_k`` most similar documents that differ from one another, as they were chosen.

        ``lambda_mult`` of 1 is similarity alone; 0 has each as far from those before it as can be.
        """
        return self.similarity_search(query, k, diversity=mmr(fetch_k, lambda_mult), **kwargs)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[LangChainDocument]:
        """As ``max_marginal_relevance_search``."""
        return await self.asimilarity_search(query, k, diversity=mmr(fetch_k, lambda_mult), **kwargs)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[LangChainDocument]:
        """As ``max_marginal_relevance_search``, by a vector."""
        return self.similarity_search_by_vector(embedding, k, diversity=mmr(fetch_k, lambda_mult), **kwargs)

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[LangChainDocument]:
        """As ``max_marginal_relevance_search_by_vector``."""
        different = mmr(fetch_k, lambda_mult)
        return await self.asimilarity_search_by_vector(embedding, k, diversity=different, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """Return what makes a score one within 0 and 1: what points away is not relevant at all."""
        return lambda score: min(1.0, max(0.0, score))

    def _similarity_search_with_relevance_scores(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        check_relevance(kwargs)
        return super()._similarity_search_with_relevance_scores(query, k, **kwargs)

    async def _asimilarity_search_with_relevance_scores(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        check_relevance(kwargs)
        return await super()._asimilarity_search_with_relevance_scores(query, k, **kwargs)

    def _found(self, query: str, k: int, options: dict[str, Any]) -> SearchResults:
        store, text = self._store, check_text("the query", query)
        if self._embedding is None or options.get("mode") == "text":
            return store.search(text, k, **options)
        return store.search(self._embedding.embed_query(text), k, **{"text": text, **options})

    async def _afound(self, query: str, k: int, options: dict[str, Any]) -> SearchResults:
        store, text = self._astore, check_text("the query", query)
        if self._embedding is None or options.get("mode") == "text":
            return await store.search(text, k, **options)
        return await store.search(await self._embedding.aembed_query(text), k, **{"text": text, **options})

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return the adapter of ``store=``, one of our sync stores, with texts added; the rest is ``add_texts``'s."""
        made = cls(_given_store(kwargs), embedding=embedding)
        made.add_texts(texts, metadatas, ids=ids, **kwargs)
        return made

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """As ``from_texts``; ``store=`` is one of our async stores."""
        made = cls(_given_store(kwargs), embedding=embedding)
        await made.aadd_texts(texts, metadatas, ids=ids, **kwargs)
        return made

    @property
    def _store(self) -> VectorStore:
        if self._sync is None:
            raise missing_side(self._url, "sync", "with", "VectorStore")
        return self._sync

    @property
    def _astore(self) -> AsyncVectorStore:
        if self._async is None:
            raise missing_side(self._url, "async", "async with", "AsyncVectorStore")
        return self._async


_STORES = {
    "postgresql": (PgVectorStore, AsyncPgVectorStore),
    "sqlite": (SQLiteVectorStore, AsyncSQLiteVectorStore),
    "redis": (RedisVectorStore, AsyncRedisVectorStore),
}
_NAME = "langchain"


def _opened(manager: DatabaseManager, url: str, options: dict[str, Any]) -> VectorStore:
    """Return a store on a connection of its own."""
    kind, options = kind_of(url, options)
    if kind == "postgresql":
        manager.add_pgvector(_NAME, url, dimensions=options["dimensions"])
    else:
        manager.add(_NAME, url)
    store: VectorStore = _STORES[kind][0](manager, _NAME, **options)
    return store


async def _aopened(manager: AsyncDatabaseManager, url: str, options: dict[str, Any]) -> AsyncVectorStore:
    kind, options = kind_of(url, options)
    if kind == "postgresql":
        await manager.add_pgvector(_NAME, url, dimensions=options["dimensions"])
    else:
        await manager.add(_NAME, url)
    store: AsyncVectorStore = _STORES[kind][1](manager, _NAME, **options)
    return store


def _given_store(options: dict[str, Any]) -> Any:
    """Take ``store=`` out of a call's keywords."""
    if "store" not in options:
        raise ConfigError("there is no store to put the texts in", hint="pass store=, one of holdfast's")
    return options.pop("store")


def _document(found: Document | SearchResult) -> LangChainDocument:
    return LangChainDocument(id=found.id, page_content=found.content, metadata=dict(found.metadata))


def _scored(found: Iterable[SearchResult]) -> Scored:
    return [(_document(each), each.score) for each in found]


def _check_embedding(embedding: object) -> Embeddings | None:
    if embedding is None or isinstance(embedding, Embeddings):
        return embedding
    raise ConfigError(
        f"a {type(embedding).__name__} is no Embeddings of LangChain", hint="give other embedders to the store itself"
    )
