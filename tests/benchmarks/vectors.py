"""Vector stores: search, filters, many at once, loads and quality, beside plain SQL in the same run.

The floor is psycopg with pgvector's own adapters: prepared statements, vectors in binary, settings made once for the
connection. The peers run in turns with both, each in a process of its own, with their own options at the same
ef_search; their searches give contents, metadata and scores as ours do. ``--data`` (or HOLDFAST_BENCH_DATA) is the
folder of debian10k, cranfield and med, ``../shared/data`` when it is left out; ``--rows=100000`` repeats debian10k with
noise.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import psycopg
from pgvector.psycopg import register_vector

from persistence import DatabaseManager, EmbeddedPostgreSQL, PgVectorConfig
from tests.benchmarks.measure import block_of, blocks_in_turns, in_turns, report
from tests.benchmarks.peers import Peer, PeerError, started
from vectorstore import Document, PgVectorStore

SETTINGS = {"shared_buffers": "512MB", "maintenance_work_mem": "512MB", "max_connections": "60"}
FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "0.5 %": {"tenant": {"$in": []}},
    "f01": {"bucket": {"$lt": 1}},
    "5 %": {"bucket": {"$lt": 5}},
    "f10": {"bucket": {"$lt": 10}},
    "f50": {"bucket": {"$lt": 50}},
    "games": {"section": "games"},
    "tenant150": {"tenant": "t150"},
}
PASSES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "all": lambda m: True,
    "0.5 %": lambda m: m["tenant"] in CHOSEN,
    "f01": lambda m: m["bucket"] < 1,
    "5 %": lambda m: m["bucket"] < 5,
    "f10": lambda m: m["bucket"] < 10,
    "f50": lambda m: m["bucket"] < 50,
    "games": lambda m: m["section"] == "games",
    "tenant150": lambda m: m["tenant"] == "t150",
}
CHOSEN: list[str] = []
PEERS = ("langchain-postgres", "llama-index", "vecs")
PEER_ROWS = 1000
"""So many documents are loaded by a peer's own call; the others get into its table by COPY."""
EF_SEARCH = 100
K = 10


@dataclass
class Data:
    """Documents with their vectors, and questions with theirs."""

    documents: list[Document]
    vectors: np.ndarray[Any, Any]
    queries: np.ndarray[Any, Any]

    def truth(self, passes: Callable[[dict[str, Any]], bool]) -> list[set[str]]:
        """Return the ids of the exactly nearest that pass."""
        rows = np.array([n for n, each in enumerate(self.documents) if passes(dict(each.metadata))])
        if not len(rows):
            return [set() for _ in self.queries]
        similar = self.queries @ self.vectors[rows].T
        best = np.argsort(-similar, axis=1, kind="stable")[:, :K]
        return [{self.documents[rows[n]].id for n in each} for each in best]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def debian(folder: Path, rows: int) -> Data:
    """Return debian10k, repeated with noise up to so many rows."""
    corpus, vectors = lines(folder / "debian10k/corpus.jsonl"), np.load(folder / "debian10k/corpus_minilm.npy")
    generator = np.random.default_rng(1)
    documents, all_vectors = list[Document](), list[np.ndarray[Any, Any]]()
    for turn in range(-(-rows // len(corpus))):
        noisy = vectors
        if turn:
            noisy = vectors + generator.normal(scale=0.02, size=vectors.shape)
            noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        all_vectors.append(noisy.astype(np.float32))
        for row, vector in zip(corpus, all_vectors[-1], strict=True):
            # Of the copies, bucket and tenant are made up anew; the sections stay what they are.
            metadata = dict(row["metadata"])
            if turn:
                metadata |= {"bucket": int(generator.integers(100)), "tenant": f"t{int(generator.integers(200)):03}"}
            documents.append(Document(f"{row['id']}/{turn}" if turn else row["id"], row["content"], metadata, vector))
    return Data(documents[:rows], np.concatenate(all_vectors)[:rows], np.load(folder / "debian10k/queries_minilm.npy"))


class Floor:
    """The plainest fast way to do the same."""

    def __init__(self, config: PgVectorConfig, data: Data) -> None:
        self._config = config
        self.connection = self.connect()
        self.connection.execute(
            "CREATE TABLE floor (id text PRIMARY KEY, content text, metadata jsonb, embedding vector(384))"
        )
        self.connection.execute("ALTER TABLE floor ALTER embedding SET STORAGE plain")
        self.load(data.documents)

    def connect(self) -> psycopg.Connection[Any]:
        made = psycopg.connect(**self._config.connection_parameters(), autocommit=True, prepare_threshold=0)
        made.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(made)
        made.execute(f"SET hnsw.ef_search = {EF_SEARCH}")
        return made

    def load(self, documents: list[Document]) -> float:
        """Load by binary COPY; return the seconds it took."""
        started = perf_counter()
        with self.connection.cursor().copy("COPY floor FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["text", "text", "jsonb", "vector"])
            for each in documents:
                copy.write_row((each.id, each.content, psycopg.types.json.Jsonb(each.metadata), each.embedding))
        return perf_counter() - started

    def index(self) -> None:
        self.connection.execute("CREATE INDEX ON floor USING hnsw (embedding vector_cosine_ops)")
        self.connection.execute("ANALYZE floor")

    def search(self, query: Any, connection: psycopg.Connection[Any] | None = None) -> list[Any]:
        cursor = (connection or self.connection).execute(
            "SELECT id, content, metadata, embedding <=> %s AS distance FROM floor ORDER BY embedding <=> %s LIMIT 10",
            (query, query),
            binary=True,
        )
        return cursor.fetchall()


class Bench:
    """A server of its own with the same documents in the floor's table and in a store."""

    def __init__(self, stack: ExitStack, data: Data, declared: bool) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.server = stack.enter_context(EmbeddedPostgreSQL(folder / "pg", settings=SETTINGS))
        base = self.server.config("postgres")
        own = {item.name: getattr(base, item.name) for item in fields(base)}
        self.config = PgVectorConfig(**own, dimensions=384)
        self.manager = stack.enter_context(DatabaseManager())
        self.manager.add_pgvector("main", replace(self.config, max_connections=10))
        self.data = data
        self.floor = Floor(self.config, data)
        keys: dict[str, type] = {"bucket": int, "tenant": str, "section": str} if declared else {}
        self.store = PgVectorStore(self.manager, "main", keys=keys)
        self.peers: dict[str, Peer] = {}
        self._stack, self._folder = stack, folder

    def with_peers(self) -> Bench:
        """Start the peers that can be had; name the others."""
        np.save(self._folder / "vectors.npy", self.data.vectors)
        np.save(self._folder / "queries.npy", self.data.queries)
        with (self._folder / "documents.jsonl").open("w", encoding="utf-8") as file:
            for each in self.data.documents:
                told = {"id": each.id, "content": each.content, "metadata": dict(each.metadata)}
                print(json.dumps(told), file=file)
        for name in PEERS:
            try:
                arguments = [name, self.server.url, str(self._folder)]
                self.peers[name] = self._stack.enter_context(started("vector_stores.py", arguments))
            except PeerError as exc:
                print(f"  without {name}: {exc}")
        return self

    def built(self) -> Bench:
        """Fill the store and make both indexes."""
        self.floor.connection.execute("TRUNCATE floor")
        self.floor.load(self.data.documents)
        self.store.store_documents(self.data.documents)
        self.store.build_index()
        self.floor.index()
        for peer in self.peers.values():
            peer.call("index")
        self.floor.connection.execute("VACUUM ANALYZE")
        return self


def turning(queries: np.ndarray[Any, Any]) -> Iterator[Any]:
    while True:
        yield from queries


def searches(bench: Bench, quick: bool) -> None:
    """One client, and eight; unfiltered."""
    rounds, calls = (7, 50) if quick else (25, 100)
    ours, floors = turning(bench.data.queries), turning(bench.data.queries)
    truth = bench.data.truth(PASSES["all"])
    found = {
        "floor": [{row[0] for row in bench.floor.search(query)} for query in bench.data.queries],
        "holdfast": [{each.id for each in bench.store.search(query, K)} for query in bench.data.queries],
        **{name: list(map(set, peer.call("found"))) for name, peer in bench.peers.items()},
    }
    for name, sets in found.items():
        print(f"  recall@10 {name:<20} {mean(len(a & b) / len(b) for a, b in zip(sets, truth, strict=True)):.3f}")
    ways: dict[str, Callable[[int], float]] = {
        "floor": block_of(lambda: bench.floor.search(next(floors))),
        "holdfast": block_of(lambda: bench.store.search(next(ours), K)),
        **{name: partial(peer.call, "search") for name, peer in bench.peers.items()},
    }
    times = blocks_in_turns(ways, rounds=rounds, calls=calls)
    peers = {name: times.pop(name) for name in bench.peers}
    report("search, 10 of all, one client (2.5 times as fast as the peers)", times, floor="floor", bound=1.15)
    for name, seconds in peers.items():
        beside = f"x{seconds / times['floor']:.2f}   holdfast x{seconds / times['holdfast']:.1f}"
        print(f"  {name:<44} {seconds * 1e6:>10.1f} us   {beside}")
    eight_clients(bench, quick)


def eight_clients(bench: Bench, quick: bool) -> None:
    seconds = 1.0 if quick else 2.0
    connections = [bench.floor.connect() for _ in range(8)]
    ways: dict[str, Callable[[int, float], float]] = {
        "floor": rate_of(bench, lambda n, query: bench.floor.search(query, connections[n])),
        "holdfast": rate_of(bench, lambda n, query: bench.store.search(query, K)),
        **{name: partial(peer.call, "clients") for name, peer in bench.peers.items()},
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3 if quick else 7):
        for name, way in ways.items():
            rates[name].append(way(8, seconds))
    print("\nsearch, 10 of all, eight threads: searches a second (bound 1.2 of the floor's time)")
    for name, found in rates.items():
        print(f"  {name:<44} {median(found):>10,.0f}   x{median(rates['floor']) / median(found):.2f} time")
    for connection in connections:
        connection.close()


def rate_of(bench: Bench, way: Callable[[int, Any], Any]) -> Callable[[int, float], float]:
    """Return what gives the searches a second of so many threads."""

    def rate(count: int, seconds: float) -> float:
        end = perf_counter() + seconds

        def run(n: int) -> int:
            done, queries = 0, turning(bench.data.queries[n:])
            while perf_counter() < end:
                way(n, next(queries))
                done += 1
            return done

        with ThreadPoolExecutor(count) as executor:
            return sum(executor.map(run, range(count))) / seconds

    return rate


def many(bench: Bench, quick: bool) -> None:
    """Twenty queries at once."""
    twenty = list(bench.data.queries[:20])
    ways: dict[str, Any] = {
        "floor": lambda: [bench.floor.search(query) for query in twenty],
        "holdfast": lambda: bench.store.search_many(twenty, K),
    }
    report("search_many, 20 queries", in_turns(ways, rounds=5 if quick else 15, calls=5), floor="floor", bound=0.83)


def mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)


def tenants_of(data: Data, wanted: int) -> list[str]:
    """Return the smallest tenants that have about so many documents together."""
    sizes = Counter(str(each.metadata["tenant"]) for each in data.documents)
    chosen: list[str] = []
    for tenant, _ in sorted(sizes.items(), key=lambda item: (item[1], item[0])):
        if sum(sizes[each] for each in chosen) < wanted:
            chosen.append(tenant)
    return chosen


def filtered(bench: Bench, quick: bool) -> None:
    """Recall and time under filters that leave few and many."""
    CHOSEN[:] = tenants_of(bench.data, len(bench.data.documents) // 200)
    FILTERS["0.5 %"] = {"tenant": {"$in": CHOSEN}}
    print(f"\nfiltered, {len(bench.data.documents):,} documents: recall@10, rows, plan, p50 and p95 in ms")
    for name, passes in PASSES.items():
        truth = bench.data.truth(passes)
        found = [bench.store.search(query, K, filter=FILTERS[name] or None) for query in bench.data.queries]
        times = []
        for query in bench.data.queries:
            started = perf_counter()
            bench.store.search(query, K, filter=FILTERS[name] or None)
            times.append(perf_counter() - started)
        recall = mean(len({r.id for r in a} & b) / max(1, len(b)) for a, b in zip(found, truth, strict=True))
        matching = sum(passes(dict(each.metadata)) for each in bench.data.documents)
        print(
            f"  {name:<10} {matching:>8,} match  recall {recall:.3f}  rows {mean(map(len, found)):4.1f}"
            f"  {found[0].plan:<6} {1000 * median(times):7.2f} {1000 * sorted(times)[int(0.95 * len(times))]:7.2f}"
        )
    one, floors, ours = FILTERS["f01"], turning(bench.data.queries), turning(bench.data.queries)
    ways: dict[str, Any] = {
        "floor, unfiltered": lambda: bench.floor.search(next(floors)),
        "holdfast, 1 %": lambda: bench.store.search(next(ours), K, filter=one),
    }
    found_times = in_turns(ways, rounds=5 if quick else 15, calls=50)
    report("1 % filter against the unfiltered floor", found_times, floor="floor, unfiltered", bound=1.25)


def loads(bench: Bench, quick: bool) -> None:
    """Rows a second into an empty table, without an index of vectors."""
    documents = bench.data.documents[:10_000]
    rates: dict[str, list[float]] = {"floor": [], "holdfast": []}
    for _ in range(2 if quick else 5):
        bench.floor.connection.execute("TRUNCATE floor")
        rates["floor"].append(len(documents) / bench.floor.load(documents))
        bench.store.delete(filter={})
        bench.floor.connection.execute("TRUNCATE holdfast_documents_documents")
        started = perf_counter()
        bench.store.store_documents(documents)
        rates["holdfast"].append(len(documents) / (perf_counter() - started))
    rates |= {name: [PEER_ROWS / peer.call("load", PEER_ROWS)] for name, peer in bench.peers.items()}
    print("\nload, rows a second (bound 0.7 of the floor, 30 times langchain-postgres)")
    for name, found in rates.items():
        beside = (
            "" if name in ("floor", "holdfast") else f"   holdfast x{median(rates['holdfast']) / median(found):.0f}"
        )
        print(f"  {name:<44} {median(found):>10,.0f}   x{median(found) / median(rates['floor']):.2f}{beside}")


def quality(stack: ExitStack, folder: Path, bench: Bench) -> None:
    """nDCG@10 on collections with judgements."""
    print("\nnDCG@10                       cranfield      med")
    table: dict[str, list[float]] = {}
    for name in ("cranfield", "med"):
        base = folder / name
        vectors = np.load(base / "corpus_minilm.npy")
        corpus = lines(base / "corpus.jsonl")
        queries, asked = np.load(base / "queries_minilm.npy"), lines(base / "queries.jsonl")
        judged: dict[str, dict[str, int]] = {}
        for row in (base / "qrels.tsv").read_text().splitlines()[1:]:
            query, document, relevance = row.split("\t")
            judged.setdefault(query, {})[document] = int(relevance)
        store = PgVectorStore(bench.manager, "main", collection=name, text_search="english")
        store.store_documents(
            Document(row["id"], f"{row.get('title', '')}. {row['text']}".removeprefix(". "), {}, vector)
            for row, vector in zip(corpus, vectors, strict=True)
        )
        for analysed in (False, True):
            if analysed:
                bench.manager.get_pgvector("main").execute(f"ANALYZE holdfast_documents_{name}")
            for mode in ("vector", "text", "hybrid"):
                found = [
                    [r.id for r in store.search(vector, K, mode=mode, text=each["text"], exact=True)]
                    for each, vector in zip(asked, queries, strict=True)
                ]
                score = mean(ndcg(ids, judged.get(each["id"], {})) for each, ids in zip(asked, found, strict=True))
                table.setdefault(f"{mode}{', analysed' if analysed else ''}", []).append(score)
    for mode_name, scores in table.items():
        print(f"  {mode_name:<26} " + "  ".join(f"{score:9.4f}" for score in scores))


def ndcg(ids: list[str], judged: dict[str, int]) -> float:
    gain = sum(judged.get(id, 0) / np.log2(rank + 1) for rank, id in enumerate(ids, 1))
    best = sum(value / np.log2(rank + 1) for rank, value in enumerate(sorted(judged.values(), reverse=True)[:K], 1))
    return float(gain / best) if best else 0.0


def main(arguments: list[str] | None = None) -> None:
    """Run everything on a server of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.vectors", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--declared", action="store_true", help="declare the metadata keys")
    parser.add_argument("--only", choices=["search", "many", "filtered", "load", "quality"])
    parser.add_argument("--no-peers", action="store_true", help="leave out the other libraries")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HOLDFAST_BENCH_DATA", "../shared/data")))
    options = parser.parse_args([] if arguments is None else arguments)
    if not (options.data / "debian10k").is_dir():
        print(f"skipped: {options.data} has no debian10k; name the folder by --data or HOLDFAST_BENCH_DATA")
        return
    data = debian(options.data, options.rows)
    with ExitStack() as stack:
        bench = Bench(stack, data, options.declared)
        if not options.no_peers and options.only in (None, "load", "search"):
            bench.with_peers()
        if options.only in (None, "quality"):
            quality(stack, options.data, bench)
        if options.only in (None, "load"):
            loads(bench, options.quick)
        if options.only in ("quality", "load"):
            return
        bench.built()
        for name, part in (("search", searches), ("many", many), ("filtered", filtered)):
            if options.only in (None, name):
                part(bench, options.quick)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
