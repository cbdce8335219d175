"""Documents with embeddings, found by similarity: on PostgreSQL with pgvector, in a SQLite file, or in memory.

The three calls that a program needs::

    store = PgVectorStore(manager, "vectors", dimensions=384)
    store.store_documents([Document("a", "a text", {"year": 2024}, vector), …])
    store.search(query_vector, k=5, filter={"year": {"$gte": 2020}}, min_score=0.5)

Every store that waits has an async twin, ``AsyncPgVectorStore`` for ``PgVectorStore`` and so on, with the same methods.

**Stores.** ``VectorStore`` is the contract of all: ``store_documents``, ``get``, ``get_many``, ``update_document``,
``delete``, ``count``, ``search`` and its short forms. ``PgVectorStore`` and ``SQLiteVectorStore`` stand on a connection
of a ``DatabaseManager`` and join the transaction that they are called in; ``MemoryVectorStore`` is gone with its
process. A store is bound to a collection and, where a database is shared, to a tenant.

**Records.** ``Document`` goes in, ``SearchResult`` comes out. A ``Vector`` is a list, tuple or array of numbers. An
``Embedder`` makes vectors of texts.

**Scores.** Higher is better, on one scale on every backend: the cosine in [-1, 1], the inner product as it is, and
``1 / (1 + distance)`` for l2 and l1.

**Filters.** A ``Filter`` is a mapping such as ``{"$or": [{"section": "games"}, {"size": {"$lt": 100}}]}``; its language
is described in ``vectorstore.filters`` and gives the same rows on every backend.

**Indexes.** A search compares all vectors until ``PgVectorStore.build_index`` was called, which pays from some 10,000
documents on.
"""

from vectorstore._async.memory import AsyncMemoryVectorStore
from vectorstore._async.pgvector import AsyncPgVectorStore
from vectorstore._async.sqlite import AsyncSQLiteVectorStore
from vectorstore._async.store import AsyncVectorStore
from vectorstore._sync.memory import MemoryVectorStore
from vectorstore._sync.pgvector import PgVectorStore
from vectorstore._sync.sqlite import SQLiteVectorStore
from vectorstore._sync.store import VectorStore
from vectorstore.filters import Filter
from vectorstore.records import Document, Embedder, SearchResult, Vector

__all__ = [
    "AsyncMemoryVectorStore",
    "AsyncPgVectorStore",
    "AsyncSQLiteVectorStore",
    "AsyncVectorStore",
    "Document",
    "Embedder",
    "Filter",
    "MemoryVectorStore",
    "PgVectorStore",
    "SQLiteVectorStore",
    "SearchResult",
    "Vector",
    "VectorStore",
]
