"""The stores without a server: exact search beside the bare numpy product, filters, words, loads, reopening, quality.

``--data`` (or HOLDFAST_BENCH_DATA) is the folder of debian10k, cranfield and med, ``../shared/data`` when it is left
out; ``--rows`` is how many rows are reopened. The product is taken with one thread of BLAS.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is loaded, by whichever benchmark

import numpy as np

from persistence import DatabaseManager, SQLiteConfig
from tests.benchmarks.measure import calls_in_turns, in_turns, report
from vectorstore import Document, FileVectorIndex, Fusion, MemoryVectorStore, SQLiteVectorStore, VectorStore

DEFAULT = Path(os.environ.get("HOLDFAST_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
FILTERS: dict[str, dict[str, Any]] = {
    "1 %": {"bucket": {"$lt": 1}},
    "10 %": {"bucket": {"$lt": 10}},
    "50 %": {"bucket": {"$lt": 50}},
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def documents(folder: Path) -> list[Document]:
    found = []
    for row, vector in zip(lines(folder / "corpus.jsonl"), np.load(folder / "corpus_minilm.npy"), strict=True):
        text = row.get("text") or row.get("content") or ""
        content = ". ".join(filter(None, [row.get("title"), text]))
        found.append(Document(str(row["id"]), content, row.get("metadata") or {}, vector))
    return found


def turning(values: Any) -> Iterator[Any]:
    while True:
        yield from values


def loads(folder: Path, rows: list[Document]) -> None:
    print("\nloads of 10,000 rows, batches of 1,000: rows a second")
    for words in (None, "english"):
        with DatabaseManager() as manager:
            manager.add_sqlite("main", SQLiteConfig(path=str(folder / f"load-{words}.db")))
            store = SQLiteVectorStore(manager, "main", dimensions=384, text_search=words)
            store.count()
            started = perf_counter()
            store.store_documents(rows)
            print(f"  SQLite, text_search={words!s:<24} {len(rows) / (perf_counter() - started):>10,.0f}")


def searches(folder: Path, data: Path, rows: list[Document], quick: bool) -> None:
    vectors = np.array([row.embedding for row in rows], np.float32)
    queries = np.load(data / "debian10k/queries_minilm.npy")
    texts = [row["text"] for row in lines(data / "debian10k/queries.jsonl")]
    rounds, calls = (9, 50) if quick else (41, 100)
    with DatabaseManager() as manager:
        manager.add_sqlite("main", SQLiteConfig(path=str(folder / "search.db")))
        stores: dict[str, VectorStore] = {
            "SQLite": SQLiteVectorStore(manager, "main", dimensions=384, text_search="english"),
            "memory": MemoryVectorStore(dimensions=384, text_search="english"),
        }
        for store in stores.values():
            store.store_documents(rows)
        index = FileVectorIndex(folder / "indexes")
        index.add([row.id for row in rows], vectors)
        floors = turning(queries)
        ways: dict[str, Callable[[], Any]] = {"the bare product": lambda: vectors @ next(floors)}
        ours = turning(queries)
        for name, store in stores.items():
            ways[name] = lambda store=store: store.search(next(ours), 10)  # type: ignore[misc]
        ways["FileVectorIndex"] = lambda: index.search(next(ours), 10)
        found = calls_in_turns(ways, rounds=rounds, calls=calls)
        p50 = {name: median(each) for name, each in found.items()}
        report("exact search, 10 of 10,000 rows, one thread: p50", p50, floor="the bare product", bound=1.2)
        means = {name: mean(each) for name, each in found.items()}
        report("the same: mean", means, floor="the bare product")
        eight_threads(stores["SQLite"], queries, quick)
        some = turning(list(zip(queries, texts, strict=True)))
        sqlite = stores["SQLite"]
        ways = {"all": lambda: sqlite.search(next(ours), 10)}
        for name, filter in FILTERS.items():
            ways[name] = lambda filter=filter: sqlite.search(next(ours), 10, filter=filter)  # type: ignore[misc]
        ways["text"] = lambda: sqlite.search(next(some)[1], 10, mode="text")

        def hybrid() -> Any:
            vector, text = next(some)
            return sqlite.search(vector, 10, text=text, mode="hybrid")

        ways["hybrid"] = hybrid
        ways["diversity=0.5"] = lambda: sqlite.search(next(ours), 10, diversity=0.5)
        report("SQLite, 10 of 10,000 rows", in_turns(ways, rounds=rounds // 2, calls=20), floor="all")


def eight_threads(store: VectorStore, queries: np.ndarray[Any, Any], quick: bool) -> None:
    seconds = 1.0 if quick else 3.0
    end = perf_counter() + seconds

    def run(first: int) -> int:
        count, own = 0, turning(queries[first:])
        while perf_counter() < end:
            store.search(next(own), 10)
            count += 1
        return count

    with ThreadPoolExecutor(8) as executor:
        total = sum(executor.map(run, range(8)))
    print(f"\nSQLite, eight threads: {total / seconds:,.0f} searches a second")


def reopening(folder: Path, data: Path, rows: list[Document], count: int) -> None:
    """How long a program that just began takes to its first answer."""
    generator = np.random.default_rng(1)
    path = str(folder / "reopen.db")
    query = np.load(data / "debian10k/queries_minilm.npy")[0]

    def noisy() -> Iterator[Document]:
        for n in range(count):
            row = rows[n % len(rows)]
            vector = np.asarray(row.embedding) + generator.normal(scale=0.02, size=384).astype(np.float32)
            yield Document(f"{n}", row.content[:50], {}, vector)

    def first_answer() -> float:
        started = perf_counter()
        with DatabaseManager() as manager:
            manager.add_sqlite("main", SQLiteConfig(path=path))
            SQLiteVectorStore(manager, "main", dimensions=384).search(query, 10)
            return perf_counter() - started

    with DatabaseManager() as manager:
        manager.add_sqlite("main", SQLiteConfig(path=path))
        SQLiteVectorStore(manager, "main", dimensions=384).store_documents(noisy())
    from_database = first_answer()
    from_file = median(first_answer() for _ in range(5))
    index = FileVectorIndex(folder / "indexes")
    index.add([f"{n}" for n in range(count)], np.array([each.embedding for each in noisy()]))
    started = perf_counter()
    index.save()
    saving = perf_counter() - started
    opening = {}
    for verify in (True, False):
        started = perf_counter()
        again = FileVectorIndex(folder / "indexes")
        again.load(verify=verify)
        again.search(query, 10)
        opening[verify] = perf_counter() - started
    adding = []
    for turn in range(6):
        started = perf_counter()
        again.add([f"new {turn} {n}" for n in range(100)], np.array([each.embedding for each in rows[:100]]))
        adding.append(perf_counter() - started)
    print(f"\nreopening {count:,} rows, to the first answer: milliseconds")
    for name, seconds in {
        "SQLite, from the database, writing its file": from_database,
        "SQLite, from the file beside it": from_file,
        "FileVectorIndex.load, checksums of all": opening[True],
        "FileVectorIndex.load(verify=False)": opening[False],
        "FileVectorIndex.save": saving,
        "FileVectorIndex.add of 100 rows, the first": adding[0],
        "FileVectorIndex.add of 100 rows, later": median(adding[1:]),
    }.items():
        print(f"  {name:<44} {seconds * 1e3:>10.1f}")


def quality(folder: Path, data: Path) -> None:
    print("\nnDCG@10")
    discounts = 1 / np.log2(np.arange(2, 12))
    for name in ("cranfield", "med"):
        rows, queries = documents(data / name), lines(data / name / "queries.jsonl")
        vectors = np.load(data / name / "queries_minilm.npy")
        relevant: dict[str, dict[str, float]] = {}
        for line in (data / name / "qrels.tsv").read_text().splitlines()[1:]:
            asked, document, grade = line.split("\t")[:3]
            relevant.setdefault(asked, {})[document] = float(grade)
        with DatabaseManager() as manager:
            manager.add_sqlite("main", SQLiteConfig(path=str(folder / f"{name}.db")))
            store = SQLiteVectorStore(manager, "main", dimensions=384, text_search="english")
            store.store_documents(rows)
            modes: dict[str, dict[str, Any]] = {
                "vector": {},
                "text": {"mode": "text"},
                "hybrid": {"mode": "hybrid"},
                "hybrid, reciprocal rank": {"mode": "hybrid", "fusion": Fusion(method="reciprocal_rank", weight=0.5)},
            }
            for mode, options in modes.items():
                gained = []
                for query, vector in zip(queries, vectors, strict=True):
                    given = {**options, "text": query["text"]} if options else {}
                    found = [each.id for each in store.search(vector, 10, **given)]
                    grades = relevant[str(query["id"])]
                    gains = np.array([grades.get(id, 0.0) for id in found])
                    best = np.array(sorted(grades.values(), reverse=True)[:10])
                    gained.append(gains @ discounts[: len(gains)] / (best @ discounts[: len(best)]))
                print(f"  {name}, {mode:<34} {float(np.mean(gained)):>10.4f}")


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--quick", action="store_true")
    options, _ = parser.parse_known_args()
    rows = documents(options.data / "debian10k")
    with tempfile.TemporaryDirectory() as folder:
        loads(Path(folder), rows)
        searches(Path(folder), options.data, rows, options.quick)
        reopening(Path(folder), options.data, rows, options.rows)
        quality(Path(folder), options.data)


if __name__ == "__main__":
    main()
