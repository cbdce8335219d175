"""Documents with embeddings, found by similarity: on PostgreSQL with pgvector, in a SQLite file, or in memory.

The three calls that a program needs::

    store = PgVectorStore(manager, "vectors", dimensions=384)
    store.store_documents([Document("a", "a text", {"year": 2024}, vector), …])
    store.search(query_vector, k=5, filter={"year": {"$gte": 2020}}, min_score=0.5)

Every store that waits has an async twin, ``AsyncPgVectorStore`` for ``PgVectorStore`` and so on, with the same methods.

**Stores.** ``VectorStore`` is the contract of all: ``store_documents``, ``replace_source``, ``get``, ``get_many``,
``exists``, ``list_documents``, ``iterate``, ``update_document``, ``patch_document``, ``delete``, ``delete_expired``,
``count``, ``search`` and its short forms, ``search_many``, ``explain``. ``PgVectorStore`` and ``SQLiteVectorStore``
stand on a connection of a ``DatabaseManager`` and join the transaction that they are called in; ``RedisVectorStore``
needs the vector sets of Redis 8; ``MemoryVectorStore`` is gone with its process. A store is bound to a collection, a
namespace within it (``in_namespace``) and, where a database is shared, to a tenant.

An ``AdoptedTable`` is a PostgreSQL table of your own that becomes a collection.

**Records.** ``Document`` goes in, ``SearchResults`` of ``SearchResult`` come out, and say by which ``plan`` they were
found; ``Explanation`` tells more of it. A ``Vector`` is a list, tuple or array of numbers. ``BatchError`` lists the
batches of a load that failed as ``BatchFailure``; ``ProgressBar`` shows how far one is.

**Embedders.** An ``Embedder`` makes vectors of texts. Models of sentence-transformers and LangChain are taken as they
are; ``EmbedderAdapter`` names them otherwise.

**Scores.** Higher is better, on one scale on every backend: the cosine in [-1, 1], the inner product as it is, and
``1 / (1 + distance)`` for l2 and l1.

**Ranking.** ``Fusion`` says how words and vectors become one list, ``Diversity`` how far results shall differ; a
``Reranker`` gives them scores of its own.

**Filters.** A ``Filter`` is a mapping such as ``{"$or": [{"section": "games"}, {"size": {"$lt": 100}}]}``; its language
is described in ``vectorstore.filters`` and gives the same rows on every backend.

**Files.** ``FileVectorIndex`` keeps ids with their vectors in plain files, in versions, without a database.

**Indexes.** A search compares all vectors until ``PgVectorStore.build_index`` was called, which pays from some 10,000
documents on and tells its ``BuildProgress``.
"""

from vectorstore._async.memory import AsyncMemoryVectorStore
from vectorstore._async.pgvector import AsyncPgVectorStore
from vectorstore._async.redis import AsyncRedisVectorStore
from vectorstore._async.sqlite import AsyncSQLiteVectorStore
from vectorstore._async.store import AsyncVectorStore
from vectorstore._sync.memory import MemoryVectorStore
from vectorstore._sync.pgvector import PgVectorStore
from vectorstore._sync.redis import RedisVectorStore
from vectorstore._sync.sqlite import SQLiteVectorStore
from vectorstore._sync.store import VectorStore
from vectorstore.adoption import AdoptedTable
from vectorstore.embedders import EmbedderAdapter
from vectorstore.file_index import FileVectorIndex
from vectorstore.filters import Filter
from vectorstore.index import BuildProgress
from vectorstore.index_entries import IndexMatch
from vectorstore.index_files import IndexVersion
from vectorstore.progress import ProgressBar
from vectorstore.records import (
    BatchError,
    BatchFailure,
    Document,
    Embedder,
    Explanation,
    SearchResult,
    SearchResults,
    Vector,
)
from vectorstore.requests import Diversity, Fusion, Reranker

__all__ = [
    "AdoptedTable",
    "AsyncMemoryVectorStore",
    "AsyncPgVectorStore",
    "AsyncRedisVectorStore",
    "AsyncSQLiteVectorStore",
    "AsyncVectorStore",
    "BatchError",
    "BatchFailure",
    "BuildProgress",
    "Diversity",
    "Document",
    "Embedder",
    "EmbedderAdapter",
    "Explanation",
    "FileVectorIndex",
    "Filter",
    "Fusion",
    "IndexMatch",
    "IndexVersion",
    "MemoryVectorStore",
    "PgVectorStore",
    "ProgressBar",
    "RedisVectorStore",
    "Reranker",
    "SQLiteVectorStore",
    "SearchResult",
    "SearchResults",
    "Vector",
    "VectorStore",
]
