"""One pool for commands and for what redis-py borrows from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from persistence import (
    AsyncDatabaseManager,
    NestedCheckoutError,
    PoolTimeoutError,
    QueryError,
    RedisConfig,
    StatementEvent,
)
from persistence._async.redis import AsyncRedisConnection
from tests._async.side import elsewhere


async def _single(
    manager: AsyncDatabaseManager, config: RedisConfig, name: str = "cache", **options: Any
) -> AsyncRedisConnection:
    return await manager.add_redis(name, replace(config, pool_size=1, min_idle_connections=1, **options))


async def test_commands_and_pipelines_take_turns_on_one_connection(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    cache = await _single(manager, redis_config)
    ours = await cache.client.client_id()
    for number in range(3):
        await cache.client.set("k", number)
        async with cache.client.pipeline() as pipe:
            pipe.get("k")
            pipe.client_id()
            assert await pipe.execute() == [str(number).encode(), ours]
        assert await cache.client.client_id() == ours
    stats = cache.stats()
    assert (stats.open, stats.in_use, stats.opened, stats.discarded) == (1, 0, 1, 0)


async def test_what_redis_py_holds_counts_towards_the_pool(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    cache = await _single(manager, redis_config, pool_timeout=0.05)
    events: list[StatementEvent] = []
    manager.on_statement.append(events.append)
    other: Any = cache.client.pipeline().get("k")
    async with cache.client.pipeline() as pipe:
        await pipe.watch("k")
        assert cache.stats().in_use == 1
        for call in (lambda: cache.client.get("k"), other.execute):
            with pytest.raises(NestedCheckoutError, match="cache: a connection is needed by who has one already"):
                await call()  # who has it would wait for itself
            with pytest.raises(PoolTimeoutError, match="cache: all 1 connections stayed in use"):
                await elsewhere(call)
    assert await cache.client.get("k") is None
    assert (cache.errors, cache.stats().in_use) == (4, 0)
    refused = [NestedCheckoutError, PoolTimeoutError]
    assert [type(event.error) for event in events] == [*refused, *refused, type(None)]


async def test_a_subscription_of_redis_py_leaves_nothing_to_the_next_command(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    cache = await _single(manager, redis_config)
    subscription = cache.client.pubsub()
    await subscription.subscribe("news")
    assert cache.stats().in_use == 1
    await subscription.aclose()  # type: ignore[no-untyped-call]
    assert await cache.client.publish("news", "nobody hears it") == 0
    assert await cache.client.get("k") is None
    assert (cache.stats().open, cache.stats().in_use) == (1, 0)


async def test_a_large_answer_comes_back_whole(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> None:
    cache = await _single(manager, redis_config)
    value = bytes(range(256)) * 12_000
    await cache.client.set("big", value)
    assert await cache.client.get("big") == value
    await cache.client.rpush("parts", *[value[:70_000]] * 20)
    assert await cache.client.lrange("parts", 0, -1) == [value[:70_000]] * 20
    assert cache.stats().opened == 1


async def test_redis_py_reads_into_answers_what_it_reads_into_its_own(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    client = (await _single(manager, redis_config)).client
    await client.hset("h", mapping={"a": 1, "b": "x"})
    await client.zadd("z", {"m": 1.5})
    assert await client.hgetall("h") == {b"a": b"1", b"b": b"x"}
    assert await client.zscore("z", "m") == 1.5
    assert await client.mget([]) == []
    assert await client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert (await client.info("server"))["redis_mode"] == "standalone"
    with pytest.raises(QueryError, match="unknown command"):
        await client.execute_command("NOTHING", "such")
    async with client.pipeline(transaction=False) as pipe:
        pipe.get("k")
        pipe.lpush("h", "x")
        pipe.get("k")
        found = await pipe.execute(raise_on_error=False)
    assert (found[0], type(found[1]).__name__, found[2]) == (None, "ResponseError", None)
