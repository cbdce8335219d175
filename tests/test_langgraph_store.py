"""LangGraph's store on ours: what it keeps, finds and forgets, on both sides, on PostgreSQL and SQLite."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pytest
import pytest_asyncio
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    SearchItem,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    CapabilityError,
    ClosedError,
    Database,
    DatabaseManager,
    PostgreSQLConfig,
    SQLiteConfig,
    ValidationError,
)
from sessions.langgraph_store import HoldfastStore

pytestmark = pytest.mark.tables("sessions")

BACKENDS = ("postgresql", "sqlite")
LETTERS = "abcdefgh"
VALUES: list[dict[str, Any]] = [
    {},
    {"z": 1, "a": None, "nested": {"list": [1, 2.5, "x", True, None, {}]}},
    {"nul": "a\0b", "lone": "\ud800", "key\0": 1},
    {"big": 2**70, "float": 1e16, "small": 5e-324, "zero": -0.0},
    {"sql": "'; DROP TABLE holdfast_items; --", "$ref": "%_*"},
]


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Embed a text as how often each letter of a to h is in it."""
    return [[float(text.count(letter)) for letter in LETTERS] for text in texts]


async def aembed(texts: Sequence[str]) -> list[list[float]]:
    return embed(texts)


INDEX: IndexConfig = {"dims": len(LETTERS), "embed": embed, "fields": ["text"]}


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> PostgreSQLConfig | SQLiteConfig:
    if request.param == "postgresql":
        config: PostgreSQLConfig = request.getfixturevalue("postgresql_config")
        return config
    return SQLiteConfig(path=str(tmp_path / "main.db"))


def connect(manager: DatabaseManager, url: PostgreSQLConfig | SQLiteConfig) -> None:
    manager.add_sqlite("main", url) if isinstance(url, SQLiteConfig) else manager.add_postgresql("main", url)


@pytest.fixture
def manager(url: PostgreSQLConfig | SQLiteConfig) -> Iterator[DatabaseManager]:
    with DatabaseManager() as made:
        connect(made, url)
        yield made


@pytest_asyncio.fixture
async def async_manager(url: PostgreSQLConfig | SQLiteConfig) -> AsyncIterator[AsyncDatabaseManager]:
    async with AsyncDatabaseManager() as made:
        if isinstance(url, SQLiteConfig):
            await made.add_sqlite("main", url)
        else:
            await made.add_postgresql("main", url)
        yield made


@pytest.fixture
def database(manager: DatabaseManager) -> Database:
    return manager.get_database("main")


@pytest.fixture
def store(manager: DatabaseManager) -> HoldfastStore:
    return HoldfastStore(manager)


def keys(found: Any) -> list[str]:
    return [item.key for item in found]


def test_a_value_comes_back_as_it_was(manager: DatabaseManager, database: Database) -> None:
    for n, value in enumerate(VALUES):
        HoldfastStore(manager).put(("a", "b"), str(n), value)
    for n, value in enumerate(VALUES):
        item = HoldfastStore(manager).get(("a", "b"), str(n))
        assert item is not None
        assert (item.namespace, item.key, json.dumps(item.value)) == (("a", "b"), str(n), json.dumps(value))
        assert item.created_at == item.updated_at
        assert item.created_at.utcoffset() == timedelta(0)
    raw = database.fetch_value("SELECT CAST(value AS text) FROM holdfast_items WHERE key = '2'")
    assert raw == '{"nul":"a\\u0000b","lone":"\\ud800","key\\u0000":1}'


def test_a_put_replaces_and_a_delete_removes(store: HoldfastStore) -> None:
    store.put(("a",), "k", {"n": 1})
    first = store.get(("a",), "k")
    store.put(("a",), "k", {"n": 2})
    second = store.get(("a",), "k")
    assert first is not None
    assert second is not None
    assert second.value == {"n": 2}
    assert first.created_at == second.created_at
    assert first.updated_at < second.updated_at
    store.delete(("a",), "k")
    store.delete(("a",), "k")
    assert store.get(("a",), "k") is None
    assert store.search(()) == []


def test_the_reads_of_a_batch_see_nothing_of_its_writes_and_the_later_write_counts(store: HoldfastStore) -> None:
    store.put(("a",), "k", {"n": 1})
    store.put(("a",), "gone", {"n": 1})
    answers = store.batch(
        [
            PutOp(("a",), "k", {"n": 2}),
            PutOp(("a",), "k", {"n": 3}),
            PutOp(("a",), "new", None),
            PutOp(("a",), "new", {"n": 4}),
            PutOp(("a",), "gone", {"n": 5}),
            PutOp(("a",), "gone", None),
            GetOp(("a",), "k"),
            SearchOp(("a",), filter={"n": 1}),
            ListNamespacesOp(),
            GetOp(("a",), "new"),
        ]
    )
    assert answers[:6] == [None] * 6
    read: Any = answers[6]
    assert read.value == {"n": 1}
    assert sorted(keys(answers[7])) == ["gone", "k"]
    assert answers[8:] == [[("a",)], None]
    assert {item.key: item.value for item in store.search(("a",))} == {"k": {"n": 3}, "new": {"n": 4}}
    assert store.batch([]) == []


FILTERED: list[dict[str, Any]] = [
    {"n": 1, "s": "b", "o": {"x": 1, "y": {"z": "q"}}, "l": [1, 2], "t": True},
    {"n": 1.0, "s": "B", "o": {"x": 2}, "l": [2, 1], "t": False},
    {"n": -5, "s": "é", "o": {}, "l": [], "t": None},
    {"n": "1", "s": 3, "o": [1], "l": {"0": 1}},
    {"n": 2**70, "s": "a\0", "o": None},
    {},
]
FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [0, 1, 2, 3, 4, 5]),
    ({"n": 1}, [0, 1]),
    ({"n": "1"}, [3]),
    ({"n": 2**70}, [4]),
    ({"n": True}, []),
    ({"t": True}, [0]),
    ({"t": 1}, []),
    ({"t": None}, [2, 3, 4, 5]),
    ({"t": {"$ne": None}}, [0, 1]),
    ({"n": {"$ne": 1}}, [2, 3, 4, 5]),
    ({"n": {"$gt": 0}}, [0, 1, 4]),
    ({"n": {"$gte": 1, "$lt": 5}}, [0, 1]),
    ({"n": {"$lte": -5}}, [2]),
    ({"n": {"$gt": "0"}}, [3]),
    ({"s": {"$gt": "B"}}, [0, 2, 4]),
    ({"s": {"$lt": "b"}}, [1, 4]),
    ({"s": "a\0"}, [4]),
    ({"o": {"x": 1}}, [0]),
    ({"o": {"y": {"z": "q"}}}, [0]),
    ({"o": {"x": {"$gte": 1}}}, [0, 1]),
    ({"o": {"missing": None}}, [0, 1, 2]),
    ({"o": {}}, [0, 1, 2]),
    ({"o": {"$eq": {"x": 2}}}, [1]),
    ({"l": [1, 2]}, [0]),
    ({"l": []}, [2]),
    ({"n": 1, "s": "b"}, [0]),
    ({"n'; --": 1}, []),
    ({"a.b": 1, "$x": 1}, []),
]


def test_filters_compare_as_they_say_on_every_backend(store: HoldfastStore) -> None:
    for n, value in enumerate(FILTERED):
        store.put(("a",), str(n), value)
    for wanted, found in FILTERS:
        together = store.batch([SearchOp(("a",), filter=wanted), GetOp(("a",), "none")])
        assert (wanted, sorted(map(int, keys(together[0])))) == (wanted, found)
        assert (wanted, sorted(map(int, keys(store.search(("a",), filter=wanted))))) == (wanted, found)


def test_a_filter_with_an_unknown_operator_or_no_json_is_refused(store: HoldfastStore) -> None:
    bad: list[Any] = [{"n": {"$in": [1]}}, {"n": {"$gt": object()}}, {"n": float("nan")}, {1: 2}, {"a\0": 1}]
    for wanted in bad:
        with pytest.raises(ValidationError):
            store.search(("a",), filter=wanted)


def test_search_is_newest_first_in_pages_below_a_prefix_of_labels(store: HoldfastStore) -> None:
    for n in range(5):
        store.put(("a", f"s{n % 2}"), str(n), {"n": n})
    store.put(("ab",), "other", {})
    store.put(("a",), "0th", {})
    store.put(("a", "s0"), "2", {"n": 22})
    assert keys(store.search(("a",))) == ["2", "0th", "4", "3", "1", "0"]
    assert keys(store.search(("a",), limit=2, offset=1)) == ["0th", "4"]
    assert keys(store.search(("a", "s0"))) == ["2", "4", "0"]
    assert keys(store.search(("a",), filter={"n": {"$gte": 3}}, limit=2, offset=1)) == ["4", "3"]
    assert len(store.search((), limit=100)) == 7
    assert store.search(("a",), limit=0) == []


NAMESPACES = [("a", "b", "c"), ("a", "b", "d"), ("a", "x", "c"), ("b", "b"), ("a",), ("é", "\x1e", "\x1f\x1e1")]
LISTINGS: list[dict[str, Any]] = [
    {},
    {"prefix": ("a",)},
    {"prefix": ("a", "*", "c")},
    {"prefix": ("*", "b")},
    {"suffix": ("c",)},
    {"suffix": ("b", "*")},
    {"prefix": ("a", "b"), "suffix": ("d",)},
    {"max_depth": 1},
    {"max_depth": 2, "prefix": ("a",)},
    {"max_depth": 2, "limit": 2, "offset": 1},
    {"max_depth": 2**31},
    {"prefix": ("é", "\x1e", "\x1f\x1e1")},
    {"prefix": ("a", "b", "c", "d")},
    {"limit": 0},
]


def test_a_search_sees_one_state_of_the_items_however_many_pages_it_reads(
    manager: DatabaseManager, url: PostgreSQLConfig | SQLiteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions._sync.items.PAGE", 2)
    store = HoldfastStore(manager)
    for n in range(5):
        store.put(("a",), str(n), {"n": 1})
    with DatabaseManager() as beside:
        connect(beside, url)
        other = HoldfastStore(beside)
        other.get(("a",), "0")

        def write(_: object) -> None:
            manager.on_statement.clear()
            other.batch([PutOp(("a",), key, {"n": 1}) for key in ("0", "1")])  # the newest from now on

        manager.on_statement.append(write)
        assert keys(store.search(("a",), filter={"n": 1})) == list("43210")
    assert sorted(keys(store.search(("a",), filter={"n": 1}, limit=2))) == ["0", "1"]


def test_namespaces_are_listed_as_langgraphs_own_store_lists_them(store: HoldfastStore) -> None:
    reference = InMemoryStore()
    for each in (store, reference):
        for namespace in NAMESPACES:
            each.put(namespace, "k", {})
    for options in LISTINGS:
        assert (options, store.list_namespaces(**options)) == (options, reference.list_namespaces(**options))
    assert [item.namespace for item in store.search(("é", "\x1e"))] == [NAMESPACES[-1]]


def test_what_langgraph_allows_no_store_to_take_is_its_own_error(store: HoldfastStore) -> None:
    bad: list[Any] = [("a.b",), ("",), (1,), ("a", "")]
    for namespace in bad:
        for op in (
            GetOp(namespace, "k"),
            PutOp(namespace, "k", {}),
            SearchOp(namespace),
            ListNamespacesOp((MatchCondition("prefix", namespace),)),
        ):
            with pytest.raises(InvalidNamespaceError):
                store.batch([PutOp(("fine",), "k", {}), op])
    assert store.search(()) == []


def test_what_would_not_come_back_is_refused_before_anything_is_written(store: HoldfastStore) -> None:
    bad: list[Any] = [
        PutOp(("a",), "", {}),
        PutOp(("a",), "x" * 1025, {}),
        PutOp(("a",), "a\0", {}),
        PutOp(("x" * 1025,), "k", {}),
        PutOp(("a\0",), "k", {}),
        PutOp(("a",), "k", {"t": (1, 2)}),
        PutOp(("a",), "k", {1: 2}),
        PutOp(("a",), "k", {"n": math.nan}),
        PutOp(("a",), "k", {"b": b"x"}),
        PutOp(("a",), "k", [("a", 1)]),  # type: ignore[arg-type]
        PutOp(("a",), "k", {"text": "a"}, index="text"),  # type: ignore[arg-type]
        PutOp(("a",), "k", {}, ttl=math.nan),
        SearchOp(("a",), limit=-1),
        SearchOp(("a",), offset=-1),
        SearchOp(("a",), limit="5"),  # type: ignore[arg-type]
        ListNamespacesOp(limit=-1),
        ListNamespacesOp(max_depth=-1),
        ListNamespacesOp((MatchCondition("infix", ("a",)),)),  # type: ignore[arg-type]
        "nothing",
    ]
    for op in bad:
        with pytest.raises(ValidationError):
            store.batch([PutOp(("fine",), "k", {}), op])
    assert store.search(()) == []


def test_what_has_expired_is_not_there_and_begins_anew(store: HoldfastStore) -> None:
    store.put(("a",), "k", {"n": 1}, ttl=0)
    store.put(("b",), "stays", {"n": 1}, ttl=60)
    assert store.get(("a",), "k") is None
    assert keys(store.search(())) == ["stays"]
    assert store.list_namespaces() == [("b",)]
    assert store.batch([GetOp(("a",), "k"), SearchOp(("a",)), ListNamespacesOp()]) == [None, [], [("b",)]]
    assert store.sweep_ttl() == 1
    assert store.sweep_ttl() == 0
    store.put(("a",), "k", {"n": 2})
    assert keys(store.search(("a",))) == ["k"]


def ages(database: Database, seconds: int) -> None:
    """Make every item that ends that much older."""
    moved = (
        "expires_at - make_interval(secs => :seconds)"
        if database.kind == "postgresql"
        else "expires_at - :seconds * 1000000"
    )
    database.execute(f"UPDATE holdfast_items SET expires_at = {moved}", {"seconds": seconds})


def left(database: Database) -> float:
    """Return how many seconds the one item has left."""
    found = database.fetch_value("SELECT expires_at FROM holdfast_items")
    moment = database.dialect.moment(found)
    made = database.dialect.moment(database.fetch_value("SELECT updated_at FROM holdfast_items"))
    assert moment is not None
    assert made is not None
    return (moment - made).total_seconds()


def test_a_read_renews_a_time_to_live_once_a_twentieth_has_passed(manager: DatabaseManager, database: Database) -> None:
    store = HoldfastStore(manager, ttl={"default_ttl": 10, "refresh_on_read": True})
    reads = {
        "get": lambda: store.get(("a",), "k"),
        "search": lambda: store.search(("a",)),
        "filter": lambda: store.search(("a",), filter={"n": {"$gt": 0}}),
        "batch": lambda: store.batch([GetOp(("a",), "k"), ListNamespacesOp()]),
    }
    for name, read in reads.items():
        store.put(("a",), "k", {"n": 1})
        assert left(database) == 600
        ages(database, 20)
        before = manager.stats()["main"].requests
        read()
        used = manager.stats()["main"].requests - before
        assert (name, used, left(database)) == (name, 1, 580)
        ages(database, 100)
        read()
        assert 599 < left(database) < 660
    ages(database, 100)
    store.get(("a",), "k", refresh_ttl=False)
    store.search(("a",), refresh_ttl=False)
    assert 499 < left(database) < 560
    HoldfastStore(manager, ttl={"refresh_on_read": False}).get(("a",), "k")
    assert 499 < left(database) < 560
    store.put(("a",), "k", {"n": 1}, ttl=None)
    assert database.fetch_value("SELECT expires_at FROM holdfast_items") is None


def test_a_query_ranks_by_the_nearest_text_of_an_item(manager: DatabaseManager) -> None:
    store = HoldfastStore(manager, index=INDEX)
    store.put(("m", "x"), "a", {"text": "aaab", "kind": 1})
    store.put(("m", "y"), "b", {"text": "bbba", "kind": 2})
    store.put(("m", "y"), "c", {"text": "cc", "kind": 1})
    store.put(("m", "y"), "unindexed", {"text": "aaaa", "kind": 1}, index=False)
    store.put(("m", "y"), "no text", {"kind": 1})
    store.put(("m", "y"), "two", {"first": "hhhh", "second": ["aa", "bb"], "kind": 1}, index=["first", "second[*]"])
    found = store.search(("m",), query="a")
    assert keys(found)[:4] == ["two", "a", "b", "c"]
    assert sorted(keys(found)[4:]) == ["no text", "unindexed"]
    expected = [1.0, 3 / math.sqrt(10), 1 / math.sqrt(10), 0.0, None, None]
    assert [item.score for item in found] == pytest.approx(expected, abs=1e-6)
    assert keys(store.search(("m",), query="a", filter={"kind": 1}, limit=2)) == ["two", "a"]
    assert keys(store.search(("m",), query="a", filter={"kind": {"$gt": 1}})) == ["b"]
    assert keys(store.search(("m",), query="a", limit=2, offset=1)) == ["a", "b"]
    assert keys(store.search(("m", "x"), query="b")) == ["a"]
    assert [item.score for item in store.search(("m",))] == [None] * 6
    both = store.batch([SearchOp(("m",), query="c", limit=1), SearchOp(("m", "x")), GetOp(("m", "y"), "c")])
    assert (keys(both[0]), keys(both[1]), keys([both[2]])) == (["c"], ["a"], ["c"])


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
def test_scores_are_those_of_numpy(manager: DatabaseManager, metric: str) -> None:
    index: Any = {**INDEX, "distance_type": metric}
    store = HoldfastStore(manager, index=index)
    texts = ["aabc", "hhhh", "abcdefgh", "", "bbbbbbbb"]
    for text in texts:
        store.put(("m",), text or "empty", {"text": text})
    query = np.array(embed(["abbc"])[0])
    expected: dict[str, float | None] = {}
    for text in texts:
        vector = np.array(embed([text])[0])
        product, lengths = float(vector @ query), float(np.linalg.norm(vector) * np.linalg.norm(query))
        if metric == "cosine":
            expected[text or "empty"] = product / lengths if lengths else None
        elif metric == "l2":
            expected[text or "empty"] = -float(np.linalg.norm(vector - query))
        else:
            expected[text or "empty"] = product
    found = store.search(("m",), query="abbc")
    for item in found:
        assert item.score == (None if (wanted := expected[item.key]) is None else pytest.approx(wanted, abs=1e-5))
    scored = [item.score for item in found if item.score is not None]
    assert scored == sorted(scored, reverse=True)
    assert len(scored) == (4 if metric == "cosine" else 5)


def test_a_cosine_is_never_above_one_or_below_minus_one(manager: DatabaseManager) -> None:
    vectors = np.random.default_rng(5).normal(size=(60, 24)).astype(np.float32)
    embedded = {str(n): vector.tolist() for n, vector in enumerate(np.concatenate([vectors, -vectors]))}
    index: Any = {"dims": 24, "embed": lambda texts: [embedded[text] for text in texts], "fields": ["text"]}
    store = HoldfastStore(manager, index=index)
    store.batch([PutOp(("m",), text, {"text": text}) for text in embedded])
    searches = store.batch([SearchOp(("m",), query=text, limit=120) for text in list(embedded)[:60]])
    for n, found in enumerate(searches):
        assert isinstance(found, list)
        scores = {item.key: item.score for item in found if isinstance(item, SearchItem)}
        assert all(score is not None and -1 <= score <= 1 for score in scores.values())
        assert (scores[str(n)], scores[str(n + 60)]) == (pytest.approx(1, abs=1e-6), pytest.approx(-1, abs=1e-6))


def test_an_item_is_found_by_what_it_is_now(manager: DatabaseManager, database: Database) -> None:
    store = HoldfastStore(manager, index={**INDEX, "fields": ["texts[*]"]})
    store.put(("m",), "k", {"texts": ["a", "b", "c"]})
    assert database.fetch_value("SELECT count(*) FROM holdfast_item_vectors") == 3
    store.put(("m",), "k", {"texts": ["d"]})
    assert database.fetch_value("SELECT count(*) FROM holdfast_item_vectors") == 1
    assert [round(item.score or 0, 6) for item in store.search(("m",), query="d")] == [1.0]
    assert [round(item.score or 0, 6) for item in store.search(("m",), query="a")] == [0.0]
    HoldfastStore(manager).put(("m",), "k", {"texts": ["e"]})
    assert [item.score for item in store.search(("m",), query="d")] == [None]
    store.put(("m",), "k", {"texts": ["d"]}, ttl=0)
    assert store.search(("m",), query="d") == []
    store.sweep_ttl()
    store.put(("m",), "l", {"texts": ["d"]})
    store.delete(("m",), "l")
    assert database.fetch_value("SELECT count(*) FROM holdfast_item_vectors") == 0


def test_without_an_index_a_query_is_a_plain_search(store: HoldfastStore) -> None:
    store.put(("m",), "k", {"text": "a"})
    assert [(item.key, item.score) for item in store.search(("m",), query="zzz")] == [("k", None)]


def test_an_embedding_of_other_dimensions_is_refused(manager: DatabaseManager) -> None:
    store = HoldfastStore(manager, index={**INDEX, "dims": 3})
    with pytest.raises(ValidationError, match="8 dimensions, not 3"):
        store.put(("m",), "k", {"text": "a"})
    with pytest.raises(ValidationError, match="8 dimensions, not 3"):
        store.search(("m",), query="a")
    assert store.get(("m",), "k") is None
    for bad in ({**INDEX, "distance_type": "taxicab"}, {**INDEX, "dims": 0}):
        with pytest.raises(ValidationError):
            HoldfastStore(manager, index=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e39, None, "x"])
def test_an_embedding_that_no_search_could_compare_is_refused(manager: DatabaseManager, number: Any) -> None:
    index: Any = {"dims": 2, "embed": lambda texts: [[number if text == "bad" else 1.0, 1.0] for text in texts]}
    store = HoldfastStore(manager, index={**index, "fields": ["text"]})
    store.put(("m",), "good", {"text": "good"})
    with pytest.raises(ValidationError, match="the embedding"):
        store.put(("m",), "bad", {"text": "bad"})
    with pytest.raises(ValidationError, match="the embedding"):
        store.search(("m",), query="bad")
    assert keys(store.search(("m",), query="good")) == ["good"]


@pytest.fixture
def bare(postgresql_config: PostgreSQLConfig) -> PostgreSQLConfig:
    """A database whose server has pgvector, and which itself hasn't."""
    with DatabaseManager() as manager:
        manager.add_postgresql("main", postgresql_config).execute("DROP EXTENSION vector")
    return postgresql_config


async def test_pgvector_is_created_by_the_first_item_that_is_embedded(bare: PostgreSQLConfig) -> None:
    config = replace(bare, max_connections=1)
    with DatabaseManager() as manager:
        database = manager.add_postgresql("main", config)
        store = HoldfastStore(manager, index=INDEX)
        store.put(("m",), "plain", {"text": "a"}, index=False)
        assert keys(store.search(("m",))) == ["plain"]
        assert database.capabilities().vector is None
        with pytest.raises(ZeroDivisionError), database.transaction():
            store.put(("m",), "rolled back", {"text": "a"})
            assert keys(store.search(("m",), query="a")) == ["rolled back", "plain"]
            raise ZeroDivisionError
        assert database.fetch_value("SELECT count(*) FROM pg_extension WHERE extname = 'vector'") == 0
        store.put(("m",), "k", {"text": "a"})
        assert [(item.key, item.score) for item in store.search(("m",), query="a")] == [("k", 1.0), ("plain", None)]
        database.execute("DROP EXTENSION vector")
    async with AsyncDatabaseManager() as async_manager:
        await async_manager.add_postgresql("main", config)
        store = HoldfastStore(async_manager, index=INDEX)
        assert keys(await store.asearch(("m",), query="a")) == ["k", "plain"]


def test_without_migrate_a_missing_pgvector_is_an_error_before_anything_is_stored(bare: PostgreSQLConfig) -> None:
    with DatabaseManager() as manager:
        database = manager.add_postgresql("main", bare)
        store = HoldfastStore(manager, index=INDEX, migrate=False)
        for call in (lambda: store.put(("m",), "k", {"text": "a"}), lambda: store.search(("m",), query="a")):
            with pytest.raises(CapabilityError, match=r"main: the database .* CREATE EXTENSION vector"):
                call()
        assert store.get(("m",), "k") is None
        database.execute("CREATE EXTENSION vector")  # by somebody who may: the store goes on
        store.put(("m",), "k", {"text": "a"})
        assert keys(store.search(("m",), query="a")) == ["k"]


def test_a_role_that_may_not_create_pgvector_is_told_before_anything_is_stored(bare: PostgreSQLConfig) -> None:
    name = f"writer_{bare.database[-12:]}"
    with DatabaseManager() as manager:
        owner = manager.add_postgresql("owner", bare)
        owner.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'writer'")
        owner.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{name}"')
        database = manager.add_postgresql("main", replace(bare, username=name, password="writer"))
        store = HoldfastStore(manager, index=INDEX)
        with pytest.raises(CapabilityError, match="as a superuser run: CREATE EXTENSION vector"):
            store.put(("m",), "k", {"text": "a"})
        with database.transaction():
            with pytest.raises(CapabilityError):
                store.put(("m",), "k", {"text": "a"})
            store.put(("m",), "plain", {"text": "a"}, index=False)
        assert keys(store.search(("m",))) == ["plain"]
        manager.remove("main")
        owner.execute(f'DROP OWNED BY "{name}"')
        owner.execute(f'DROP ROLE "{name}"')


def test_each_batch_is_one_request(manager: DatabaseManager) -> None:
    store = HoldfastStore(manager, index=INDEX)
    ops: list[list[Any]] = [
        [PutOp(("a",), "k", {"text": "a"})],
        [PutOp(("a",), f"k{n}", {"text": "abc"}) for n in range(20)] + [PutOp(("a",), "k", None)],
    ]
    reads: list[Any] = [GetOp(("a",), "k1"), SearchOp(("a",)), SearchOp((), filter={"n": 1}), ListNamespacesOp()]
    if manager.names()["main"] == "postgresql":
        store.get(("a",), "k")
        ops += [[read] for read in reads]
        ops += [reads, [*reads, *ops[1]], [SearchOp(("a",), query="a")], [GetOp(("a",), "k1"), GetOp(("a",), "k2")]]
    store.search((), query="warm")
    for batch in ops:
        before = manager.stats()["main"].requests
        store.batch(batch)
        assert (batch[0], manager.stats()["main"].requests - before) == (batch[0], 1)


def test_calls_join_the_transaction_they_are_made_in(manager: DatabaseManager, database: Database) -> None:
    store = HoldfastStore(manager, index=INDEX)
    store.put(("a",), "kept", {"text": "a"})
    with pytest.raises(RuntimeError), database.transaction():
        store.put(("a",), "new", {"text": "b"})
        store.delete(("a",), "kept")
        assert keys(store.search(("a",))) == ["new"]
        raise RuntimeError
    assert keys(store.search(("a",))) == ["kept"]


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.mark.parametrize(
    ("first", "then", "batch"),
    [
        ("a", "z", [PutOp(("m",), "z", {"n": 2}), PutOp(("m",), "a", {"n": 2})]),
        ("z", "a", [PutOp(("m",), "z", None), PutOp(("m",), "a", {"n": 2})]),
        ("a", "z", [PutOp(("m",), "z", None), PutOp(("m",), "a", {"n": 2})]),
    ],
    ids=["puts", "a put first", "a delete first"],
)
def test_batches_of_the_same_items_come_through_in_whatever_order_they_meet(
    postgresql_config: PostgreSQLConfig, first: str, then: str, batch: list[Op]
) -> None:
    with DatabaseManager() as manager, DatabaseManager() as beside, ThreadPoolExecutor(1) as pool:
        database = manager.add_postgresql("main", postgresql_config)
        store = HoldfastStore(manager)
        store.batch([PutOp(("m",), key, {"n": 0}) for key in "az"])
        name = database.fetch_value("SELECT quote_ident(current_database())")
        # The other looks for a deadlock sooner, and so is the one that is undone.
        database.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '50ms'")
        beside.add_postgresql("main", postgresql_config)
        with database.transaction() as transaction:
            transaction.execute("SET LOCAL deadlock_timeout = '60s'")
            store.put(("m",), first, {"n": 1})
            other = pool.submit(HoldfastStore(beside).batch, batch)
            while not (database.fetch_apart(WAITING) or {})["count"]:
                time.sleep(0.001)
            store.put(("m",), then, {"n": 1})
        assert other.result(20) == [None, None]
        left = [op.key for op in batch if isinstance(op, PutOp) and op.value]
        assert sorted(keys(store.search(("m",), filter={"n": 2}))) == sorted(left)


def test_tenants_are_apart_and_so_is_the_shared_context(manager: DatabaseManager) -> None:
    from sessions import ContextStore

    one, other = HoldfastStore(manager), HoldfastStore(manager, tenant="other")
    context = ContextStore(manager, "main")
    one.put(("context",), "k", {"n": 1})
    other.put(("context",), "k", {"n": 2})
    context.push("k", 3)
    assert [item.value for item in one.search(())] == [{"n": 1}]
    assert [item.value for item in other.search(())] == [{"n": 2}]
    assert context.clear() == 1
    assert other.list_namespaces() == one.list_namespaces() == [("context",)]


async def test_the_async_side_does_the_same(async_manager: AsyncDatabaseManager) -> None:
    index: Any = {"dims": len(LETTERS), "embed": aembed, "fields": ["text"]}
    store = HoldfastStore(async_manager, index=index, ttl={"default_ttl": 5})
    await store.aput(("m",), "a", {"text": "aaab"})
    await store.aput(("m",), "b", {"text": "b"})
    await store.aput(("m",), "gone", {"text": "b"}, ttl=0)
    item = await store.aget(("m",), "a")
    assert item is not None
    assert item.value == {"text": "aaab"}
    assert keys(await store.asearch(("m",), query="b")) == ["b", "a"]
    assert await store.alist_namespaces(prefix=("m",)) == [("m",)]
    answers = await store.abatch([GetOp(("m",), "b"), PutOp(("m",), "b", None), SearchOp(("m",), filter={"text": "b"})])
    assert (keys([answers[0]]), keys(answers[2])) == (["b"], ["b"])
    assert keys(await store.asearch(("m",))) == ["a"]
    assert await store.asweep_ttl() == 1
    database: AsyncDatabase = async_manager.get_database("main")
    assert await database.fetch_value("SELECT count(*) FROM holdfast_item_vectors") == 1


async def test_a_thousand_calls_at_once_wait_for_each_other(async_manager: AsyncDatabaseManager) -> None:
    store = HoldfastStore(async_manager)
    await asyncio.gather(*[store.aput(("m", str(n % 7)), str(n), {"n": n}) for n in range(500)])
    found = await asyncio.gather(*[store.aget(("m", str(n % 7)), str(n)) for n in range(500)])
    assert [item and item.value for item in found] == [{"n": n} for n in range(500)]
    async with async_manager.get_database("main").transaction():
        others = [asyncio.create_task(store.aget(("m", "0"), "0")) for _ in range(20)]
        await store.aput(("m", "0"), "0", {"n": -1})
        assert [item and item.value for item in await asyncio.gather(*others)] == [{"n": 0}] * 20
    assert (await store.asearch(("m",), filter={"n": -1}))[0].key == "0"


def test_a_side_that_is_not_there_says_how_to_open_it(manager: DatabaseManager) -> None:
    with pytest.raises(CapabilityError, match="async with"):
        HoldfastStore(manager).abatch([]).send(None)  # type: ignore[attr-defined]
    with pytest.raises(CapabilityError, match="DatabaseManager"):
        HoldfastStore().get(("a",), "k")
    with pytest.raises(CapabilityError):
        HoldfastStore().sweep_ttl()
    with pytest.raises(ValidationError):
        HoldfastStore(manager, manager)
    with pytest.raises(ValidationError):
        HoldfastStore("main")  # type: ignore[arg-type]


async def test_a_store_from_a_url_opens_and_closes_both_sides(tmp_path: Path) -> None:
    store = HoldfastStore.from_url(f"sqlite:///{tmp_path}/a.db")
    with store:
        store.put(("a",), "k", {"n": 1})
        with pytest.raises(ValidationError, match="open already"):
            store.__enter__()
        async with store:
            with pytest.raises(ValidationError, match="open already"):
                await store.__aenter__()
            item = await store.aget(("a",), "k")
            assert item is not None
            assert item.value == {"n": 1}
        with pytest.raises(ClosedError):
            await store.aget(("a",), "k")
    with pytest.raises(ClosedError):
        store.get(("a",), "k")
    with store:
        assert store.get(("a",), "k") is not None


def test_a_store_from_a_url_opens_on_one_loop_after_another(tmp_path: Path) -> None:
    store = HoldfastStore.from_url(f"sqlite:///{tmp_path}/a.db")

    async def put() -> int:
        async with store:
            await asyncio.gather(*[store.aput(("m",), str(n), {"n": n}) for n in range(20)])
            return len(await store.asearch(("m",), limit=100))

    assert [asyncio.run(put()) for _ in range(2)] == [20, 20]


class State(TypedDict):
    said: str
    remembered: list[str]


def test_a_graph_remembers_across_threads_and_restarts(url: PostgreSQLConfig | SQLiteConfig) -> None:
    def node(state: State, *, store: BaseStore) -> dict[str, Any]:
        before = sorted(item.value["said"] for item in store.search(("memories", "ada")))
        store.put(("memories", "ada"), state["said"], {"said": state["said"]})
        return {"remembered": before}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    remembered = []
    for said in ("figs", "dates", "plums"):
        with DatabaseManager() as manager:
            manager.add_sqlite("main", url) if isinstance(url, SQLiteConfig) else manager.add_postgresql("main", url)
            graph = builder.compile(store=HoldfastStore(manager))
            remembered.append(graph.invoke({"said": said, "remembered": []})["remembered"])
    assert remembered == [[], ["figs"], ["dates", "figs"]]
