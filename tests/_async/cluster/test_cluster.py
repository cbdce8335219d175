"""What a cluster does besides the contracts: nodes, slots, turns, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint
from persistence import (
    AsyncDatabaseManager,
    AsyncKeyValueStore,
    AsyncTenantData,
    ClosedError,
    ConnectError,
    ErasedTable,
    PoolTimeoutError,
    QueryError,
    RedisConfig,
    StatementEvent,
    UnavailableError,
)
from persistence.scripts import script_of
from tests._async.side import Started, sleep, together


async def test_keys_of_every_slot_are_found(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> None:
    cache = await manager.add_redis("cache", redis_config)
    for number in range(40):
        assert await cache.client.set(f"k{number}", number, ex=100)
    assert [await cache.client.get(f"k{number}") for number in range(40)] == [str(n).encode() for n in range(40)]
    assert {key async for key in cache.client.scan_iter(match="k*", count=1000)} == {
        f"k{number}".encode() for number in range(40)
    }
    stats = cache.stats()
    assert (stats.requests >= 80, stats.errors, stats.in_use, stats.max_open) == (True, 0, 0, redis_config.pool_size)
    assert (await cache.capabilities()).version_text == cache.server_version
    await manager.add_redis("lazy", redis_config, lazy=True)
    statuses = await manager.health_check()
    assert statuses["cache"].healthy
    assert statuses["lazy"].server_version == cache.server_version


async def test_the_keys_of_a_tenant_go_from_every_node(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    await manager.add_redis("cache", redis_config)
    values = {
        tenant: [AsyncKeyValueStore(manager, "cache", namespace=f"n{number}", tenant=tenant) for number in range(20)]
        for tenant in ("acme", "other")
    }
    for number in range(20):
        for tenant in values:
            await values[tenant][number].put("k", number)
    erasing = AsyncTenantData(manager, "cache", tenant="acme")
    gone = (ErasedTable("kv", 40),)
    assert [await erasing.erase_tenant(dry_run=True), await erasing.erase_tenant()] == [gone, gone]
    assert await erasing.erase_tenant() == ()
    assert [await each.get("k") for each in values["acme"]] == [None] * 20
    assert [await each.get("k") for each in values["other"]] == [*range(20)]


async def test_a_pipeline_is_atomic_on_one_slot_and_goes_to_many_otherwise(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    cache = await manager.add_redis("cache", redis_config)
    async with cache.client.pipeline(transaction=True) as pipe:
        pipe.incr("{t}n")
        pipe.incr("{t}n")
        assert await pipe.execute() == [1, 2]
    before = cache.requests
    async with cache.client.pipeline(transaction=False) as pipe:
        for number in range(20):
            pipe.incr(f"n{number}")
        assert await pipe.execute() == [1] * 20
    assert cache.requests - before == 1


async def test_errors_are_ours(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> None:
    cache = await manager.add_redis("cache", redis_config)
    await cache.client.set("text", "x")
    with pytest.raises(QueryError, match="WRONGTYPE") as caught:
        await cache.client.lpush("text", "y")
    assert (caught.value.connection, caught.value.code) == ("cache", "WRONGTYPE")
    with pytest.raises(QueryError, match="slot"):
        await cache.run_script(script_of("return redis.call('MSET', KEYS[1], 1, KEYS[2], 2)"), ["a", "b"])
    with pytest.raises(QueryError):
        async with cache.client.pipeline(transaction=False) as pipe:
            pipe.lpush("text", "y")
            await pipe.execute()
    assert await cache.client.get("text") == b"x"
    await cache.aclose()
    await cache.aclose()
    for call in (lambda: cache.client.get("text"), lambda: cache.ping()):
        with pytest.raises(ClosedError, match="cache: it was closed"):
            await call()


async def test_callers_wait_for_their_turn(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> None:
    cache = await manager.add_redis("cache", replace(redis_config, pool_size=2))

    async def work(number: int) -> bytes | None:
        await cache.client.set(f"k{number}", number)
        return await cache.client.get(f"k{number}")

    answers = await together(*[lambda number=number: work(number) for number in range(30)])
    assert answers == [str(number).encode() for number in range(30)]
    cache = await manager.add_redis("cache", replace(redis_config, pool_size=2, pool_timeout=0.05), replace=True)
    waiting = [Started(lambda number=number: cache.client.blpop(f"nothing{number}", 0.4)) for number in range(2)]
    while cache.stats().in_use < 2:
        await sleep(0.002)
    errors = cache.stats().errors
    events: list[StatementEvent] = []
    manager.on_statement.append(events.append)
    with pytest.raises(PoolTimeoutError) as caught:
        await cache.client.get("k1")
    assert cache.stats().errors == errors + 1
    assert [(event.statement, event.error) for event in events] == [("GET", caught.value)]
    manager.on_statement.clear()
    assert [await each.result() for each in waiting] == [None, None]
    assert await cache.client.get("k1") == b"1"


async def test_a_cluster_that_is_not_there_is_an_error_where_it_is_added(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    gone = replace(redis_config, nodes=("127.0.0.1:1", "127.0.0.1:2"))
    with pytest.raises(ConnectError, match=r"Redis at the cluster of 127\.0\.0\.1:1,127\.0\.0\.1:2"):
        await manager.add_redis("gone", gone)
    lazy = await manager.add_redis("lazy", gone, lazy=True)
    with pytest.raises(UnavailableError):
        await lazy.client.get("k")
    with pytest.raises(ConnectError):
        await manager.add_redis("wrong", replace(redis_config, password="wrong"))
    assert not (await manager.health_check())["lazy"].healthy


async def test_two_tenants_threads_lie_on_several_nodes_and_all_are_listed(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    cache = await manager.add_redis("main", redis_config)
    stored = AsyncDatabaseCheckpointer(manager, "main")
    names = [f"t{number}" for number in range(12)]
    for name in names:
        await stored.save_checkpoint(Checkpoint(name, {"name": name}))
    nodes = {cache.client.get_node_from_key(f"holdfast:{{default:{name}}}").name for name in names}  # type: ignore[attr-defined]
    assert len(nodes) > 1
    assert [found.thread_id for found in await stored.list_threads()] == sorted(names)
