"""A peer's vector store, told by lines of JSON what to do, in an interpreter that has the peers and not holdfast.

``python vector_stores.py PEER URL FOLDER``. The folder has ``documents.jsonl``, ``vectors.npy`` and ``queries.npy``,
the database the documents in a table ``floor``. Each line is a call and its arguments, each answer a line.
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import psycopg

EF_SEARCH = 100
K = 10


class Peer(ABC):
    """What each is asked for; ``relation`` and ``column`` are its table and its vectors."""

    relation: str
    column = "embedding"

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.documents = [json.loads(line) for line in (folder / "documents.jsonl").read_text("utf-8").splitlines()]
        self.vectors = np.load(folder / "vectors.npy")
        queries = np.load(folder / "queries.npy")
        self.lists = [query.tolist() for query in queries]
        self._turning = cycle(self.lists)
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Open a store, its table made and empty."""

    @abstractmethod
    def add(self, rows: range) -> None:
        """Store these documents."""

    @abstractmethod
    def fill(self, connection: psycopg.Connection[Any]) -> None:
        """Store all other documents, in any way."""

    @abstractmethod
    def ids(self, query: list[float]) -> list[str]:
        """Search, and return the ids."""

    def load(self, count: int) -> float:
        """Return the seconds that storing so many documents took."""
        started = perf_counter()
        self.add(range(count))
        return perf_counter() - started

    def index(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            self.fill(connection)
            connection.execute(f"CREATE INDEX ON {self.relation} USING hnsw ({self.column} vector_cosine_ops)")
            connection.execute(f"VACUUM ANALYZE {self.relation}")

    def found(self) -> list[list[str]]:
        return [self.ids(query) for query in self.lists]

    def search(self, calls: int) -> float:
        """Return the seconds that so many searches took."""
        started = perf_counter()
        for _ in range(calls):
            self.ids(next(self._turning))
        return perf_counter() - started

    def clients(self, count: int, seconds: float) -> float:
        """Return the searches a second of so many threads."""
        end = perf_counter() + seconds

        def run(first: int) -> int:
            done = 0
            for query in cycle(self.lists[first:]):
                if perf_counter() >= end:
                    break
                self.ids(query)
                done += 1
            return done

        with ThreadPoolExecutor(count) as executor:
            return sum(executor.map(run, range(count))) / seconds


class LangChain(Peer):
    """``PGVectorStore`` of langchain-postgres."""

    relation = "langchain_documents"

    def prepare(self) -> None:
        from langchain_core.embeddings import DeterministicFakeEmbedding
        from langchain_postgres import Column, PGEngine, PGVectorStore
        from langchain_postgres.v2.indexes import HNSWQueryOptions

        engine = PGEngine.from_connection_string(self.url.replace("postgresql:", "postgresql+psycopg:"), pool_size=8)
        engine.init_vectorstore_table(self.relation, self.vectors.shape[1], id_column=Column("langchain_id", "VARCHAR"))
        self.store = PGVectorStore.create_sync(
            engine,
            DeterministicFakeEmbedding(size=self.vectors.shape[1]),
            self.relation,
            index_query_options=HNSWQueryOptions(ef_search=EF_SEARCH),
        )

    def add(self, rows: range) -> None:
        documents = [self.documents[row] for row in rows]
        self.store.add_embeddings(
            [each["content"] for each in documents],
            [self.vectors[row].tolist() for row in rows],
            [each["metadata"] for each in documents],
            [each["id"] for each in documents],
        )

    def fill(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(
            f"INSERT INTO {self.relation} (langchain_id, content, embedding, langchain_metadata)"
            " SELECT id, content, embedding, metadata FROM floor ON CONFLICT DO NOTHING"
        )

    def ids(self, query: list[float]) -> list[str]:
        return [str(each.id) for each, _ in self.store.similarity_search_with_score_by_vector(query, K)]


class LlamaIndex(Peer):
    """``PGVectorStore`` of llama-index."""

    relation = "data_llama"

    def prepare(self) -> None:
        from llama_index.core.schema import TextNode
        from llama_index.core.vector_stores.types import VectorStoreQuery
        from llama_index.vector_stores.postgres import PGVectorStore

        self.node, self.query = TextNode, VectorStoreQuery
        store = PGVectorStore.from_params(
            connection_string=self.url.replace("postgresql:", "postgresql+psycopg2:"),
            async_connection_string=self.url.replace("postgresql:", "postgresql+asyncpg:"),
            table_name="llama",
            embed_dim=self.vectors.shape[1],
            use_jsonb=True,
            create_engine_kwargs={"pool_size": 8},
        )
        self.store: Any = store
        store.add([])
        # Given here, it would make its index before the load.
        store.hnsw_kwargs = {"hnsw_ef_search": EF_SEARCH}

    def nodes(self, rows: range) -> list[Any]:
        return [
            self.node(id_=each["id"], text=each["content"], metadata=each["metadata"], embedding=vector.tolist())
            for each, vector in ((self.documents[row], self.vectors[row]) for row in rows)
        ]

    def add(self, rows: range) -> None:
        self.store.add(self.nodes(rows))

    def fill(self, connection: psycopg.Connection[Any]) -> None:
        from llama_index.core.vector_stores.utils import node_to_metadata_dict

        there = connection.execute(f"SELECT count(*) FROM {self.relation}").fetchone()
        columns = "(text, metadata_, node_id, embedding)"
        with connection.cursor().copy(f"COPY {self.relation} {columns} FROM STDIN") as copy:
            for node in self.nodes(range(there[0] if there else 0, len(self.documents))):
                metadata = json.dumps(node_to_metadata_dict(node, remove_text=True))
                copy.write_row((node.text, metadata, node.node_id, json.dumps(node.embedding)))

    def ids(self, query: list[float]) -> list[str]:
        return list(self.store.query(self.query(query_embedding=query, similarity_top_k=K)).ids)


class Vecs(Peer):
    """``Collection`` of vecs, which keeps contents in the metadata."""

    relation = "vecs.vecs_documents"
    column = "vec"

    def prepare(self) -> None:
        import vecs

        client = vecs.create_client(self.url.replace("postgresql:", "postgresql+psycopg2:"))
        self.store = client.get_or_create_collection("vecs_documents", dimension=self.vectors.shape[1])

    def add(self, rows: range) -> None:
        self.store.upsert(
            (each["id"], vector, each["metadata"] | {"content": each["content"]})
            for each, vector in ((self.documents[row], self.vectors[row]) for row in rows)
        )

    def fill(self, connection: psycopg.Connection[Any]) -> None:
        connection.execute(
            f"INSERT INTO {self.relation} (id, vec, metadata)"
            " SELECT id, embedding, metadata || jsonb_build_object('content', content) FROM floor"
            " ON CONFLICT DO NOTHING"
        )

    def ids(self, query: list[float]) -> list[str]:
        found = self.store.query(query, K, include_value=True, include_metadata=True, ef_search=EF_SEARCH)
        return [row[0] for row in found]


PEERS: dict[str, type[Peer]] = {"langchain-postgres": LangChain, "llama-index": LlamaIndex, "vecs": Vecs}


def main() -> None:
    """Answer until there is no more to do."""
    answers, sys.stdout = sys.stdout, sys.stderr
    name, url, folder = sys.argv[1:]
    peer: Peer | None = None
    try:
        peer = PEERS[name](url, Path(folder))
        answer: dict[str, Any] = {"done": None}
    except Exception as exc:  # whatever keeps a peer away is told by its name
        answer = {"error": f"{type(exc).__name__}: {exc}".splitlines()[0]}
    print(json.dumps(answer), file=answers, flush=True)
    for line in sys.stdin if peer is not None else ():
        call, arguments = json.loads(line)
        print(json.dumps({"done": getattr(peer, call)(*arguments)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
