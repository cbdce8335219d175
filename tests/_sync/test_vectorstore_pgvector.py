# Generated from ../_async/test_vectorstore_pgvector.py by tests/unasync.py: edit that one.
"""What only the vector store on PostgreSQL has: the choice of a plan, indexes and their making, types, words, loads."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote

import numpy as np
import psycopg
import pytest

from persistence import (
    DatabaseManager,
    CapabilityError,
    ConfigError,
    MigrationError,
    NotFoundError,
    PgVectorConfig,
    StatementEvent,
    TransactionError,
    ValidationError,
)
from tests._sync.side import Started, sleep, together
from tests._sync.vectors import (
    Backend,
    X,
    Y,
    doc,
    ids,
    numbers,
    on_pgvector,
    vector_backend,  # noqa: F401
)
from vectorstore import AdoptedTable, PgVectorStore, BuildProgress, Document
from vectorstore.schema import LINE

ROWS = 6000
SELECTIVITIES = {
    "0.5 %": ({"n": {"$lt": 5}}, 30),
    "1 %": ({"n": {"$lt": 10}}, 60),
    "5 %": ({"n": {"$between": [100, 149]}}, 300),
    "10 %": ({"n": {"$gte": 900}}, 600),
    "50 %": ({"n": {"$lt": 500}}, 3000),
    "one name": ({"name": "n7"}, 60),
    "names": ({"name": {"$in": ["n1", "n2", "n3"]}}, 180),
    "all but": ({"name": {"$ne": "n7"}}, 5940),
    "a text": ({"name": {"$like": "n9%"}}, 660),
    "few": ({"n": 3}, 6),
}


def clustered(count: int, dimensions: int = 32) -> np.ndarray[Any, Any]:
    """Return vectors that lie in clusters, as embeddings do."""
    generator = np.random.default_rng(11)
    centres = generator.normal(size=(40, dimensions))
    return (centres[np.arange(count) % 40] + 0.6 * generator.normal(size=(count, dimensions))).astype(np.float32)


def pg(store: Any) -> PgVectorStore:
    assert isinstance(store, PgVectorStore)
    return store


def filled(backend: Backend, **options: Any) -> tuple[PgVectorStore, np.ndarray[Any, Any]]:
    """Return a store of ROWS documents; n of 0 to 999 and 100 names are spread over all clusters."""
    vectors = clustered(ROWS)
    places = np.random.default_rng(12).permutation(ROWS)
    store = pg(backend.store(dimensions=32, **options))
    store.store_documents(
        doc(f"{row:05}", vector, n=int(place) % 1000, name=f"n{int(place) // 10 % 100}")
        for row, (vector, place) in enumerate(zip(vectors, places, strict=True))
    )
    return store, vectors


@on_pgvector
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_a_filter_never_loses_rows_whatever_it_leaves(backend: Backend, declared: bool) -> None:
    keys: dict[str, type] = {"n": int, "name": str} if declared else {}
    store, vectors = filled(backend, keys=keys)
    store.build_index()
    queries = list(vectors[:40] + 0.1)
    plans = {}
    for name, (filter, matching) in SELECTIVITIES.items():
        assert store.count(filter) == matching
        found = store.search_many(queries, 10, filter=filter)
        exact = store.search_many(queries, 10, filter=filter, exact=True)
        assert {each.plan for each in exact} == {"exact"}
        assert [len(each) for each in found] == [min(10, matching)] * 40, name
        hits = [len(set(ids(a)) & set(ids(b))) / len(b) for a, b in zip(found, exact, strict=True)]
        assert sum(hits) / 40 >= 0.95, (name, sum(hits) / 40)
        assert [ids(store.search(query, 10, filter=filter)) for query in queries[:3]] == [
            ids(each) for each in found[:3]
        ]
        plans[name] = found[0].plan
    assert (plans["few"], plans["one name"]) == ("exact", "exact")
    assert (plans["50 %"], plans["all but"]) == ("index", "index")
    assert (store.search(queries[0])).plan == "index"
    assert (store.search(queries[0], exact=True)).plan == "exact"


@on_pgvector
def test_a_filter_s_estimate_is_asked_for_once(backend: Backend) -> None:
    store, vectors = filled(backend, keys={"n": int})
    store.build_index()
    store.search(vectors[0])
    for filter in ({"n": {"$lt": 10}}, {"n": {"$lt": 500}}, {"name": "n3"}):
        before = backend.requests()
        store.search(vectors[0], filter=filter)
        assert backend.requests() - before == 2
        for query in vectors[1:4]:
            store.search(query, filter=filter)
        assert backend.requests() - before == 5
    for count, statements in ((10, 1), (20, 2)):  # two side by side
        before = backend.requests()
        store.search_many(list(vectors[:count]))
        assert backend.requests() - before == statements


@on_pgvector
def test_an_index_is_looked_through_as_far_as_a_page_goes(backend: Backend) -> None:
    store = pg(backend.store())
    vectors = np.random.default_rng(3).normal(size=(1500, 3)).astype(np.float32)
    store.store_documents(doc(f"{n:04}", vector) for n, vector in enumerate(vectors))
    store.build_index()
    for offset, plan in ((0, "index"), (15, "index"), (70, "index"), (1490, "exact")):
        every = store.search(vectors[0], offset + 15, exact=True)
        page = store.search(vectors[0], 15, offset=offset)
        assert (ids(page), page.plan) == (ids(every[offset:]), plan)
        assert (store.explain(vectors[0], 15, offset=offset)).plan == plan
        many = store.search_many([vectors[0], vectors[7]], 15, offset=offset)
        assert many == [page, (store.search(vectors[7], 15, offset=offset))]
        assert [each.plan for each in many] == [plan] * 2


@on_pgvector
def test_a_small_tenant_and_namespace_beside_large_ones_is_searched_exactly(backend: Backend) -> None:
    store, vectors = filled(backend)
    small = store.in_namespace("small")
    tenant = pg(backend.store(dimensions=32, tenant="another"))
    for other in (small, tenant):
        other.store_documents([doc(f"{n}", vector) for n, vector in enumerate(vectors[:300])])
    store.build_index()
    for other in (small, tenant):
        found = other.search(vectors[5], 3)
        assert (found.plan, found[0].id, len(found)) == ("exact", "5", 3)
    assert (store.search(vectors[5])).plan == "index"
    assert (store.search(vectors[5], namespace="small")).plan == "exact"


@on_pgvector
def test_an_explanation_names_the_index_and_counts_what_was_compared(backend: Backend) -> None:
    store, vectors = filled(backend, keys={"n": int})
    store.build_index()
    broad = store.explain(vectors[0], filter={"n": {"$gte": 300}})
    assert (broad.plan, broad.index) == ("index", "holdfast_documents_documents_vector")
    assert broad.rows is not None
    assert 3000 < broad.rows < 5500
    assert broad.compared is not None
    assert 10 <= broad.compared < 1000
    assert "holdfast_documents_documents_vector" in broad.detail
    narrow = store.explain(vectors[0], filter={"n": {"$lt": 3}})
    assert (narrow.plan, narrow.index, narrow.compared) == ("exact", None, 18)
    assert (broad.hint, narrow.hint) == ("", "")
    undeclared = store.explain(vectors[0], filter={"a.b": {"$gte": 1}, r"c\.d": {"$like": "x%"}, "name": "n3"})
    assert undeclared.hint.endswith(r"open the store with keys={'a.b': float, 'c\\.d': str}")
    words = pg(backend.store(collection="texts", text_search="english"))
    assert (words.explain("word", mode="text")).plan == "text"


def key_indexes(backend: Backend, collection: str) -> list[str]:
    rows = backend.database.fetch_all(
        "SELECT indexname FROM pg_indexes WHERE tablename = :table AND indexdef LIKE '%year%' ORDER BY indexname",
        {"table": f"holdfast_documents_{collection}"},
    )
    return [row["indexname"] for row in rows]


@on_pgvector
def test_collections_whose_long_names_begin_alike_have_indexes_of_their_own(backend: Backend) -> None:
    for collection in (first := "customer_documents_2023_q1", second := "customer_documents_2023_q2"):
        backend.store(collection=collection, keys={"year": int}).store_documents([doc("a", year=1)])
    names = [key_indexes(backend, collection) for collection in (first, second)]
    assert [len(each) for each in names] == [1, 1]
    # As it was when both had one name: the first collection has the index, and the second has none.
    old = "holdfast_documents_customer_documents_20_k5d72e217f8dd5af7"
    backend.database.execute(f'ALTER INDEX "{names[0][0]}" RENAME TO "{old}"')
    backend.database.execute(f'DROP INDEX "{names[1][0]}"')
    bound = backend.beside(collection=second, keys={"year": int}, migrate=False)
    assert (bound.count(), key_indexes(backend, second)) == (1, [])
    for collection in (first, second):
        later = backend.beside(collection=collection, keys={"year": int, "month": int})
        assert ids(later.search(X, filter={"year": 1})) == ["a"]
    assert [key_indexes(backend, collection) for collection in (first, second)] == [[old], names[1]]


@on_pgvector
def test_without_leave_to_make_tables_a_collection_gets_no_words_and_keys(backend: Backend) -> None:
    backend.store(keys={"year": int}).count()
    for options in ({"keys": {"year": int, "month": int}}, {"text_search": "english"}):
        bound = backend.beside(migrate=False, **options)
        with pytest.raises(MigrationError, match=r"'documents' has no text search, or .* keys, yet \(open it once"):
            bound.search(X)
    changed = backend.beside(migrate=False, keys={"year": str})
    with pytest.raises(ConfigError, match="declared as number, not text"):
        changed.search(X)
    assert (backend.beside(migrate=False, keys={"year": int})).count() == 0


# Making an index


@on_pgvector
def test_an_index_is_made_while_others_write_and_tells_how_far_it_is(backend: Backend) -> None:
    store, vectors = filled(backend)
    seen: list[BuildProgress] = []
    build = Started(partial(store.build_index, concurrently=True, progress=seen.append, workers=0))
    beside = backend.beside(dimensions=32)
    beside.store_documents([doc("new", vectors[0])])
    build.result()
    assert ids(store.search(vectors[0], 2)) == ["00000", "new"]
    assert (store.search(vectors[0])).plan == "index"
    assert all(progress.phase for progress in seen)
    store.build_index(memory=64, workers=1, progress=seen.append)
    assert {progress.phase for progress in seen} & {"building index: loading tuples", "building index", "initializing"}
    with backend.database.transaction():
        for options in ({"concurrently": True}, {"progress": seen.append}):
            with pytest.raises(TransactionError, match="in a transaction"):
                store.build_index(**options)  # type: ignore[arg-type]
    for wrong in ({"workers": -1}, {"memory": 0}, {"workers": "2"}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            store.build_index(**wrong)  # type: ignore[arg-type]


@on_pgvector
def test_an_index_that_is_not_whole_is_not_used_and_made_anew(backend: Backend) -> None:
    store, vectors = filled(backend)
    store.build_index()
    # What CREATE INDEX CONCURRENTLY leaves behind where it fails.
    backend.database.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'holdfast_documents_documents_vector'::regclass"
    )
    fresh = pg(backend.store(dimensions=32))
    assert (fresh.search(vectors[0])).plan == "exact"
    fresh.build_index(concurrently=True)
    assert (fresh.search(vectors[0])).plan == "index"


@on_pgvector
def test_a_dropped_index_is_missed_by_nobody(backend: Backend) -> None:
    store, vectors = filled(backend)
    beside = pg(backend.beside(dimensions=32))
    store.build_index()
    assert (beside.search(vectors[0])).plan in ("exact", "index")
    assert (beside.search(vectors[0])).plan == "index"
    assert store.drop_index()
    assert not store.drop_index()
    assert (store.search(vectors[0])).plan == "exact"
    assert ids(beside.search(vectors[0], 1)) == ["00000"]


@on_pgvector
def test_searches_go_on_while_an_index_is_made_anew(backend: Backend) -> None:
    store, vectors = filled(backend)
    store.build_index()

    def search() -> set[str]:
        return {ids(store.search(vectors[n], 1))[0] for n in range(30)}

    results = together(store.build_index, *[search] * 3)
    assert results == [None, *[{f"{n:05}" for n in range(30)}] * 3]


# Types


@on_pgvector
@pytest.mark.parametrize("kind", ["hnsw", "ivfflat"])
def test_long_vectors_are_indexed_with_halved_precision_and_compared_with_all_of_it(
    backend: Backend, kind: Any
) -> None:
    generator = np.random.default_rng(5)
    vectors = generator.normal(size=(700, 2100)).astype(np.float32)
    store = pg(backend.store(dimensions=2100))
    store.store_documents([doc(f"{n:03}", vector) for n, vector in enumerate(vectors)])
    exact = [store.search(vector, 10) for vector in vectors[:5]]
    store.build_index(index_type=kind, options={"lists": 4} if kind == "ivfflat" else None)
    found = [store.search(vector, 10) for vector in vectors[:5]]
    assert {each.plan for each in found} == {"index"}
    for mine, truth in zip(found, exact, strict=True):
        assert mine[0] == truth[0]
        assert len(mine) == 10


@on_pgvector
@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product", "l1"])
@pytest.mark.parametrize("vector_type", ["halfvec", "sparsevec"])
def test_vectors_of_other_types_are_found_alike(backend: Backend, vector_type: Any, metric: Any) -> None:
    plain = backend.store(collection="plain", dimensions=16, metric=metric)
    other = pg(backend.store(dimensions=16, metric=metric, vector_type=vector_type))
    vectors = np.round(clustered(700, 16), 1) * (np.arange(16) % 3 > 0)
    for store in (plain, other):
        store.store_documents([doc(f"{n:03}", vector) for n, vector in enumerate(vectors)])
    wanted = plain.search(vectors[3], 5, with_embeddings=True)
    for plan in ("exact", "index"):
        found = other.search(vectors[3], 5, with_embeddings=True)
        assert (found.plan, found[0].id) == (plan, "003")
        assert [r.score for r in found] == pytest.approx([r.score for r in wanted], rel=2e-2, abs=2e-3)
        assert numbers(found[0]) == pytest.approx(numbers(wanted[0]), abs=2e-3)
        other.build_index()
    other.update_document("003", embedding=vectors[4])
    assert numbers(other.get("003")) == pytest.approx(vectors[4].tolist(), abs=2e-3)
    with pytest.raises(ConfigError, match="was made for the type"):
        backend.store(dimensions=16, metric=metric).count()


@on_pgvector
def test_what_no_halfvec_holds_is_refused_by_name(backend: Backend) -> None:
    store = backend.store(vector_type="halfvec")
    store.store_documents([doc("a", [65519.996, 1, 0]), doc("b", [0, -2.9802326e-8, 0])])
    for bad, why in (([1, -65520, 0], "beyond 65504"), ([2**-25, 0, -1e-8], "length 0 as a halfvec")):
        with pytest.raises(ValidationError, match=f"'bad' has .*{why}"):
            store.store_documents([doc("c"), doc("bad", np.array(bad))])
        with pytest.raises(ValidationError, match=f"'a' has .*{why}"):
            store.update_document("a", embedding=bad)
        with pytest.raises(ValidationError, match=f"the query has .*{why}"):
            store.search(bad)
        with pytest.raises(ValidationError, match=f"query 1 has .*{why}"):
            store.search_many([X, bad])
    assert ids(store.search(X)) == ["a", "b"]
    lengths = backend.store(collection="lengths", vector_type="halfvec", metric="l2")
    lengths.store_documents([doc("tiny", [1e-8, 0, 0])])
    assert (lengths.search([0, 0, 1e-8]))[0].distance == 0


@on_pgvector
@pytest.mark.parametrize("metric", ["hamming", "jaccard"])
def test_bits_are_compared_by_those_that_differ(backend: Backend, metric: Any) -> None:
    generator = np.random.default_rng(9)
    bits = (generator.random((600, 64)) < 0.4).astype(np.float32)
    store = pg(backend.store(dimensions=64, vector_type="bit", metric=metric))
    store.store_documents([doc(f"{n:03}", row - 0.5) for n, row in enumerate(bits)])
    assert numbers(store.get("007")) == bits[7].tolist()
    query = bits[7].copy()
    query[:3] = 1 - query[:3]
    differing = np.count_nonzero(bits != query, axis=1)
    shared, either = bits @ query, np.maximum(bits, query).sum(axis=1)
    truth = differing if metric == "hamming" else 1 - shared / either
    for plan in ("exact", "index"):
        found = store.search(query, 4)
        assert (found.plan, found[0].id) == (plan, "007")
        assert found[0].distance == pytest.approx(truth[7])
        score = 1 / (1 + truth[7]) if metric == "hamming" else 1 - truth[7]
        assert found[0].score == pytest.approx(score)
        if plan == "exact":
            assert [result.distance for result in found] == pytest.approx(sorted(truth)[:4])
        store.build_index(index_type="hnsw")


@on_pgvector
def test_types_and_metrics_that_do_not_go_together_are_refused(backend: Backend) -> None:
    for options in ({"vector_type": "bit"}, {"metric": "jaccard"}, {"vector_type": "float8"}):
        with pytest.raises(ConfigError, match=r"not compared by|no type of vector"):
            backend.store(**options)
    bits = pg(backend.store(dimensions=8, vector_type="bit", metric="jaccard"))
    with pytest.raises(CapabilityError, match="no ivfflat index for the metric jaccard"):
        bits.build_index(index_type="ivfflat")


# Loads and faults


@on_pgvector
def test_a_batch_is_one_statement_and_two_loaders_of_the_same_ids_both_end(backend: Backend) -> None:
    store, beside = backend.store(), backend.beside()
    store.count()
    before = backend.requests()
    store.store_documents([doc(f"{n:04}") for n in range(3000)])
    assert backend.requests() - before == 3
    forth = [doc(f"{n:04}", X, "forth") for n in range(3000)]
    back = [doc(f"{n:04}", Y, "back") for n in reversed(range(3000))]
    loads = [partial(each.store_documents, some, batch_size=500) for each, some in ((store, forth), (beside, back))]
    assert together(*loads) == [3000, 3000]
    assert store.count() == 3000


LOADER = """
import sys
from persistence import DatabaseManager, PgVectorConfig
from vectorstore import Document, PgVectorStore

manager = DatabaseManager()
manager.add_pgvector("main", PgVectorConfig.from_url(sys.argv[1], dimensions=3))
documents = (Document(f"{n:07}", "text", {}, [1, n, 0]) for n in range(10**6))
PgVectorStore(manager, "main").store_documents(documents, batch_size=100, progress=lambda n: print(n, flush=True))
"""


@on_pgvector
def test_a_loader_that_is_killed_leaves_every_batch_that_it_was_told_of_and_no_half_of_one(
    backend: Backend,
) -> None:
    config = backend.config
    assert isinstance(config, PgVectorConfig)
    backend.store().count()
    given = config.connection_parameters()
    url = "postgresql://{user}:{password}@/{dbname}?host={host}&port={port}".format(
        **{name: quote(str(given[name]), safe="") for name in ("user", "password", "dbname", "host", "port")}
    )
    with subprocess.Popen([sys.executable, "-c", LOADER, url], stdout=subprocess.PIPE, text=True) as loader:
        assert loader.stdout is not None
        told = [int(loader.stdout.readline()) for _ in range(7)]
        loader.kill()
    assert told == [100, 200, 300, 400, 500, 600, 700]
    # What the server was about to store when its client died it may still store, as a whole.
    active = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    while (backend.database.fetch_apart(f"{active} AND state = 'active'") or {})["count"]:
        sleep(0.01)
    found = [each.id for each in backend.store().iterate()]
    assert len(found) >= 700
    assert len(found) % 100 == 0
    assert found == [f"{n:07}" for n in range(len(found))]


@on_pgvector
def test_the_words_of_a_long_content_are_no_obstacle(backend: Backend) -> None:
    store = backend.store(text_search="english")
    long = " ".join(f"w{n}" for n in range(300_000))
    store.store_documents([doc("long", X, long), doc("short", X, "w1 and w2")])
    assert set(ids(store.search("w1", mode="text"))) == {"long", "short"}
    assert (store.get("long")) == doc("long", X, long)


@on_pgvector
def test_words_weigh_by_how_rare_they_are(backend: Backend) -> None:
    store = backend.store(text_search="english")
    texts = [f"common number{n}" for n in range(400)] + ["common rare", "common odd", "rare"]
    store.store_documents([doc(f"{n:03}", X, text) for n, text in enumerate(texts)])
    for _ in range(2):
        found = store.search("a rare and common thing", 5, mode="text")
        assert set(ids(found)[:2]) == {"400", "402"}
        assert len(found) == 5
        backend.database.execute("ANALYZE holdfast_documents_documents")


@on_pgvector
def test_a_collection_of_the_first_migration_keeps_its_documents(backend: Backend) -> None:
    backend.store().store_documents([doc("a", n=1)])
    for migration in reversed(LINE.load("postgresql")[1:]):
        for statement in migration.down:
            backend.database.execute(statement, prepare=False)
    backend.database.execute("DELETE FROM holdfast_migrations WHERE line = 'vectorstore' AND number > 1")
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'holdfast_documents_documents'::regclass"
    assert backend.database.fetch_value(f"{columns} AND attname IN ('namespace', 'source', 'words')") == 0
    beside = backend.beside()
    assert beside.get("a") == doc("a", n=1)
    beside.in_namespace("other").store_documents([doc("a", Y)])
    assert beside.count() == 1


@on_pgvector
def test_a_server_without_the_extension_says_what_to_run(manager: DatabaseManager, backend: Backend) -> None:
    config = backend.config
    assert isinstance(config, PgVectorConfig)
    backend.database.execute("DROP EXTENSION vector CASCADE")
    other = DatabaseManager()
    backend.managers.append(other)
    with pytest.raises(CapabilityError, match="CREATE EXTENSION vector"):
        other.add_pgvector("bare", replace(config, create_extension=False))


@on_pgvector
def test_an_extension_that_is_too_old_says_what_to_run(manager: DatabaseManager, backend: Backend) -> None:
    backend.database.execute("UPDATE pg_extension SET extversion = '0.4.4' WHERE extname = 'vector'")
    other = DatabaseManager()
    backend.managers.append(other)
    other.add_pgvector("old", backend.config)
    with pytest.raises(CapabilityError, match=r"old: pgvector 0\.4\.4 is too old, .*ALTER EXTENSION vector UPDATE"):
        PgVectorStore(other, "old", dimensions=3).count()
    assert backend.database.fetch_value("SELECT to_regclass('holdfast_documents_documents') IS NULL")


# Tables of the user's own


OWN = (
    'CREATE TABLE app."My Items" ({id} PRIMARY KEY, body text, "meta data" {kind}, vec vector(3) NOT NULL, extra text)'
)


@on_pgvector
@pytest.mark.parametrize(
    ("identity", "kind", "names"),
    [
        ("key text", "jsonb", ["a", "b", "c"]),
        ("key uuid", "json", [f"00000000-0000-0000-0000-00000000000{n}" for n in "123"]),
        ("key bigint", "jsonb", ["1", "2", "3"]),
    ],
    ids=["text", "uuid", "bigint"],
)
def test_a_table_of_the_user_s_own_is_adopted_as_it_is(
    backend: Backend, identity: str, kind: str, names: list[str]
) -> None:
    a, b, c = names
    run = backend.database.execute
    run("CREATE SCHEMA app")
    run(OWN.format(id=identity, kind=kind), prepare=False)
    run(
        f"""INSERT INTO app."My Items" VALUES ('{a}', 'first', '{{"n": 1}}', '[1,0,0]', 'kept'),"""
        f" ('{b}', 'second', NULL, '[0,1,0]', 'kept')"
    )
    table = AdoptedTable(name="app.My Items", id="key", content="body", metadata="meta data", embedding="vec")
    store = pg(backend.store(collection="items", table=table))
    assert [(r.id, r.content, r.metadata) for r in store.search(X)] == [
        (a, "first", {"n": 1}),
        (b, "second", {}),
    ]
    again = pg(backend.store(collection="items"))  # it is remembered
    assert again.store_documents([doc(b, [0, 1, 1], "new", n=2), doc(c, X, "third", n=3)]) == 2
    again.update_document(a, content="changed")
    rows = backend.database.fetch_all(
        'SELECT CAST(key AS text) AS key, body, CAST("meta data" AS text) AS meta, CAST(vec AS text) AS vec, extra'
        ' FROM app."My Items" ORDER BY key'
    )
    assert [(row["key"], row["body"], str(row["meta"]).replace(" ", ""), row["extra"]) for row in rows] == [
        (a, "changed", '{"n":1}', "kept"),
        (b, "new", '{"n":2}', "kept"),
        (c, "third", '{"n":3}', None),
    ]
    again.build_index()
    again.build_index(concurrently=True)
    assert ids(store.search(X, filter={"n": {"$gte": 2}})) == [c, b]
    assert again.drop_index()
    assert store.get(c) == doc(c, X, "third", n=3)
    assert [each.id for each in store.iterate()] == names
    assert store.count({"n": 1}) == 1
    store.patch_document(a, {"n": None, "flag": True})
    assert store.get(a) == doc(a, X, "changed", flag=True)
    with pytest.raises(NotFoundError):
        store.patch_document(a[:-1] + "9", {"n": 1})
    assert store.delete([a, c]) == 2
    assert store.delete(filter={"n": 2}) == 1
    assert store.search(X) == []
    assert pg(backend.store(collection="items", tenant="another")).count() == 0


@on_pgvector
def test_a_row_of_an_adopted_table_without_an_embedding_is_found_by_no_search(backend: Backend) -> None:
    run = backend.database.execute
    run("CREATE TABLE items (id text PRIMARY KEY, content text, metadata jsonb, embedding vector(3))")
    run("INSERT INTO items VALUES ('a', NULL, NULL, '[1,0,0]'), ('b', 'later', NULL, NULL)")
    store = pg(backend.store(collection="items", table=AdoptedTable(name="items")))
    for _ in range(2):
        (found,) = store.search(X)
        assert (found.id, found.content, found.score) == ("a", "", 1.0)
        assert [ids(each) for each in store.search_many([X, Y])] == [["a"], ["a"]]
        store.build_index()
    assert [(each.id, each.embedding is None) for each in store.iterate(with_embeddings=True)] == [
        ("a", False),
        ("b", True),
    ]
    store.patch_document("b", {"n": 1})
    store.update_document("b", embedding=X)
    assert store.count({"n": 1}) == 1
    assert [(each.id, each.content) for each in store.search(X)] == [("a", ""), ("b", "later")]


@on_pgvector
def test_an_adopted_table_refuses_what_it_has_no_room_for(backend: Backend) -> None:
    backend.database.execute(
        "CREATE TABLE items (id text PRIMARY KEY, content text, metadata jsonb, embedding vector(3))"
    )
    with pytest.raises(NotFoundError, match="no table 'nothing' to adopt"):
        backend.store(collection="items", table=AdoptedTable(name="nothing")).count()
    for table, message in (
        (AdoptedTable(name="items", content="body"), "no column 'body'"),
        (AdoptedTable(name="items", embedding="content"), "are text, not vector"),
    ):
        with pytest.raises(ConfigError, match=message):
            backend.store(collection="items", table=table).count()
    with pytest.raises(ConfigError, match=r"are vector\(3\), not vector\(4\)"):
        backend.store(collection="items", dimensions=4, table=AdoptedTable(name="items")).count()
    for name in ("", "a.b.c", "a\0"):
        with pytest.raises(ValidationError):
            AdoptedTable(name=name)
    store = backend.store(collection="items", table=AdoptedTable(name="items"))
    store.store_documents([doc("a")])
    calls = [
        partial(store.in_namespace("other").store_documents, [doc("a")]),
        partial(store.store_documents, [Document("a", "text", {}, X, source="file")]),
        partial(store.update_document, "a", source="file"),
        partial(store.replace_source, "file", [doc("a")]),
        partial(backend.store(collection="items", text_search="english").count),
        partial(backend.store(collection="items", keys={"n": int}).count),
    ]
    for call in calls:
        with pytest.raises(CapabilityError, match="adopted table"):
            call()  # type: ignore[operator]
    assert store.get("a") == doc("a")
    # A collection of the first migration's kind is still made and taken down beside it.
    backend.store().store_documents([doc("b")])
    for migration in reversed(LINE.load("postgresql")):
        for statement in migration.down:
            backend.database.execute(statement, prepare=False)
    assert backend.database.fetch_value("SELECT count(*) FROM items") == 1


@on_pgvector
def test_a_filter_holds_for_what_is_changed_while_a_hybrid_runs(backend: Backend) -> None:
    store = backend.store(text_search="english")
    store.store_documents([doc("a", X, "a word", n=1), doc("b", Y, "a word", n=1)])
    assert ids(store.search(X, mode="hybrid", text="word", filter={"n": 1})) == ["a", "b"]

    def change(event: StatementEvent) -> None:
        backend.manager.on_statement.clear()
        assert isinstance(backend.config, PgVectorConfig)
        with psycopg.connect(**backend.config.connection_parameters(), autocommit=True) as beside:
            beside.execute("UPDATE holdfast_documents_documents SET metadata = '{\"n\": 2}' WHERE id = 'a'")

    backend.manager.on_statement.append(change)
    assert ids(store.search(X, mode="hybrid", text="word", filter={"n": 1})) == ["b"]
