"""The checkpointer with Redis in front of PostgreSQL: the contract, what comes from where, and every fault of Redis."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio

from checkpoint import AsyncCachedCheckpointer, AsyncDatabaseCheckpointer, CacheStats, Checkpoint
from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncRedisConnection,
    Cipher,
    ClosedError,
    CorruptError,
    PostgreSQLConfig,
    RedisConfig,
    SQLiteConfig,
    UnknownConnectionError,
    ValidationError,
    WrongKindError,
)
from tests._async import test_checkpoint_history, test_checkpoint_retention, test_checkpointer
from tests._async.checkpoints import refs_in
from tests._async.side import together
from tests.servers import TestServers

pytestmark = pytest.mark.tables("checkpoint")

LONG = "word " * 3000
STATE = {"messages": [f"message {n} " * 9 for n in range(40)], "document": LONG, "notes": "x" * 700, "n": 0}


PATIENT = 10.0
"""A ``timeout`` that a busy machine keeps to, in seconds."""


class Forgetful(AsyncCachedCheckpointer):
    """Loads as a process does that has not seen the thread before."""

    def __init__(self, *connections: Any, timeout: float = PATIENT, **options: Any) -> None:
        super().__init__(*connections, timeout=timeout, **options)

    async def _load(self, thread_id: str, version: Any, key: Any, namespace: str, writes: bool) -> Any:
        self._bases.drop((thread_id, namespace))
        return await super()._load(thread_id, version, key, namespace, writes)


@pytest_asyncio.fixture
async def main(manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig) -> AsyncDatabase:
    return await manager.add_postgresql("main", postgresql_config)


@pytest_asyncio.fixture
async def redis(manager: AsyncDatabaseManager, main: AsyncDatabase, redis_config: RedisConfig) -> AsyncRedisConnection:
    return await manager.add_redis("cache", redis_config)


@pytest_asyncio.fixture
async def checkpointer(manager: AsyncDatabaseManager, redis: AsyncRedisConnection) -> AsyncIterator[Forgetful]:
    """An empty checkpointer that takes every latest from Redis, if that has it."""
    async with Forgetful(manager, "main", "cache") as made:
        yield made
        assert made.stats().errors == 0


def contract_of(module: ModuleType) -> dict[str, Any]:
    """Return the tests of a module that ask for a checkpointer and nothing else."""
    named = module.__name__.rpartition("_")[2]
    return {
        name.replace("test_", f"test_{named}_", 1): test
        for name, test in vars(module).items()
        if name.startswith("test_") and [*inspect.signature(test).parameters][:1] == ["checkpointer"]
    }


for _module in (test_checkpointer, test_checkpoint_history, test_checkpoint_retention):
    globals().update(contract_of(_module))


def test_the_contract_is_run_here() -> None:
    """It is found by the name of its fixture."""
    for module in (test_checkpointer, test_checkpoint_history, test_checkpoint_retention):
        assert len(contract_of(module)) > 5


@pytest_asyncio.fixture
async def another(manager: AsyncDatabaseManager, redis: AsyncRedisConnection) -> AsyncIterator[AsyncCachedCheckpointer]:
    """A second checkpointer on the same two servers, which remembers nothing of the first one's."""
    async with AsyncCachedCheckpointer(manager, "main", "cache", timeout=PATIENT) as made:
        yield made


async def entry(redis: AsyncRedisConnection) -> dict[bytes, bytes]:
    """Return the one entry that Redis has."""
    keys = await redis.client.keys("*")
    assert len(keys) == 1
    found: dict[bytes, bytes] = await redis.client.execute_command("HGETALL", keys[0])
    return found


async def without_blocks(database: AsyncDatabase) -> None:
    """Take every block out of PostgreSQL, so that who needs it to send one gets an error."""
    await database.execute("UPDATE holdfast_checkpoints SET data = NULL")
    await database.execute("DELETE FROM holdfast_checkpoint_blocks")


# What comes from where


async def test_saves_that_share_a_commit_are_cached_without_their_secrets(
    manager: AsyncDatabaseManager, checkpointer: Forgetful, main: AsyncDatabase
) -> None:
    options: dict[str, Any] = {"group_commit": True, "secrets": "redact"}
    async with AsyncCachedCheckpointer(manager, "main", "cache", timeout=PATIENT, **options) as grouped:
        for n in range(24):
            await grouped.save_checkpoint(Checkpoint(f"t{n}", STATE))
        before = manager.stats()["main"].requests
        saves = [Checkpoint(f"t{n}", {**STATE, "n": n, "login": "password=Hunter-77"}) for n in range(24)]
        await together(*[partial(grouped.save_checkpoint, each) for each in saves])
        assert manager.stats()["main"].requests - before < 24
        assert grouped.stats().stores == 48
    await without_blocks(main)
    for n in range(24):
        found = await checkpointer.load_checkpoint(f"t{n}")
        assert found.state == {**STATE, "n": n, "login": "password=[REDACTED password]"}


async def test_a_process_that_has_not_seen_the_thread_gets_its_blocks_from_redis(
    checkpointer: Forgetful, main: AsyncDatabase
) -> None:
    saved = await checkpointer.save_checkpoint(Checkpoint("t", STATE))
    await without_blocks(main)
    assert await checkpointer.load_checkpoint("t") == saved
    assert checkpointer.stats() == CacheStats(hits=1, stores=1)


async def test_a_load_that_missed_fills_redis_for_the_next(
    checkpointer: Forgetful, manager: AsyncDatabaseManager, main: AsyncDatabase
) -> None:
    saved = await AsyncDatabaseCheckpointer(manager, "main").save_checkpoint(Checkpoint("t", STATE))
    assert await checkpointer.load_checkpoint("t") == saved
    assert checkpointer.stats() == CacheStats(misses=1, stores=1)
    await without_blocks(main)
    assert await checkpointer.load_checkpoint("t") == saved
    assert checkpointer.stats() == CacheStats(hits=1, misses=1, stores=1)


async def test_each_save_brings_redis_forward_and_only_what_the_latest_needs_stays_there(
    checkpointer: Forgetful, another: AsyncCachedCheckpointer, main: AsyncDatabase, redis: AsyncRedisConnection
) -> None:
    state = {**STATE, "messages": []}
    for n in range(60):
        state = {**state, "messages": [*state["messages"], f"message {n} " * 12], "n": n}  # type: ignore[misc]
        saved = await another.save_checkpoint(Checkpoint("t", state))
    row = await main.fetch_one(
        "SELECT h.stamp, c.version, c.refs FROM holdfast_checkpoint_threads AS h JOIN holdfast_checkpoints AS c"
        " ON c.version = h.latest"
    )
    assert row is not None
    found = await entry(redis)
    assert found.pop(b"stamp") == b"%d" % row["stamp"]
    assert sorted(found) == sorted(b"%d.%d" % (row["version"] - (ref >> 8), ref & 255) for ref in refs_in(row["refs"]))
    stored = await main.fetch_all(
        "SELECT version, 0 AS ordinal, data FROM holdfast_checkpoints"
        " UNION ALL SELECT version, ordinal, data FROM holdfast_checkpoint_blocks",
        binary=True,
    )
    blocks = {b"%d.%d" % (each["version"], each["ordinal"]): each["data"] for each in stored}
    assert found == {field: bytes(blocks[field]) for field in found}
    assert another.stats() == CacheStats(stores=60)
    await without_blocks(main)
    assert await checkpointer.load_checkpoint("t") == saved


async def test_what_another_saved_beside_redis_is_seen_at_once(
    checkpointer: Forgetful, manager: AsyncDatabaseManager
) -> None:
    """As when a writer dies between its commit and Redis."""
    beside = AsyncDatabaseCheckpointer(manager, "main")
    for n in range(5):
        await checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": n}))
        saved = await beside.save_checkpoint(Checkpoint("t", {**STATE, "n": -n, "document": LONG[::-1]}))
        assert await checkpointer.load_checkpoint("t") == saved
    await beside.delete_checkpoint("t", 10)
    assert (await checkpointer.load_checkpoint("t")).version == 9
    await beside.rewind("t", 2)
    assert (await checkpointer.load_checkpoint("t")).state == {**STATE, "n": 0, "document": LONG[::-1]}
    await beside.delete_thread("t")
    assert await checkpointer.latest("t") is None
    again = await beside.save_checkpoint(Checkpoint("t", {"document": "another " * 99}))
    assert await checkpointer.load_checkpoint("t") == again


async def test_a_database_that_was_put_back_is_read_as_it_is_now(checkpointer: Forgetful, main: AsyncDatabase) -> None:
    tables = ("holdfast_checkpoint_threads", "holdfast_checkpoints", "holdfast_checkpoint_blocks")
    older = await checkpointer.save_checkpoint(Checkpoint("t", STATE))
    for table in tables:
        await main.execute(f"CREATE TABLE {table}_then AS TABLE {table}")
    for n in range(1, 4):
        await checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": n, "document": f"future {n} " * 500}))
    await main.execute("DELETE FROM holdfast_checkpoint_threads")
    await main.execute("DELETE FROM holdfast_checkpoint_blocks")
    await main.execute("DELETE FROM holdfast_checkpoints")
    for table in tables:
        await main.execute(f"INSERT INTO {table} SELECT * FROM {table}_then")
    assert await checkpointer.load_checkpoint("t") == older
    # The same versions again, with other contents: nothing of the lost future may come back.
    for n in range(1, 4):
        saved = await checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "n": n, "document": f"now {n} " * 500}))
        assert saved.version == n + 1
        assert await checkpointer.load_checkpoint("t") == saved


async def test_each_call_is_one_request_to_each_server(
    checkpointer: Forgetful, another: AsyncCachedCheckpointer, manager: AsyncDatabaseManager
) -> None:
    await checkpointer.save_checkpoint(Checkpoint("t", STATE))
    await another.load_checkpoint("t")
    links = [checkpointer._link, another._link]

    def requests() -> tuple[int, int]:
        return manager.stats()["main"].requests, sum(link.requests for link in links if link is not None)

    for call, expected in (
        (lambda: checkpointer.load_checkpoint("t"), (1, 1)),  # a hit
        (lambda: another.load_checkpoint("t"), (1, 0)),  # it has the state
        (lambda: checkpointer.load_checkpoint("t", 1), (1, 0)),  # a version is never asked of Redis
        (lambda: checkpointer.list_checkpoints("t", states=True), (1, 0)),
        (lambda: another.save_checkpoint(Checkpoint("t", {**STATE, "n": 1})), (1, 1)),
        (lambda: checkpointer.put_writes("t", "k", "task", [("a", 1)]), (1, 0)),
    ):
        before = requests()
        await call()  # type: ignore[no-untyped-call]
        assert tuple(after - then for after, then in zip(requests(), before, strict=True)) == expected
    assert manager.stats()["cache"].requests == 0


async def test_a_state_that_is_small_or_too_large_is_not_kept(
    manager: AsyncDatabaseManager, redis: AsyncRedisConnection
) -> None:
    async with Forgetful(manager, "main", "cache", max_bytes=2000) as checkpointer:
        for state in ({"n": 1, "text": "short"}, {"large": [f"{n}" * 7 for n in range(2000)]}):
            saved = await checkpointer.save_checkpoint(Checkpoint("t", state))
            assert await checkpointer.load_checkpoint("t") == saved
            assert await redis.client.keys("*") == []
        grown: list[str] = []
        for n in range(100):
            grown = [*grown, f"{n} and so on " * 2]
            saved = await checkpointer.save_checkpoint(Checkpoint("grows", {"items": grown}))
            assert sum(map(len, (await redis.client.keys("*")) and (await entry(redis)).values())) < 2100
        assert await checkpointer.load_checkpoint("grows") == saved


async def test_what_is_deleted_goes_from_redis_too(checkpointer: Forgetful, redis: AsyncRedisConnection) -> None:
    for namespace in ("", "sub"):
        await checkpointer.save_checkpoint(Checkpoint("t", STATE, namespace=namespace))
    await checkpointer.save_checkpoint(Checkpoint("other", STATE))
    assert len(await redis.client.keys("*")) == 3
    assert await checkpointer.delete_thread("t") == 2
    assert len(await redis.client.keys("*")) == 1
    assert await checkpointer.delete_checkpoint("other", 1)
    assert await redis.client.keys("*") == []


async def test_an_entry_expires(manager: AsyncDatabaseManager, redis: AsyncRedisConnection) -> None:
    async with AsyncCachedCheckpointer(manager, "main", "cache", timeout=PATIENT, ttl=1000) as checkpointer:
        await checkpointer.save_checkpoint(Checkpoint("t", STATE))
        (key,) = await redis.client.keys("*")
        assert 990_000 < await redis.client.pttl(key) <= 1_000_000


async def test_what_a_transaction_undid_is_never_read(
    checkpointer: Forgetful, another: AsyncCachedCheckpointer, main: AsyncDatabase
) -> None:
    saved = await checkpointer.save_checkpoint(Checkpoint("t", STATE))
    with pytest.raises(ZeroDivisionError):
        async with main.transaction():
            inside = await checkpointer.save_checkpoint(Checkpoint("t", {**STATE, "document": LONG[::-1]}))
            assert await checkpointer.load_checkpoint("t") == inside
            assert (await another.load_checkpoint("t")) == inside
            raise ZeroDivisionError
    assert await checkpointer.load_checkpoint("t") == saved
    assert await another.load_checkpoint("t") == saved
    assert checkpointer.stats().stores == 1


async def test_tenants_with_equal_ids_never_meet(manager: AsyncDatabaseManager, redis: AsyncRedisConnection) -> None:
    async with Forgetful(manager, "main", "cache", tenant="a") as a, Forgetful(manager, "main", "cache") as b:
        for n, each in enumerate((a, b)):
            await each.save_checkpoint(Checkpoint("t", {**STATE, "n": n}))
        assert [(await each.load_checkpoint("t")).state["n"] for each in (a, b)] == [0, 1]
        assert [each.stats().hits for each in (a, b)] == [1, 1]
    assert len(await redis.client.keys("*")) == 2


async def test_with_a_cipher_redis_has_nothing_that_can_be_read(
    manager: AsyncDatabaseManager, redis: AsyncRedisConnection, main: AsyncDatabase
) -> None:
    old, new = Cipher({"old": b"o" * 32}, "old"), Cipher({"old": b"o" * 32, "new": b"n" * 32}, "new")
    canary = {"word": "canary " * 9, "words": ["canary " * 90] * 3, "noise": [f"canary {n}" for n in range(300)]}
    async with Forgetful(manager, "main", "cache", cipher=old) as checkpointer:
        await checkpointer.save_checkpoint(Checkpoint("t", canary))
        saved = await checkpointer.save_checkpoint(Checkpoint("t", {**canary, "n": 1, "more": "canary " * 99}))
        found = await entry(redis)
        assert len(found) > 1
        assert not any(b"canary" in part for part in (*found.keys(), *found.values()))
        assert await checkpointer.load_checkpoint("t") == saved
        assert checkpointer.stats().hits == 1
    async with Forgetful(manager, "main", "cache", cipher=new) as checkpointer:
        await checkpointer.rotate_keys()
    only_new = Cipher({"new": b"n" * 32}, "new")
    async with Forgetful(manager, "main", "cache", cipher=only_new) as checkpointer:
        for _ in range(2):
            assert await checkpointer.load_checkpoint("t") == saved
        assert checkpointer.stats().hits == 1


async def test_damaged_refs_are_told_with_their_checkpoint_whoever_has_its_blocks(
    checkpointer: Forgetful, another: AsyncCachedCheckpointer, main: AsyncDatabase, redis: AsyncRedisConnection
) -> None:
    await checkpointer.save_checkpoint(Checkpoint("t", STATE))
    assert await entry(redis)
    await main.execute("UPDATE holdfast_checkpoints SET refs = '0,NULL'")
    for reader in (checkpointer, another):
        with pytest.raises(CorruptError, match="checkpoint 1 of thread 't': its refs are damaged"):
            await reader.load_checkpoint("t")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "no stamp", "another type"])
async def test_damaged_bytes_in_redis_are_noticed_and_replaced(
    checkpointer: Forgetful, redis: AsyncRedisConnection, damage: str
) -> None:
    saved = await checkpointer.save_checkpoint(Checkpoint("t", STATE))
    (key,) = await redis.client.keys("*")
    field, block = max((await entry(redis)).items(), key=lambda item: len(item[1]))
    if damage == "flipped":
        middle = len(block) // 2
        await redis.client.hset(key, field, block[:middle] + bytes([block[middle] ^ 1]) + block[middle + 1 :])
    elif damage == "cut":
        await redis.client.hset(key, field, block[:-1])
    elif damage == "gone":
        await redis.client.hdel(key, field)
    elif damage == "no stamp":
        await redis.client.hdel(key, "stamp")
    else:
        await redis.client.set(key, "a text")
    assert await checkpointer.load_checkpoint("t") == saved
    if damage == "another type":
        assert checkpointer.stats().errors == 1
        checkpointer._stats = replace(checkpointer._stats, errors=0)
        return
    before = checkpointer.stats().hits
    assert await checkpointer.load_checkpoint("t") == saved
    assert checkpointer.stats().hits == before + 1


# Bad input


async def test_connections_of_other_kinds_are_refused(
    manager: AsyncDatabaseManager, redis: AsyncRedisConnection
) -> None:
    await manager.add_sqlite("file", SQLiteConfig(path=":memory:"))
    with pytest.raises(WrongKindError):
        AsyncCachedCheckpointer(manager, "file", "cache")
    with pytest.raises(WrongKindError):
        AsyncCachedCheckpointer(manager, "main", "main")
    with pytest.raises(UnknownConnectionError):
        AsyncCachedCheckpointer(manager, "main", "nowhere")


async def test_bad_options_are_refused(manager: AsyncDatabaseManager, redis: AsyncRedisConnection) -> None:
    bad: Any
    for bad in (
        *({"ttl": value} for value in (0, -1, float("nan"), float("inf"), "1h", None)),
        *({"timeout": value} for value in (0, True, -0.1)),
        *({"max_bytes": value} for value in (-1, 1.5, None)),
        {"tenant": ""},
        {"durability": "never"},
    ):
        with pytest.raises(ValidationError):
            AsyncCachedCheckpointer(manager, "main", "cache", **bad)


async def test_a_closed_manager_says_so_and_a_redis_put_in_place_of_another_is_used(
    manager: AsyncDatabaseManager, checkpointer: Forgetful, redis: AsyncRedisConnection, servers: TestServers
) -> None:
    await checkpointer.save_checkpoint(Checkpoint("t", STATE))
    another = servers.fresh_redis()
    new = await manager.add_redis("cache", another, replace=True)
    await checkpointer.load_checkpoint("t")
    assert len(await new.client.keys("*")) == 1
    await manager.aclose()
    with pytest.raises(ClosedError):
        await checkpointer.load_checkpoint("t")
    with pytest.raises(ClosedError):
        await checkpointer.save_checkpoint(Checkpoint("t", STATE))
    checkpointer._stats = replace(checkpointer._stats, errors=0)
    servers.release_redis(another)
